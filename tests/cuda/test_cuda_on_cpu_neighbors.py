"""The CUDA kernel of the neighbour search, emulated on the CPU."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.metric import Metric

from ..support.cases import (
    four_vectors,
)
from ..support.emulator import MARKS, Emulator

pytestmark = MARKS


METRICS: dict[str, tuple[Metric, int]] = {
    "plane": ("euclidean", 2), "space": ("euclidean", 3), "four": ("euclidean", 4), "seven": ("euclidean", 7),
    "minkowski": ("minkowski", 4), "minkowski_3": ("minkowski", 3), "delta_r": ("delta_r", 2), "jets": ("delta_r", 4),
    "weights": ([1.0, 0.5, 0.0, 2.0, 1.0], 5),
}  # fmt: skip
EVENTS = torch.tensor([0, 3, 3, 4, 12, 80])


def search(x: Tensor, metric: Metric, k: int = 5, r: float = 1.5, loop: bool = False) -> list[Tensor]:
    """Results of the searches: k nearest, those within a radius, and their distances."""
    graph, distance = ek.radius_graph(x, r, EVENTS, metric, loop=loop, return_distance=True)
    return [*ek.k_nearest(x, k, EVENTS, metric, loop=loop, radius=r), graph.edge_index, distance]


@pytest.mark.parametrize("name", METRICS)
def test_neighbours_are_those_of_the_cpu_kernels(name: str, built: Emulator, poisoned: None) -> None:
    metric, dim = METRICS[name]
    x = four_vectors(80, torch.Generator().manual_seed(0)) if dim == 4 else 2 * torch.randn(80, dim).double()
    for k, r, loop, dtype in ((5, 1.5, True, torch.float64), (34, math.inf, False, torch.float32)):
        expected = search(x.to(dtype), metric, k, r, loop)
        before = built.launches
        with built.installed():
            found = search(x.to(dtype), metric, k, r, loop)
        assert built.launches == before + 3
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))  # to the last bit


@pytest.mark.parametrize("name", ["space", "minkowski", "delta_r", "weights"])
def test_neighbours_that_tie_or_are_not_finite(name: str, emulator: Emulator) -> None:
    """Coordinates on a grid: nearly everything is a tie, and products are exact."""
    metric, dim = METRICS[name]
    x = torch.randint(0, 3, (80, dim)).double()
    x[1, 0], x[50, 1], x[77, -1] = math.nan, math.inf, -math.inf
    for k, r in ((4, 1.0), (40, 9.0)):
        with ek.use_backend("reference"):
            expected = search(x, metric, k, r)
        assert all(torch.equal(a, b) for a, b in zip(search(x, metric, k, r), expected, strict=True))


def test_no_order_of_blocks_and_threads_changes_a_neighbour(emulator: Emulator) -> None:
    x = torch.randint(0, 3, (80, 3)).double()
    first = search(x, "euclidean", 34)
    for seed, most_blocks in ((1, 0), (2, 0), (3, 1), (0, 3)):
        with emulator.schedule(seed, most_blocks):
            assert all(torch.equal(a, b) for a, b in zip(search(x, "euclidean", 34), first, strict=True))


def test_events_without_neighbours(emulator: Emulator) -> None:
    none = torch.zeros(0, 3)
    assert ek.k_nearest(none, 2)[0].shape == (0, 2)
    assert ek.radius_graph(none, 1.0).num_edges == 0
    assert ek.radius_graph(torch.zeros(1, 3), 1.0).num_edges == 0
