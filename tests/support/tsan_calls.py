"""Calls of the ops in a folder of csrc that launch every CUDA kernel in its float32 forms, for ThreadSanitizer."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import equikernels as ek
from equikernels.metric import Metric

from .cases import CASES, GRAPHS, Case, select
from .emulator import Emulator
from .tools import cotangent_for, value_and_grads
from .wide_cases import batch_norm_case, deep_case, euclid_case, everything, lorentz_case

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
    more: dict[str, list[Call]] = {
        "neighbors": [partial(_search, metric, dim) for metric, dim in METRICS],
        "encode": [_wide_rows],
        "message_passing": _messages(emulator),
        "pairs": [partial(_twice, _reduced, *which) for which in REDUCED],
        "segment": [_packed_segments],
    }
    return calls + more.get(folder, [])


def _call(case: Case, within: Callable[[], AbstractContextManager[object]] = nullcontext) -> Call:
    """Forward and backward."""

    def run() -> object:
        graph, inputs = case.graph(), case.inputs(torch.float32)
        with within():
            return value_and_grads(lambda i: case.run(i, graph), inputs, cotangent_for(case.run(inputs, graph)))

    return run


METRICS: list[tuple[Metric, int]] = [
    *(("euclidean", dim) for dim in (2, 3, 4, 8)),
    ("delta_r", 4),
    *(("minkowski", dim) for dim in (4, 5)),
    *(([1.0, 2.0, -1.0, 0.5, 1.0][:dim], dim) for dim in (4, 5)),
]


def _search(metric: Metric, dim: int) -> object:
    x = torch.randn(60, dim, generator=torch.Generator().manual_seed(0))
    if dim == 4:
        x[:, 0] = 1 + x[:, 1:].norm(dim=1)  # the energy
    return [(ek.k_nearest(t, 34, metric=metric), ek.radius_graph(t, 1.0, metric=metric)) for t in (x, x.double())]


REDUCED = ((8, "sum", True), (8, "max", False), (8, "min", False), (3, "max", False))  # channels, how, weighted


def _reduced(channels: int, reduce: Any, weighted: bool) -> tuple[Tensor, Tensor]:
    graph = ek.Graph.complete(torch.tensor([0, 37, 39]))
    T = torch.randn(graph.pairs.num_edges, channels, requires_grad=True)
    weight = torch.rand(graph.num_nodes) if weighted else None
    return torch.cat(ek.rank2_reduce(T, graph, reduce, weight=weight), dim=1), T


def _twice(function: Callable[..., tuple[Tensor, Tensor]], *arguments: Any) -> object:
    """Forward, backward, and the derivative of the backward pass by the cotangent."""
    out, given = function(*arguments)
    cotangent = torch.ones_like(out, requires_grad=True)
    (grad,) = torch.autograd.grad(out, given, cotangent, create_graph=True)
    return torch.autograd.grad(grad.square().sum(), cotangent)


def _packed_segments() -> object:
    """As many channels as are read together."""
    graph = GRAPHS["random_sparse"]()
    nodes, edges = (torch.randn(rows, 8, requires_grad=True) for rows in (graph.num_nodes, graph.num_edges))
    weight = torch.rand(graph.num_edges, requires_grad=True)
    gathered = ek.gather_segment_reduce(nodes, graph, weight)
    reduced = ek.segment_reduce(ek.segment_softmax(edges, graph), graph)
    return torch.autograd.grad((gathered * reduced).sum(), (nodes, edges, weight))


def _wide_rows() -> object:
    """A block takes several turns."""
    z, t = torch.randn(37, 1028, requires_grad=True), torch.rand(1028, requires_grad=True)
    return torch.autograd.grad(ek.encode_invariants(z, t).sum(), (z, t))


def _messages(emulator: Emulator) -> list[Call]:
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
        *(_call(batch_norm_case(dim)) for dim in (2, 3, 4, 8)),
        _call(deep_case(), large_tiles),
        _call(deep_case()),
    ]
