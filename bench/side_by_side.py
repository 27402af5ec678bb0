"""How whole networks are measured: results compared first, then both sides in turn in one run; peak memory in a child.

Nothing is timed where results disagree.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_map

import equikernels as ek
from equikernels import _native
from equikernels.info import cpu_name, gpu_names
from equikernels.process import above, memory, reset_peak

OURS, PUBLISHED = "equikernels", "published"
SIDES = (OURS, PUBLISHED)
NOISY = 0.15  # interquartile range over median from which a row is called noisy
Call = Callable[[], Any]


class Disagreement(SystemExit):
    """Results that differ by more than rounding; left alone it ends the program, with its message."""


class Sides:
    """The same events and weights for both: ours packed, the published formula padded."""

    ours: nn.Module
    published: nn.Module
    label: Tensor

    def logits(self, side: str) -> Tensor:
        raise NotImplementedError

    def to(self, device: str) -> Any:
        """Everything these sides hold, on a device."""
        for name, value in vars(self).items():
            moved = tree_map(lambda v: v.to(device) if isinstance(v, Tensor | nn.Module) else v, value)
            setattr(self, name, moved)
        return self

    def model(self, side: str) -> nn.Module:
        return self.published if side == PUBLISHED else self.ours

    def forward(self, side: str) -> Tensor:
        self.model(side).eval()
        with torch.inference_mode():
            return self.logits(side)

    def step(self, side: str) -> None:
        model = self.model(side).train()
        model.zero_grad(set_to_none=True)
        F.cross_entropy(self.logits(side), self.label).backward()

    def gradient(self, side: str) -> Tensor:
        """Of all weights, by name, as one vector."""
        self.step(side)
        weights = sorted(self.model(side).named_parameters())
        return torch.cat([p.grad.flatten() for _, p in weights if p.grad is not None])

    def gradient_errors(self, kinks: float = 1e-6) -> tuple[float, float]:
        """How far ours and the published gradient are from ours in float64; raises where ours is further, and
        further than ``kinks``."""
        ours = self.ours
        self.ours = copy.deepcopy(ours).double()
        exact = self.gradient(OURS)
        self.ours = ours
        errors = apart(self.gradient(OURS), exact), apart(self.gradient(PUBLISHED), exact)
        if not errors[0] <= max(2 * errors[1], kinks):
            raise Disagreement("gradients: {:.1e} off, the published formula {:.1e}: no speed-up".format(*errors))
        return errors

    def agree(self) -> float:
        """Largest difference of logits over the largest logit, eval; raises where it is no rounding."""
        self.ours.load_state_dict(self.published.state_dict())  # training steps have moved the running statistics
        return same("logits", self.forward(OURS), self.forward(PUBLISHED), 1e-4)

    def time(self, name: str, call: Callable[[str], Any], rounds: tuple[int, int]) -> dict[str, Any]:
        """A row of call("equikernels") against call("published")."""
        return row(name, *interleaved(lambda: call(OURS), lambda: call(PUBLISHED), rounds, name))


def apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def same(what: str, a: Tensor, b: Tensor, tolerance: float) -> float:
    """Largest difference over the largest value of b; raises where it is no rounding."""
    difference = apart(a, b)
    if not difference < tolerance:
        raise Disagreement(f"{what} differ by {difference:.2e} of the largest: no speed-up is reported")
    return difference


def interleaved(a: Call, b: Call, rounds: tuple[int, int], name: str = "") -> tuple[list[float], list[float]]:
    """Seconds of each call: some of a for each b, in turn, after one of each."""
    times: tuple[list[float], list[float]] = ([], [])
    a(), b()
    for _ in progress(range(rounds[1]), name):
        for _ in range(rounds[0]):
            times[0].append(_clock(a))
        times[1].append(_clock(b))
    return times


def progress(rounds: Iterable[int], name: str) -> Iterable[int]:
    """A bar on a terminal, where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return rounds
    return tqdm(rounds, desc=name, leave=False, disable=None)


def median(call: Call, rounds: int) -> float:
    call()
    return statistics.median(_clock(call) for _ in range(rounds))


def _clock(call: Call) -> float:
    _finish()
    start = time.perf_counter()
    call()
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def row(name: str, ours: list[float], theirs: list[float], baseline: str = PUBLISHED) -> dict[str, Any]:
    medians = statistics.median(ours), statistics.median(theirs)
    quartiles = [statistics.quantiles(t, n=4, method="inclusive") for t in (ours, theirs)]
    return {
        "what": name,
        f"{OURS}_ms": 1e3 * medians[0],
        f"{baseline}_ms": 1e3 * medians[1],
        "ratio": medians[1] / medians[0],
        "quartiles_ms": [[1e3 * q[0], 1e3 * q[2]] for q in quartiles],
        "range_ms": [[1e3 * min(t), 1e3 * max(t)] for t in (ours, theirs)],
        "repetitions": [len(ours), len(theirs)],
        "noise": max((q[2] - q[0]) / m for q, m in zip(quartiles, medians, strict=True)),
    }


def noisy(rows: Iterable[dict[str, Any]]) -> list[str]:
    """A warning for each row whose times scatter."""
    return [
        f"noisy: {row['what']}: the middle half of the times spans {100 * row['noise']:.0f} % of their median"
        for row in rows
        if row.get("noise", 0.0) > NOISY
    ]


# --- Peak memory --------------------------------------------------------------------------------------------------


def print_peaks(step: Call, small_step: Call) -> None:
    """In a child: MiB that a step adds to the process's high-water mark, and what PyTorch's allocator holds at most."""
    small_step()  # libraries load and pools fill
    reset_peak()
    resident = memory("VmRSS")
    step()
    grown = above(resident)
    assert grown is not None, "this system does not tell its peak memory"
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    level = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    print(grown / 2**20, peak / 2**20)


def peaks(module: str, arguments: Sequence[str], name: str = "") -> list[dict[str, Any]]:
    """Rows of a training step's peaks; ``module --child SIDE arguments`` prints those of one side."""
    found: dict[str, list[float]] = {}
    for side in SIDES:
        command = [sys.executable, "-m", module, "--child", side, *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
        found[side] = [float(number) for number in done.stdout.split()]
    return [
        {"what": name + what, **{side: found[side][k] for side in SIDES}, "ratio": found[PUBLISHED][k] / found[OURS][k]}
        for k, what in enumerate(("process", "PyTorch's allocator"))
    ]


# --- The record ---------------------------------------------------------------------------------------------------


def machine(network: str, threads: int, device: str = "cpu") -> dict[str, Any]:
    build = _native.host.build_info() if _native.host is not None else {}
    load = [round(share, 2) for share in os.getloadavg()]
    return {
        "network": network,
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "load_average": load,
            "system": platform.platform(),
            "isa": ek.active_isa(),
            "threads": threads,
            "device": device,
            "gpu": gpu_names(),
        },
        "versions": {
            "torch": torch.__version__,
            "equikernels": ek.__version__,
            "python": platform.python_version(),
            "compiler": build.get("compiler", "none"),
        },
    }


def parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="smaller inputs or fewer repetitions, no compiler")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    return parser


def write(result: dict[str, Any], out: Path | None) -> None:
    text = json.dumps(result, indent=1)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
    print(text)
    for warning in noisy(result["rows"]):
        print(warning, file=sys.stderr)
