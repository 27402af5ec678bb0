"""Runs the emulated CUDA kernels under ThreadSanitizer: every CUDA thread is a thread to it, ordered by barriers alone.

``watch()`` starts this module in a process of its own, because ThreadSanitizer must be loaded before anything else.
There every sample case of the chosen ops runs, forward and backward; then again for every barrier of their kernels,
left out. ``make tsan`` does so for all ops and fails if a race is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import ROOT
from .ptxas_report import build_sources

BARRIER = re.compile(r"\b__sync(threads|warp)\(")
OTHER_TYPES = re.compile("double|BFloat16|Float16")  # than float32, in which the cases run
OPTIONS = "exitcode=0:ignore_noninstrumented_modules=1:suppress_equal_stacks=0:suppress_equal_addresses=0"


class Findings(NamedTuple):
    cases: int
    launches: int
    seconds: float  # of one processor
    reports: str  # ThreadSanitizer's, of the kernels as they are; empty without a race
    kernels: dict[str, bool]  # every form compiled for float32: whether a case launched it
    barriers: dict[str, bool]  # "file in csrc:line": whether without it a race was reported, or the process ended

    @property
    def sound(self) -> bool:
        return not self.reports and all(self.kernels.values()) and all(self.barriers.values())


class Run(NamedTuple):
    """What a call did with the kernels as they are."""

    call: Callable[[], object]
    most_blocks: int
    seconds: float
    seen: set[str]  # kernels and barriers


def library(name: str) -> Path | None:
    """A library of g++'s, such as ThreadSanitizer's."""
    try:
        asked = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    path = Path(asked.stdout.strip())
    return path if path.is_absolute() and path.exists() else None


def watch(folder: Path, ops: str = "*", barriers: bool = True) -> Findings:
    """Builds in ``folder``; ``ops``: a folder of csrc, or "*" for all."""
    folder = folder.resolve()
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(str(library(name)) for name in ("libtsan.so", "libstdc++.so")),
        "TSAN_OPTIONS": f"{OPTIONS}:log_path={folder / 'report'}",
        "OMP_NUM_THREADS": "1",
    }
    # An installed package comes before the one of the source tree.
    code = f"import sys; sys.path.append({str(ROOT)!r}); from tests.support.tsan import main; main()"
    command = [sys.executable, "-c", code, str(folder), ops, "--inside", *["--barriers"] * barriers]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"tsan: the process ended with {done.returncode}: {done.stdout}")
    return Findings(*json.loads(done.stdout.splitlines()[-1]))


SHARED = ("core", "simd")  # folders of csrc with headers for all kernels


def barriers_of(*folders: str) -> list[str]:
    """ "file:line" of every barrier in the kernels of folders of csrc."""
    files = sorted(path for folder in folders for path in (ROOT / "csrc" / folder).rglob("*.cu*"))
    return [
        f"{path.relative_to(ROOT / 'csrc')}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BARRIER.search(line.partition("//")[0])
    ]


def _calls(ops: str) -> list[Callable[[], object]]:
    """Calls of the ops in a folder of csrc, small ones first."""
    import torch

    import equikernels as ek

    from .cases import CASES, Case
    from .tools import cotangent_for, value_and_grads

    of_folder = {
        "invariants": ("pairwise_invariants",), "coordinates": ("coordinate_update",), "encode": ("encode_invariants",),
        "message_passing": ("message_passing", "row_mlp"),
        "segment": ("segment_reduce", "gather_segment_reduce", "segment_softmax"),
        "pairs": (
            "rank2_reduce", "rank2_broadcast", "rank2_mix", "linear_2to2", "linear_2to1", "linear_2to0", "linear_1to2",
            "pairwise_linear", "pairwise_network",
        ),
    }  # fmt: skip

    def call(case: Case) -> Callable[[], object]:
        def run() -> object:
            graph, inputs = case.graph(), case.inputs(torch.float32)
            return value_and_grads(lambda i: case.run(i, graph), inputs, cotangent_for(case.run(inputs, graph)))

        return run

    def search() -> object:
        x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
        return ek.k_nearest(x, 34), ek.radius_graph(x, 1.0)

    def wide() -> object:
        z, t = torch.randn(37, 1028, requires_grad=True), torch.rand(1028, requires_grad=True)
        return torch.autograd.grad(ek.encode_invariants(z, t).sum(), (z, t))

    chosen = {op for folder, names in of_folder.items() for op in names if ops in ("*", folder)}
    graphs = ("complete", "sparse", "large_event", "random_sparse")
    cases = [c for name in graphs for c in CASES if c.graph_name == name and c.op in chosen and c.kernel]
    calls = [call(c) for c in cases if not (c.id == "wide" and c.graph_name in graphs[2:])]
    more = {"neighbors": search, "encode": wide}  # a block takes several turns
    return calls + [call for folder, call in more.items() if ops in ("*", folder)]


def _inside(folder: Path, ops: str, barriers: bool) -> Findings:
    from .emulator import Emulator

    del os.environ["LD_PRELOAD"]  # the compiler needs no ThreadSanitizer

    def report(process: int) -> Path:
        return folder / f"report.{process}"

    def races(process: int) -> bool:
        return report(process).exists() and "data race" in report(process).read_text()

    def run(call: Callable[[], object], most_blocks: int) -> None:
        with emulator.schedule(2, most_blocks):
            call()

    def watched(call: Callable[[], object], most_blocks: int) -> Run:
        before = time.process_time()
        run(call, most_blocks)
        return Run(call, most_blocks, time.process_time() - before, emulator.seen())

    def try_without(place: str) -> None:
        """In the runs that pass the barrier, the shortest first."""
        file, line = place.split(":")
        with emulator.without_barrier(file, int(line)):
            for one in sorted((one for one in runs if place in one.seen), key=lambda one: one.seconds):
                with suppress(RuntimeError):  # the emulator's own
                    run(one.call, one.most_blocks)

    def what_follows_without(place: str) -> str:
        """ "" if nothing does."""
        child = os.fork()  # what a kernel reads without its barrier may end the process
        if child == 0:
            try_without(place)
            os._exit(0)
        ended, status = 0, 0
        while not ended and not races(child):
            time.sleep(0.05)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        follows = "a race" if races(child) else f"status {status}" if status else ""
        report(child).unlink(missing_ok=True)
        return follows

    emulator = Emulator(folder, ops, watched=True)
    with emulator.installed():
        calls = _calls(ops)
        # In one block's turn, one thing after another is done by the same threads.
        runs = [watched(call, most_blocks) for call in calls for most_blocks in (0, 1)]
        mine = report(os.getpid())
        found, launches = mine.read_text() if mine.exists() else "", emulator.launches
        seen = set().union(*(one.seen for one in runs))
        missed: dict[str, bool] = {}
        if barriers:
            for place in (*barriers_of(ops), *(place for place in barriers_of(*SHARED) if place in seen)):
                before = time.monotonic()
                follows = what_follows_without(place)
                missed[place] = follows != ""
                took = time.monotonic() - before
                print(f"{place} left out: {follows or 'NOTHING'}, {took:.1f} s", file=sys.stderr, flush=True)
    compiled = (name for name in emulator.kernels.values() if name.startswith(f"{ops}/"))
    kernels = {name: name in seen for name in sorted(compiled) if not OTHER_TYPES.search(name)}
    return Findings(len(calls), launches, sum(os.times()[:4]), found, kernels, missed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("ops", nargs="?", default="*")
    parser.add_argument("--barriers", action="store_true")
    parser.add_argument("--inside", action="store_true")
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(_inside(given.folder, given.ops, given.barriers)))
        return
    folders = sorted({Path(source).parts[1] for source in build_sources()}) if given.ops == "*" else [given.ops]
    unsound = []
    for name in folders:
        (given.folder / name).mkdir(parents=True, exist_ok=True)
        found = watch(given.folder / name, name)
        _report(name, found)
        if not found.sound:
            unsound.append(name)
    print(
        f"folders with races, barriers that are not missed or kernels that do not run: {', '.join(unsound) or 'none'}"
    )
    sys.exit(bool(unsound))


def _report(name: str, found: Findings) -> None:
    def without(places: dict[str, bool]) -> str:
        return f"{len(places)}, of which not: {', '.join(place for place, yes in places.items() if not yes) or 'none'}"

    print(found.reports, end="")
    print(f"{name}: {found.cases} cases, {found.launches} launches, {found.reports.count('WARNING')} races,", end=" ")
    print(f"{found.seconds / 60:.1f} minutes")
    print(f"  kernels launched: {without(found.kernels)}")
    print(f"  barriers missed when left out: {without(found.barriers)}", flush=True)
