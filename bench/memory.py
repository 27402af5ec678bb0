"""Measures peak memory: in a child process on a CPU, by PyTorch's counters on a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from equikernels.process import above, memory, reset_peak

from .clock import Call
from .side_by_side import SIDES

KEY = "training_step_peak_mib"  # of a document
TITLE = "peak memory of a training step"
WHAT = ("process", "PyTorch's allocator")


def allocated(call: Call, device: str = "cpu") -> float:
    """The most MiB that PyTorch's allocator holds during a call, above the amount before."""
    if device != "cpu":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    level = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    return peak / 2**20


def print_peaks(step: Call, small_step: Call) -> None:
    """In a child: MiB that a step adds to the process's high-water mark, and the peak of PyTorch's allocator."""
    small_step()  # libraries load and pools fill
    reset_peak()
    resident = memory("VmRSS")
    step()
    grown = above(resident)
    assert grown is not None, "this system does not tell its peak memory"
    # a step that fits into pages the process has adds none: counted as one, so that there is a ratio
    print(max(grown, PAGESIZE) / 2**20, allocated(step))


def peaks(network: str, name: str, threads: int, quick: bool) -> list[dict[str, Any]]:
    """Rows of a training step's peaks, each side in its own child process (:mod:`bench.child`)."""
    found: dict[str, list[float]] = {}
    root = Path(__file__).parents[__package__.count(".") + 1]  # from there the child imports this package, no other
    for side in SIDES:
        command = [sys.executable, "-m", f"{__package__}.child", network, side, name, "--threads", str(threads)]
        done = subprocess.run(command + ["--quick"] * quick, capture_output=True, text=True, cwd=root)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        found[side] = [float(number) for number in done.stdout.split()]
    both = zip(*found.values(), strict=True)
    return [_row(what, dict(zip(SIDES, pair, strict=True))) for what, pair in zip(_named(name), both, strict=True)]


def on_device(name: str, step: Callable[[str], Any]) -> list[dict[str, Any]]:
    """The same on a GPU, in this process."""
    for side in SIDES:
        step(side)
    return [_row(_named(name)[1], {side: allocated(lambda: step(side), "cuda") for side in SIDES})]  # noqa: B023


def _named(name: str) -> list[str]:
    return [f"{name}, {what}" if name else what for what in WHAT]


def _row(what: str, mib: dict[str, float]) -> dict[str, Any]:
    ours, theirs = mib.values()
    return {"what": what, **mib, "ratio": theirs / ours}
