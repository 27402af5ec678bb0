"""Measures points of growing size; leaves out, and reports, points whose predicted cost is too high."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from .clock import clock_of
from .memory import allocated
from .plan import Entry, MakeSides
from .side_by_side import OURS, PUBLISHED, SIDES, Sides, row

SECONDS, MIB = 5.0, 6000.0  # of one call, at most
EASY = 20_000  # pairs or edges that are measured without a prediction
PASSES = ("forward", "training step")


class Costs:
    """Predicts the cost of a call from the largest point so far, in proportion to its work (pairs or edges).

    Args:
        probe: sides of little work that are measured if no point has been: a filter may have selected a large one only.
        work: of the probe.
    """

    def __init__(self, probe: MakeSides, work: int) -> None:
        self.probe, self.work = probe, work
        self.known: dict[tuple[str, str], tuple[int, float, float]] = {}

    def too_much(self, side: str, what: str, work: int) -> str | None:
        """The cost, in words, if it is too high."""
        if (side, what) not in self.known:
            if work <= EASY:
                return None
            times, mib = timed(self.probe(), what, [side], fewest=1)
            self.add(side, what, self.work, min(times[side]), mib[side])
        before, seconds, mib_before = self.known[side, what]
        seconds, mib_now = seconds * work / before, mib_before * work / before
        too_much = seconds > SECONDS or mib_now > MIB
        return f"{side} would take about {seconds:.0f} s and {mib_now:.0f} MiB" if too_much else None

    def add(self, side: str, what: str, work: int, seconds: float, mib: float) -> None:
        self.known[side, what] = work, seconds, mib


def timed(
    sides: Sides, what: str, which: Sequence[str], fewest: int = 2
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of ``fewest`` to ten calls of each side, in turn, and MiB."""
    call = sides.forward if what == "forward" else sides.step
    mib = {side: allocated(lambda: call(side), sides.device) for side in which}  # noqa: B023 (also warms up)
    clock = clock_of(sides.device)
    times: dict[str, list[float]] = {side: [] for side in which}
    rounds, total = 0, 0.0
    while rounds < fewest or (rounds < 10 and total < SECONDS):
        for side in which:
            times[side].append(clock(lambda: call(side)))  # noqa: B023
        rounds, total = rounds + 1, total + sum(times[side][-1] for side in which)
    return times, mib


def point(
    sides: MakeSides, what: str, work: int, costs: Costs, gradients: bool = True, **fields: Any
) -> Callable[[str], Entry]:
    """Measures a row: both sides, or those whose cost is acceptable. Results are compared if both run, with
    ``gradients`` also gradients."""

    def measure(name: str) -> Entry:
        refused = {side: cost for side in SIDES if (cost := costs.too_much(side, what, work))}
        which = [side for side in SIDES if side not in refused]
        left_out: Entry = {"left_out": list(refused.values())}
        if not which:
            return left_out
        if which == [*SIDES]:
            if what == "forward":
                sides().agree()
            elif gradients:
                sides().errors()
        times, mib = timed(sides(), what, which)
        for side in which:
            costs.add(side, what, work, min(times[side]), mib[side])
        entry = row(name, times[OURS], times[PUBLISHED]) if which == [*SIDES] else {"what": name}
        medians = {f"{side}_ms": 1e3 * statistics.median(times[side]) for side in which}
        return {**entry, **medians, **{f"{side}_mib": mib[side] for side in which}, **fields, **left_out}

    return measure
