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
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import ROOT
from .ptxas_report import build_sources

BARRIER = re.compile(r"\b__sync(threads|warp)\(")
OPTIONS = "exitcode=0:ignore_noninstrumented_modules=1:suppress_equal_stacks=0:suppress_equal_addresses=0"


class Findings(NamedTuple):
    cases: int
    launches: int
    reports: str  # ThreadSanitizer's, of the kernels as they are; empty without a race
    barriers: dict[str, bool]  # "file:line": whether without it a race was reported, or the process ended


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


def barriers_of(ops: str) -> list[tuple[str, int]]:
    """File and line of every barrier in the kernels of a folder of csrc, or in all."""
    folders = {Path(source).parts[1] for source in build_sources()}
    files = [path for name in sorted(folders) if ops in ("*", name) for path in (ROOT / "csrc" / name).rglob("*.cu*")]
    return [
        (str(path.relative_to(ROOT / "csrc")), number)
        for path in sorted(files)
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

    def reports() -> str:
        path = folder / f"report.{os.getpid()}"
        return path.read_text() if path.exists() else ""

    def run(call: Callable[[], object]) -> None:
        for most_blocks in (0, 1):  # one block takes everything, one thing after another
            with emulator.schedule(0, most_blocks):
                call()

    emulator = Emulator(folder, ops, watched=True)
    missed: dict[str, bool] = {}
    with emulator.installed():
        calls = _calls(ops)
        for call in calls:
            run(call)
        found, launches = reports(), emulator.launches
        for file, line in barriers_of(ops) if barriers else []:
            child = os.fork()  # what a kernel reads without its barrier may end the process
            if child == 0:
                with emulator.without_barrier(file, line):
                    for call in calls:
                        with suppress(RuntimeError):  # the emulator's own
                            run(call)
                        if reports():
                            os._exit(1)
                os._exit(0)
            missed[f"{file}:{line}"] = os.waitpid(child, 0)[1] != 0
            print(f"{file}:{line}: {'missed' if missed[f'{file}:{line}'] else 'NOT MISSED'}", file=sys.stderr)
    return Findings(len(calls), launches, found, missed)


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
    raced = []
    for name in folders:
        (given.folder / name).mkdir(parents=True, exist_ok=True)
        if _report(name, watch(given.folder / name, name)):
            raced.append(name)
    print(f"races: {', '.join(raced) or 'none'}")
    sys.exit(bool(raced))


def _report(name: str, found: Findings) -> int:
    """Prints what was found in a folder's kernels; returns the number of races."""
    kept = [place for place, missed in found.barriers.items() if not missed]
    races = found.reports.count("WARNING")
    print(found.reports, end="")
    print(f"{name}: {found.cases} cases, {found.launches} launches, {races} races")
    print(f"{len(found.barriers)} barriers left out in turn; not missed: {', '.join(kept) or 'none'}", flush=True)
    return races
