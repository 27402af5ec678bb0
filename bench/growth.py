"""Measures time and memory against the number of constituents, and fits exponents.

Events have random massless momenta and the same number of constituents, plus beams or spurions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from equikernels.data import Jets

from . import lorentznet, pelican
from .plan import Plan, Row, Setting
from .points import PASSES, Costs, point
from .side_by_side import SIDES

SIZES, BATCHES = (10, 20, 50, 100, 200), (1, 16, 100, 1024)
QUICK = ((10, 20, 40), (1, 8))
NETWORKS: dict[str, Callable[[Jets], Any]] = {"LorentzNet": lorentznet.Sides, "PELICAN": pelican.Sides}


def events(n: int, batch: int) -> Jets:
    p = 50 * torch.randn(n * batch, 3, generator=torch.Generator().manual_seed(0))
    p4 = torch.cat([p.norm(dim=1, keepdim=True), p], dim=1)
    return Jets(p4, torch.arange(batch + 1) * n, torch.arange(batch) % 2)


def rows(network: str, sizes: Iterable[int], batches: Iterable[int], device: str) -> list[Row]:
    """One row per point and pass."""

    @functools.lru_cache(maxsize=1)  # large ones do not fit into memory together
    def sides(n: int, batch: int) -> Any:
        return NETWORKS[network](events(n, batch)).to(device).prepared()

    costs, found = Costs(lambda: sides(50, 8), 50 * 50 * 8), []
    for n, batch in sorted(itertools.product(sizes, batches), key=lambda p: (p[0] ** 2 * p[1], p[1])):
        for what in PASSES:
            fields = {"network": network, "pass": what, "batch": batch, "n": n}
            make = functools.partial(sides, n, batch)
            measure = point(make, what, n * n * batch, costs, gradients=False, **fields)
            found.append(Row(f"{network}, {what}, batch {batch}, n = {n}", measure))
    return found


def exponents(found: list[dict[str, Any]]) -> dict[str, float]:
    """Exponents of time and memory in n, by least squares in logarithms, for each curve of at least three points."""
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


def plan(setting: Setting) -> Plan:
    sizes, batches = QUICK if setting.quick else (SIZES, BATCHES)

    def check() -> None:
        for make in NETWORKS.values():
            make(events(8, 2)).to(setting.device).agree()

    found = [row for network in NETWORKS for row in rows(network, sizes, batches, setting.device)]
    return Plan(found, check, about=lambda measured: {"exponents": exponents(measured)})
