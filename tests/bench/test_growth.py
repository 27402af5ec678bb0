"""Tests points of growing size: what would cost too much is left out."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ..support.bench_suite import module

growth, plan, points = map(module, ("growth", "plan", "points"))


def test_a_point_that_only_we_can_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a large point that a filter selects alone, a small point predicts the cost."""
    seconds = {"equikernels": 1e-3, "published": 1.0}
    asked: list[tuple[int, str]] = []

    def timed(sides: int, what: str, which: list[str], fewest: int = 2) -> Any:
        asked.extend((sides, side) for side in which)
        return {side: [sides * seconds[side]] for side in which}, dict.fromkeys(which, 1.0)

    monkeypatch.setattr(points, "timed", timed)
    costs = points.Costs(lambda: 1, 10_000)
    entry = points.point(lambda: 10, "forward", 100_000, costs)("x")
    assert asked == [(1, "equikernels"), (1, "published"), (10, "equikernels")]
    assert entry["left_out"] == ["published would take about 10 s and 10 MiB"]
    assert entry["equikernels_ms"] == 10
    assert "ratio" not in entry
    assert "published_ms" not in entry


def test_growth_leaves_out_what_costs_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(sides: Any, what: str, which: list[str], fewest: int = 2) -> Any:
        return {side: [1e-3, 2e-3, 3e-3] for side in which}, dict.fromkeys(which, 1.0)

    def rows(sizes: tuple[int, ...], batches: tuple[int, ...]) -> Any:
        made = plan.Plan(growth.rows("LorentzNet", sizes, batches, "cpu"), lambda: None)
        found = plan.measure("growth", made, plan.Setting(torch.get_num_threads()))
        return found["rows"], found["left_out"]

    monkeypatch.setattr(points, "timed", timed)
    monkeypatch.setattr(points, "MIB", 20.0)  # a point may cost twenty times the one before
    found, left_out = rows((2, 4, 8), (1, 20))
    assert [row["what"] for row in found if row["pass"] == "forward"] == [
        f"LorentzNet, forward, batch {batch}, n = {n}" for batch in (1, 20) for n in (2, 4, 8)
    ]
    assert (found[0]["equikernels_ms"], found[0]["ratio"], left_out) == (2, 1, [])
    monkeypatch.setattr(points, "SECONDS", 3.5e-3)
    found, left_out = rows((2, 4), (1,))
    assert len(found) == 2
    text = "LorentzNet, forward, batch 1, n = 4: equikernels would take about 0 s and 4 MiB"
    assert left_out[0] == text
    assert len(left_out) == 4
