from __future__ import annotations

import pytest
import torch

import equikernels as ek

from ..conftest import EQUIKERNELS, INDEX_ADD


@pytest.fixture(scope="session", params=["20k edges"])
def graph(request: pytest.FixtureRequest) -> ek.Graph:
    """20k edges over 2,500 nodes, in random order."""
    edges = torch.randint(0, 2_500, (2, 20_000), generator=torch.Generator().manual_seed(0))
    graph = ek.Graph.from_edge_index(edges, 2_500)
    graph.table  # noqa: B018 (made on first use; not what is measured)
    return graph


@pytest.fixture(params=[EQUIKERNELS, INDEX_ADD])
def implementation(request: pytest.FixtureRequest) -> str:
    """The published formula is what index_add_ stands for here."""
    return request.param
