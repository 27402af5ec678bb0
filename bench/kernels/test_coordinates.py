from __future__ import annotations

from collections.abc import Callable

import torch

import equikernels as ek

from ..baselines import index_add, pyg

IMPLEMENTATIONS = {
    "equikernels": lambda graph, x, weight: ek.coordinate_update(x, weight, graph),
    "index_add_": lambda graph, x, weight: index_add.coordinate_update(x, weight, graph.receiver, graph.sender),
    "PyG": lambda graph, x, weight: pyg.coordinate_update(x, weight, graph.receiver, graph.sender),
}


def test_coordinate_update(measure: Callable[..., None], graph: ek.Graph) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(graph.num_nodes, 4, generator=generator)
    weight = torch.randn(graph.num_edges, 1, generator=generator)
    measure("coordinate_update", IMPLEMENTATIONS, [x, weight])
