"""Time and memory against the number of constituents, with fitted exponents.

python -m bench.growth --out bench/results/growth.json    (then python -m bench.plots)

Events of random massless momenta, all of the same number of constituents; beams or spurions come on top. A point is
left out, and named, where the points before it say that one call would take too long or too much memory.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from equikernels.data import Jets

from . import lorentznet, pelican, side_by_side
from .clock import clock_of
from .machine import machine
from .memory import allocated
from .side_by_side import OURS, PUBLISHED, SIDES, progress

SIZES, BATCHES = (10, 20, 50, 100, 200), (1, 16, 100, 1024)
QUICK = ((10, 20, 40), (1, 8))
SECONDS, MIB = 5.0, 6000.0  # of one call, at most
NETWORKS: dict[str, Callable[[Jets], Any]] = {"LorentzNet": lorentznet.Sides, "PELICAN": pelican.Sides}
PASSES = ("forward", "training step")


def events(n: int, batch: int) -> Jets:
    p = 50 * torch.randn(n * batch, 3, generator=torch.Generator().manual_seed(0))
    p4 = torch.cat([p.norm(dim=1, keepdim=True), p], dim=1)
    return Jets(p4, torch.arange(batch + 1) * n, torch.arange(batch) % 2)


class Costs:
    """What a call will cost: the largest point so far, in proportion to the pairs of particles."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], tuple[int, float, float]] = {}

    def too_much(self, side: str, what: str, pairs: int) -> str | None:
        """The cost, in words, where it is too much."""
        if (side, what) not in self.known:
            return None
        before, seconds, mib = self.known[side, what]
        seconds, mib = seconds * pairs / before, mib * pairs / before
        return f"about {seconds:.0f} s and {mib:.0f} MiB" if seconds > SECONDS or mib > MIB else None

    def add(self, side: str, what: str, pairs: int, seconds: float, mib: float) -> None:
        self.known[side, what] = pairs, seconds, mib


def point(call: Callable[[], Any], device: str) -> tuple[list[float], float]:
    """Seconds of two to five calls, and MiB."""
    mib = allocated(call, device)  # warms up, too
    clock = clock_of(device)
    times = [clock(call)]
    while len(times) < 2 or (len(times) < 5 and sum(times) < SECONDS / 2):
        times.append(clock(call))
    return times, mib


def rows(network: str, sizes: Iterable[int], batches: Iterable[int], device: str) -> tuple[list[Any], list[str]]:
    """A row of each point and pass, and what was left out."""
    NETWORKS[network](events(8, 2)).to(device).agree()
    costs, found, left_out = Costs(), [], []
    points = sorted(itertools.product(sizes, batches), key=lambda p: (p[0] ** 2 * p[1], p[1]))
    for k in progress(range(len(points)), f"growth, {network}"):
        n, batch = points[k]
        pairs, sides = n * n * batch, None
        for what in PASSES:
            name = f"{network}, {what}, batch {batch}, n = {n}"
            row: dict[str, Any] = {"what": name, "network": network, "pass": what, "batch": batch, "n": n}
            for side in SIDES:
                if cost := costs.too_much(side, what, pairs):
                    left_out.append(f"{name}, {side}: {cost}")
                    continue
                sides = sides or NETWORKS[network](events(n, batch)).to(device)
                call = sides.forward if what == "forward" else sides.step
                times, mib = point(lambda: call(side), device)  # noqa: B023
                costs.add(side, what, pairs, min(times), mib)
                row |= {f"{side}_ms": 1e3 * statistics.median(times), f"{side}_mib": mib}
            if all(f"{side}_ms" in row for side in SIDES):
                row["ratio"] = row[f"{PUBLISHED}_ms"] / row[f"{OURS}_ms"]
            if f"{OURS}_ms" in row:
                found.append(row)
    return found, left_out


def exponents(found: list[dict[str, Any]]) -> dict[str, float]:
    """Of time and memory in n, by least squares in logarithms, of each curve of three points and more."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in found:
        for side, unit in itertools.product(SIDES, ("ms", "mib")):
            if f"{side}_{unit}" in row:
                quantity = "time" if unit == "ms" else "memory"
                name = f"{row['network']}, {row['pass']}, batch {row['batch']}, {side}, {quantity}"
                curves.setdefault(name, []).append((row["n"], row[f"{side}_{unit}"]))
    return {
        name: float(np.polyfit(*np.log(np.array(sorted(curve))).T, 1)[0])
        for name, curve in curves.items()
        if len(curve) > 2
    }


def measure(threads: int, quick: bool, device: str = "cpu") -> dict[str, Any]:
    torch.set_num_threads(threads)
    sizes, batches = QUICK if quick else (SIZES, BATCHES)
    found: list[dict[str, Any]] = []
    left_out: list[str] = []
    for network in NETWORKS:
        more, without = rows(network, sizes, batches, device)
        found, left_out = found + more, left_out + without
    head = machine("growth", threads, device)
    return {**head, "rows": found, "left_out": left_out, "exponents": exponents(found)}


def main() -> None:
    options = side_by_side.parser(__doc__).parse_args()
    side_by_side.write(measure(options.threads, options.quick, options.device), options.out)


if __name__ == "__main__":
    main()
