"""LorentzNet against the published formula in eager PyTorch, side by side; writes JSON and prints a table.

python -m bench.lorentznet --out bench/results/lorentznet.json

Interleaved repetitions, medians. Results are compared first, and nothing is timed where they disagree. Peak memory is
that of a child process, above what it had before the first step.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import equikernels as ek
from equikernels import baselines
from equikernels.info import cpu_name
from equikernels.process import above, memory, reset_peak

from .ceilings import copy_bandwidth, multiply_adds

WIDTH, LAYERS = 72, 6
Call = Callable[[], Any]


class Sides:
    """The same jets and weights for both: ours packed, the published formula padded."""

    def __init__(self, jets: int | None) -> None:
        sample = ek.data.load_sample_jets()
        if jets is None:  # one jet, of the mean multiplicity
            count = sample.ptr.diff().double()
            typical = int((count - count.mean()).abs().argmin())
            sample = sample[typical : typical + 1]
        else:
            sample = sample[:jets]
        self.x, self.ptr, is_beam = ek.data.with_beams(sample.p4, sample.ptr)
        self.scalars = ek.data.top_tagging_scalars(self.x, is_beam)
        self.label = sample.label.long()
        self.graph = ek.Graph.complete(self.ptr)
        self.edges = self.graph.num_edges
        self.padded = baselines.LorentzNet.padded_inputs(self.x, self.scalars, self.ptr)
        torch.manual_seed(0)
        self.ours = ek.models.LorentzNet(2, WIDTH, n_layers=LAYERS, c_weight=5e-3, readout="padded_mean")
        self.published = baselines.LorentzNet(2, WIDTH, n_layers=LAYERS, c_weight=5e-3)
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        if side == "published":
            return self.published(*self.padded)
        return self.ours(self.x, self.scalars, self.graph, padded_to=self.padded[-1])

    def model(self, side: str) -> nn.Module:
        return self.published if side == "published" else self.ours

    def forward(self, side: str) -> Tensor:
        self.model(side).eval()
        with torch.inference_mode():
            return self.logits(side)

    def step(self, side: str) -> None:
        model = self.model(side).train()
        model.zero_grad(set_to_none=True)
        F.cross_entropy(self.logits(side), self.label).backward()

    @torch.inference_mode()
    def kernel(self) -> None:
        """The fused op of the first block alone, on tables of its sizes."""
        block: Any = self.ours.LGEBs[0]
        tables = torch.randn(2, self.x.shape[0], WIDTH, generator=torch.Generator().manual_seed(0))
        ek.message_passing(
            tables[0],
            tables[1],
            self.x,
            self.graph,
            invariant_weight=block.phi_e[0].weight[:, -2:],
            layers=[(block.phi_e[3].weight, block.phi_e[3].bias)],
            gate=(block.phi_m[0].weight, block.phi_m[0].bias),
            head=(block.phi_x[0].weight, block.phi_x[0].bias, block.phi_x[2].weight),
            clamp=100.0,
        )

    def agree(self) -> float:
        """Largest difference of logits over the largest logit, eval; raises where it is no rounding."""
        self.ours.load_state_dict(self.published.state_dict())  # training steps have moved the running statistics
        ours, published = self.forward("equikernels"), self.forward("published")
        difference = ((ours - published).abs().max() / published.abs().max()).item()
        if not difference < 1e-4:
            raise SystemExit(f"logits differ by {difference:.2e} of the largest: no speed-up is reported")
        return difference


def interleaved(a: Call, b: Call, rounds: tuple[int, int]) -> tuple[list[float], list[float]]:
    """Seconds of each call: some of a for each b, in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    a(), b()
    for _ in range(rounds[1]):
        for _ in range(rounds[0]):
            times[0].append(_clock(a))
        times[1].append(_clock(b))
    return times


def _median(call: Call, rounds: int) -> float:
    call()
    return statistics.median(_clock(call) for _ in range(rounds))


def _clock(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def row(name: str, ours: list[float], published: list[float]) -> dict[str, Any]:
    medians = statistics.median(ours), statistics.median(published)
    return {
        "what": name,
        "equikernels_ms": 1e3 * medians[0],
        "published_ms": 1e3 * medians[1],
        "ratio": medians[1] / medians[0],
        "spread_ms": [1e3 * (max(t) - min(t)) for t in (ours, published)],
        "repetitions": [len(ours), len(published)],
    }


def peak_of_child(side: str, jets: int, threads: int) -> list[float]:
    """MiB a training step adds to a fresh process's high-water mark, and to what PyTorch's allocator holds."""
    command = [
        sys.executable,
        "-m",
        "bench.lorentznet",
        "--child",
        side,
        "--jets",
        str(jets),
        "--threads",
        str(threads),
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [float(number) for number in output.split()]


def child(side: str, jets: int) -> None:
    sides = Sides(jets)
    sides.graph.edge_index if side == "published" else sides.graph.table  # noqa: B018 (inputs, made before)
    small = Sides(1)
    small.step(side)  # libraries load and pools fill
    reset_peak()
    resident = memory("VmRSS")
    sides.step(side)
    grown = above(resident)
    assert grown is not None, "this system does not tell its peak memory"
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        sides.step(side)
    level = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    print(grown / 2**20, peak / 2**20)


def measure(jets: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    sides = Sides(jets)
    difference = sides.agree()
    sides.graph.edge_index  # noqa: B018 (the published side has its edge list ready too)
    rows = []
    peak = multiply_adds(threads)
    forward = interleaved(lambda: sides.forward("equikernels"), lambda: sides.forward("published"), (5, 3))
    rows.append(row(f"forward, {jets} jets", *forward))
    # two products of H x H on every edge, the last layer without its head
    flops = 2 * sides.edges * WIDTH * WIDTH * (2 * LAYERS - 1)
    rows[-1]["fraction_of_fma_peak"] = flops / statistics.median(forward[0]) / peak
    kernel = _median(sides.kernel, 15)
    one_layer = {"what": "fused op of one block, forward", "equikernels_ms": 1e3 * kernel}
    rows.append({**one_layer, "fraction_of_fma_peak": 4 * sides.edges * WIDTH * WIDTH / kernel / peak})
    for block in sides.ours.LGEBs:
        block.precision = "bfloat16"  # not the same numbers, by request: products on edges round their factors
    rounded = interleaved(lambda: sides.forward("equikernels"), lambda: sides.forward("published"), (5, 3))
    rows.append(row(f"forward, {jets} jets, bfloat16 products", *rounded))
    for block in sides.ours.LGEBs:
        block.precision = "full"
    step = interleaved(lambda: sides.step("equikernels"), lambda: sides.step("published"), (3, 2))
    rows.append(row(f"training step, {jets} jets", *step))
    one = Sides(None)
    one.agree()
    single = interleaved(lambda: one.forward("equikernels"), lambda: one.forward("published"), (20, 20))
    rows.append(row(f"forward, one jet of {one.x.shape[0] - 2} constituents", *single))
    if "avx2" in ek.available_isas() and ek.active_isa() != "avx2":
        isa = ek.active_isa()
        ek.set_isa("avx2")
        sides.agree()
        slower = interleaved(lambda: sides.forward("equikernels"), lambda: sides.forward("published"), (5, 2))
        rows.append(row(f"forward, {jets} jets, AVX2 kernels", *slower))
        ek.set_isa(isa)
    peaks = {side: peak_of_child(side, jets, threads) for side in ("equikernels", "published")}
    peak_memory = [
        {
            "what": what,
            **{side: peaks[side][k] for side in peaks},
            "ratio": peaks["published"][k] / peaks["equikernels"][k],
        }
        for k, what in enumerate(("process", "PyTorch's allocator"))
    ]
    return {
        "machine": {"cpu": cpu_name(), "system": platform.platform(), "isa": ek.active_isa(), "threads": threads},
        "versions": {"torch": torch.__version__, "equikernels": ek.__version__, "python": platform.python_version()},
        "ceilings": {"multiply_adds_gflops": peak / 1e9, "copy_gb_per_s": copy_bandwidth(threads) / 1e9},
        "edges": sides.edges,
        "logit_difference": difference,
        "rows": rows,
        "training_step_peak_mib": peak_memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jets", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=("equikernels", "published"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        torch.set_num_threads(options.threads)
        child(options.child, options.jets)
        return
    result = measure(options.jets, options.threads)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
