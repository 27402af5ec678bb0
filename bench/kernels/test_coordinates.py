from __future__ import annotations

from collections.abc import Callable

import torch

import equikernels as ek

from ..conftest import everyone

IMPLEMENTATIONS = everyone(
    lambda graph, x, weight: ek.coordinate_update(x, weight, graph),
    lambda by, graph, x, weight: by.coordinate_update(x, weight, graph.receiver, graph.sender),
)
FLOPS = 12  # of an edge: four differences, products and sums


def test_coordinate_update(measure: Callable[..., None], graph: ek.Graph) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(graph.num_nodes, 4, generator=generator)
    weight = torch.randn(graph.num_edges, 1, generator=generator)
    measure("coordinate_update", IMPLEMENTATIONS, [x, weight], FLOPS * graph.num_edges)
