"""LorentzNet in ONNX Runtime with the library of kernels, against the published code exported as it is, plain ONNX
Runtime, and PyTorch. One thread, as in experiments' programs."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import equikernels as ek

from . import lorentznet
from .ceilings import ceilings
from .plan import Entry, Plan, Row, Setting
from .side_by_side import OURS, PUBLISHED, interleaved, row, same

CONSTITUENTS = 50
NAIVE, PLAIN, FUSED = "published_onnx", "plain_onnx", "fused_pytorch"
BASELINES = (NAIVE, PLAIN, PUBLISHED, FUSED)


class Sides(lorentznet.Sides):
    """The same jets in PyTorch and in files for ONNX Runtime: one jet of 50 constituents (None), or some jets."""

    def __init__(self, jets: int | None) -> None:
        super().__init__(_one_jet() if jets is None else jets)
        self.ours.eval(), self.published.eval()
        self.files = tempfile.TemporaryDirectory()  # goes with this object
        folder = Path(self.files.name)
        ek.deploy.export_onnx(self.ours, folder / "ours.onnx", padded_to=self.padded[-1])
        scalars, x, (i, j), node_mask, slots = self.padded
        auto, rows = torch.export.Dim.AUTO, {0: torch.export.Dim.AUTO}
        torch.onnx.export(
            self.published,
            self.padded,
            folder / "published.onnx",
            dynamo=True,
            verbose=False,
            input_names=["scalars", "x", "i", "j", "node_mask", "n_nodes"],
            dynamic_shapes=(rows, rows, (rows, rows), rows, auto),
        )
        padded, self.mask = ek.unpack(self.x.float(), self.ptr)
        others, _ = ek.unpack(self.scalars, self.ptr)
        inputs = {"x": padded, "scalars": others, "mask": self.mask.float()}
        naive = {"scalars": scalars, "x": x, "i": i, "j": j, "node_mask": node_mask, "n_nodes": torch.tensor(slots)}
        self.calls: dict[str, Callable[[], Any]] = {
            OURS: _session(folder / "ours.onnx", True, inputs),
            PLAIN: _session(folder / "ours.onnx", False, inputs),
            NAIVE: _session(folder / "published.onnx", False, naive),
            PUBLISHED: lambda: self.forward(PUBLISHED),
            FUSED: lambda: self.forward(OURS),
        }

    def check(self) -> None:
        wanted = torch.as_tensor(self.calls[PUBLISHED]())
        for name, call in self.calls.items():
            same(f"logits of {name}", torch.as_tensor(call()), wanted, 1e-5)


def _one_jet() -> ek.data.Jets:
    """The first sample jet of at least 50 constituents, the hardest 50 of it."""
    sample = ek.data.load_sample_jets()
    k = int((sample.ptr.diff() >= CONSTITUENTS).nonzero()[0])
    jet = sample[k : k + 1]
    p4 = jet.p4[jet.p4[:, 1:3].norm(dim=1).argsort(descending=True)[:CONSTITUENTS]]
    return ek.data.Jets(p4, torch.tensor([0, CONSTITUENTS]), jet.label)


def _session(path: Path, library: bool, inputs: dict[str, Tensor]) -> Callable[[], np.ndarray[Any, Any]]:
    """The file's logits of these inputs, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if library:
        options.register_custom_ops_library(ek.deploy.onnxruntime_library())
    session = onnxruntime.InferenceSession(str(path), options)
    known = {given.name for given in session.get_inputs()}
    arrays = {name: t.numpy() for name, t in inputs.items() if name in known}
    return lambda: session.run(None, arrays)[0]


def plan(setting: Setting) -> Plan:
    """``quick``: 20 jets instead of 100."""
    count = 20 if setting.quick else 100
    one = functools.cache(lambda: Sides(None).prepared())
    many = functools.cache(lambda: Sides(count).prepared())

    def of(sides: Callable[[], Sides], what: str, baseline: str, rounds: tuple[int, int]) -> Row:
        def measure(what: str) -> Entry:
            calls = sides().calls
            times = interleaved(calls[OURS], calls[baseline], rounds, f"{what} / {baseline}", setting.device)
            return {**row(what, *times, baseline), "threads": 1, "gflop": 1e-9 * lorentznet.flops_of(sides().edges)}

        return Row(f"ONNX Runtime with kernels, {what}", measure, baseline)

    rows = [
        of(sides, what, baseline, rounds)
        for sides, what, rounds in ((one, f"one jet of {CONSTITUENTS}", (10, 10)), (many, f"{count} jets", (3, 2)))
        for baseline in BASELINES
    ]
    return Plan(rows, lambda: (one().check(), many().check()), about=lambda _: {"ceilings": ceilings(1)}, threads=1)
