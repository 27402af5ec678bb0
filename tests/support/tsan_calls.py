"""Calls of the ops in a folder of csrc that launch every CUDA kernel in its float32 forms, for ThreadSanitizer."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from unittest import mock

import torch

import equikernels as ek

from .cases import CASES, Case, select
from .emulator import Emulator
from .tools import cotangent_for, value_and_grads
from .wide_cases import deep_case, euclid_case, everything, lorentz_case

OPS = {
    "invariants": ("pairwise_invariants",), "coordinates": ("coordinate_update",), "encode": ("encode_invariants",),
    "message_passing": ("message_passing", "row_mlp"),
    "segment": ("segment_reduce", "gather_segment_reduce", "segment_softmax"),
    "pairs": (
        "rank2_reduce", "rank2_broadcast", "rank2_mix", "linear_2to2", "linear_2to1", "linear_2to0", "linear_1to2",
        "pairwise_linear", "pairwise_network",
    ),
}  # fmt: skip
Call = Callable[[], object]


def calls_of(folder: str, emulator: Emulator) -> list[Call]:
    """Small ones first."""
    graphs = ("complete", "sparse", "large_event", "random_sparse")
    cases = [c for name in graphs for c in CASES if c.graph_name == name and c.op in OPS.get(folder, ()) and c.kernel]
    calls = [_call(c) for c in cases if not (c.id == "wide" and c.graph_name in graphs[2:])]
    return calls + {"neighbors": [_search], "encode": [_wide_rows], "message_passing": _forms(emulator)}.get(folder, [])


def _call(case: Case, within: Callable[[], AbstractContextManager[object]] = nullcontext) -> Call:
    """Forward and backward."""

    def run() -> object:
        graph, inputs = case.graph(), case.inputs(torch.float32)
        with within():
            return value_and_grads(lambda i: case.run(i, graph), inputs, cotangent_for(case.run(inputs, graph)))

    return run


def _search() -> object:
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    return ek.k_nearest(x, 34), ek.radius_graph(x, 1.0)


def _wide_rows() -> object:
    """A block takes several turns."""
    z, t = torch.randn(37, 1028, requires_grad=True), torch.rand(1028, requires_grad=True)
    return torch.autograd.grad(ek.encode_invariants(z, t).sum(), (z, t))


def _forms(emulator: Emulator) -> list[Call]:
    """Kernels for other widths than those of the list, and for graphs that fill a GPU."""

    def small_workspace() -> AbstractContextManager[object]:
        return mock.patch.dict(os.environ, EQUIKERNELS_WORKSPACE="30000")

    def large_tiles() -> AbstractContextManager[object]:
        return emulator.filled_by(0)

    rows = next(case for case in select("complete", op="row_mlp") if case.id == "narrow")
    return [
        _call(everything("complete")),
        _call(everything("sparse"), small_workspace),
        _call(lorentz_case(72, "sparse", "silu")),
        _call(rows, large_tiles),
        *(_call(euclid_case(h), large_tiles) for h in (4, 32, 48, 56)),
        _call(deep_case(), large_tiles),
        _call(deep_case()),
    ]
