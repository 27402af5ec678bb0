from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import equikernels as ek

from ..conftest import EQUIKERNELS, INDEX_ADD, PYG, everyone

IMPLEMENTATIONS = everyone(
    lambda graph, x: ek.pairwise_invariants(x, graph),
    lambda by, graph, x: by.pairwise_invariants(x, graph.receiver, graph.sender),
)
FLOPS = 24  # of an edge: a difference, two products, two logarithms of one each


@pytest.fixture(params=[EQUIKERNELS, INDEX_ADD, PYG])  # nothing is scattered
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


def test_pairwise_invariants(measure: Callable[..., None], graph: ek.Graph) -> None:
    p = 10 * torch.randn(graph.num_nodes, 3, generator=torch.Generator().manual_seed(0))
    x = torch.cat([(p.square().sum(1, keepdim=True) + 1).sqrt(), p], dim=1)
    measure("pairwise_invariants", IMPLEMENTATIONS, [x], FLOPS * graph.num_edges)
