from __future__ import annotations

from collections.abc import Callable

import torch

import equikernels as ek

from ..baselines import index_add, pyg

IMPLEMENTATIONS = {
    "equikernels": lambda graph, x: ek.pairwise_invariants(x, graph),
    "index_add_": lambda graph, x: index_add.pairwise_invariants(x, graph.receiver, graph.sender),
    "PyG": lambda graph, x: pyg.pairwise_invariants(x, graph.receiver, graph.sender),
}


def test_pairwise_invariants(measure: Callable[..., None], graph: ek.Graph) -> None:
    p = 10 * torch.randn(graph.num_nodes, 3, generator=torch.Generator().manual_seed(0))
    x = torch.cat([(p.square().sum(1, keepdim=True) + 1).sqrt(), p], dim=1)
    measure("pairwise_invariants", IMPLEMENTATIONS, [x])
