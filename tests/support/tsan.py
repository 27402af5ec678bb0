"""Runs the emulated CUDA kernels under ThreadSanitizer: every CUDA thread is a thread to it, ordered by barriers alone.

``watch()`` starts this module in a process of its own, because ThreadSanitizer must be loaded before anything else.
There every call of tsan_calls.py runs; then, for every barrier of their kernels, left out, those that pass it again.
``make tsan`` does so for all folders of csrc. It fails if a race is reported, if a barrier is not missed, or if a
kernel is not launched.
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
SHARED = ("core", "simd")  # folders of csrc with headers for all kernels
LAUNCHED_BY = {"invariants/moments.cu": "message_passing"}  # kernels that the ops of another folder launch
OPTIONS = "exitcode=0:ignore_noninstrumented_modules=1:suppress_equal_stacks=0:suppress_equal_addresses=0"


class Findings(NamedTuple):
    calls: int
    launches: int
    seconds: float  # of one processor
    reports: str  # ThreadSanitizer's, of the kernels as they are; empty without a race
    kernels: dict[str, bool]  # every form compiled for float32: whether a call launched it
    barriers: dict[str, bool]  # "file in csrc:line": whether without it a race was reported, or the process ended

    @property
    def sound(self) -> bool:
        return not self.reports and all(self.kernels.values()) and all(self.barriers.values())


def library(name: str) -> Path | None:
    """A library of g++'s, such as ThreadSanitizer's."""
    try:
        asked = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    path = Path(asked.stdout.strip())
    return path if path.is_absolute() and path.exists() else None


def environment(folder: Path) -> dict[str, str]:
    """Of a process that ThreadSanitizer watches; it writes to ``folder``, report.PID."""
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(str(library(name)) for name in ("libtsan.so", "libstdc++.so")),
        "TSAN_OPTIONS": f"{OPTIONS}:log_path={folder / 'report'}",
        "OMP_NUM_THREADS": "1",
    }


def watch(folder: Path, ops: str) -> Findings:
    """Builds in ``folder``; ``ops``: a folder of csrc."""
    folder = folder.resolve()
    # An installed package comes before the one of the source tree.
    code = f"import sys; sys.path.append({str(ROOT)!r}); from tests.support.tsan import main; main()"
    command = [sys.executable, "-c", code, str(folder), ops, "--inside"]
    done = subprocess.run(command, env=environment(folder), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"tsan: the process ended with {done.returncode}: {done.stdout}")
    return Findings(*json.loads(done.stdout.splitlines()[-1]))


def barriers_of(*folders: str) -> list[str]:
    """ "file:line" of every barrier in the kernels of folders of csrc."""
    files = sorted(path for folder in folders for path in (ROOT / "csrc" / folder).rglob("*.cu*"))
    return [
        f"{path.relative_to(ROOT / 'csrc')}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if BARRIER.search(line.partition("//")[0])
    ]


def launched_by(kernel: str) -> str:
    """The folder of csrc whose ops launch it."""
    file = kernel.partition(":")[0]
    return LAUNCHED_BY.get(file, Path(file).parts[0])


class Run(NamedTuple):
    """A call on a grid, and what it did with the kernels as they are."""

    call: Callable[[], object]
    most_blocks: int
    seconds: float
    seen: set[str]  # kernels and barriers


class Inside:
    """The process that ThreadSanitizer watches."""

    def __init__(self, folder: Path, ops: str) -> None:
        from .emulator import Emulator
        from .tsan_calls import calls_of

        del os.environ["LD_PRELOAD"]  # the compiler needs no ThreadSanitizer
        self.folder, self.ops = folder, ops
        self.emulator = Emulator(folder, ops, watched=True)
        self.calls = calls_of(ops, self.emulator)

    def findings(self) -> Findings:
        with self.emulator.installed():
            # On a grid of one block the same threads do one thing after another.
            runs = [self.recorded(call, most_blocks) for call in self.calls for most_blocks in (0, 1)]
            mine, launches = self.report(os.getpid()), self.emulator.launches
            reports = mine.read_text() if mine.exists() else ""
            seen = set().union(*(run.seen for run in runs))
            shared = [place for place in barriers_of(*SHARED) if place in seen]
            missed = {place: self.is_missed(place, runs) for place in (*barriers_of(self.ops), *shared)}
        compiled = sorted({name for name in self.emulator.kernels.values() if not OTHER_TYPES.search(name)})
        kernels = {name: name in seen for name in compiled if launched_by(name) == self.ops}
        return Findings(len(self.calls), launches, sum(os.times()[:4]), reports, kernels, missed)

    def run(self, call: Callable[[], object], most_blocks: int) -> None:
        with self.emulator.schedule(2, most_blocks):
            call()

    def recorded(self, call: Callable[[], object], most_blocks: int) -> Run:
        before = time.process_time()
        self.run(call, most_blocks)
        return Run(call, most_blocks, time.process_time() - before, self.emulator.seen())

    def is_missed(self, place: str, runs: list[Run]) -> bool:
        """Up to the first race, in the runs that pass the barrier, the shortest first."""
        before = time.monotonic()
        child = os.fork()  # what a kernel reads without its barrier may end the process
        if child == 0:
            file, line = place.split(":")
            with self.emulator.without_barrier(file, int(line)):
                for run in sorted((run for run in runs if place in run.seen), key=lambda run: run.seconds):
                    with suppress(RuntimeError):  # the emulator's own
                        self.run(run.call, run.most_blocks)
            os._exit(0)
        ended, status = 0, 0
        while not ended and not self.has_race(child):
            time.sleep(0.05)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        follows = "a race" if self.has_race(child) else f"status {status}" if status else ""
        self.report(child).unlink(missing_ok=True)
        seconds = time.monotonic() - before
        print(f"{place} left out: {follows or 'NOTHING'}, {seconds:.1f} s", file=sys.stderr, flush=True)
        return follows != ""

    def report(self, process: int) -> Path:
        return self.folder / f"report.{process}"

    def has_race(self, process: int) -> bool:
        path = self.report(process)
        return path.exists() and "data race" in path.read_text()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("ops", nargs="*")
    parser.add_argument("--inside", action="store_true")
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(Inside(given.folder, *given.ops).findings()))
        return
    unsound = []
    for name in given.ops or sorted({Path(source).parts[1] for source in build_sources()}):
        (given.folder / name).mkdir(parents=True, exist_ok=True)
        found = watch(given.folder / name, name)
        show(name, found)
        if not found.sound:
            unsound.append(name)
    print(f"races, barriers that are not missed, kernels that do not run: {', '.join(unsound) or 'none'}")
    sys.exit(bool(unsound))


def show(name: str, found: Findings) -> None:
    def without(places: dict[str, bool]) -> str:
        return "".join(f"\n    not {place}" for place, yes in places.items() if not yes)

    print(found.reports, end="")
    print(f"{name}: {found.calls} calls, {found.launches} launches, {found.reports.count('WARNING')} races,", end=" ")
    print(f"{found.seconds / 60:.1f} minutes")
    print(f"  of {len(found.kernels)} kernels launched: all{' but' * (not all(found.kernels.values()))}", end="")
    print(without(found.kernels))
    print(f"  of {len(found.barriers)} barriers missed: all{' but' * (not all(found.barriers.values()))}", end="")
    print(without(found.barriers), flush=True)
