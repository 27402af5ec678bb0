"""Rank-2 ops on all pairs of a few jets, against the packed formulation of pelican-hep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import equikernels as ek
from equikernels.published import pelican_hep

from ..baselines.index_add import segment_sum
from ..conftest import EQUIKERNELS, INDEX_ADD

C, D, NBAR = 35, 60, 49.0  # PELICAN's


SIZES = {"one particle": torch.tensor([0, 1]), "one jet": torch.tensor([0, 52])}


@pytest.fixture(scope="session", params=[*SIZES, "16 jets"])
def graph(request: pytest.FixtureRequest) -> ek.Graph:
    ptr = SIZES[request.param] if request.param in SIZES else ek.data.load_sample_jets()[:16].ptr
    return ek.Graph.complete(ptr, True).to(request.config.getoption("--device"))


@pytest.fixture(params=[EQUIKERNELS, INDEX_ADD])
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def edges(graph: ek.Graph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert graph.ptr is not None
    return tuple(t.to(graph.device) for t in pelican_hep.make_edges(graph.ptr.cpu()))  # type: ignore[return-value]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_rank2_reduce(measure: Callable[..., None], graph: ek.Graph, edges: tuple[Tensor, ...]) -> None:
    i, j, _, _ = edges
    own = (i == j).nonzero().squeeze(1)

    def plain(graph: ek.Graph, T: Tensor) -> Tensor:
        return torch.cat([segment_sum(T, i, graph.num_nodes), segment_sum(T, j, graph.num_nodes), T[own]], dim=1)

    implementations = {
        EQUIKERNELS: lambda graph, T: torch.cat(ek.rank2_reduce(T, graph), dim=1),
        INDEX_ADD: plain,
    }
    measure("rank2_reduce, sum", implementations, [random(graph.num_edges, C)], 2 * C * graph.num_edges)


def test_rank2_broadcast(measure: Callable[..., None], graph: ek.Graph, edges: tuple[Tensor, ...]) -> None:
    i, j, _, event = edges
    own = (i == j)[:, None]

    def plain(graph: ek.Graph, row: Tensor, col: Tensor, diag: Tensor, of_event: Tensor) -> Tensor:
        return row[i] + col[j] + own * diag[i] + of_event[event[i]]

    implementations = {
        EQUIKERNELS: lambda graph, *parts: ek.rank2_broadcast(*parts, ptr=graph),
        INDEX_ADD: plain,
    }
    rows = random(3, graph.num_nodes, C)
    inputs = [*rows, random(int(event[-1]) + 1, C)]
    measure("rank2_broadcast", implementations, inputs, 2 * C * graph.num_edges)


def test_linear_2to2(measure: Callable[..., None], graph: ek.Graph, edges: tuple[Tensor, ...]) -> None:
    events = int(edges[3][-1]) + 1

    def ours(graph: ek.Graph, T: Tensor, *weights: Tensor) -> Tensor:
        return ek.linear_2to2(T, graph, *weights, how=ek.Aggregation(nbar=NBAR), activation="leaky_relu")

    def plain(graph: ek.Graph, T: Tensor, *weights: Tensor) -> Tensor:
        return pelican_hep.linear_2to2(T, *weights, NBAR, edges, events)

    weights = [random(C, D, 15) / (15 * C) ** 0.5, random(D), random(D)]
    inputs = [random(graph.num_edges, C), *weights]
    # products of pairs, particles and events
    flops = 2 * C * D * (2 * graph.num_edges + 9 * graph.num_nodes + 4 * events) + 2 * C * graph.num_edges
    measure(f"linear_2to2, {C} to {D}", {EQUIKERNELS: ours, INDEX_ADD: plain}, inputs, flops)


def test_pairwise_linear(measure: Callable[..., None], graph: ek.Graph) -> None:
    def ours(graph: ek.Graph, T: Tensor, w: Tensor, b: Tensor) -> Tensor:
        out = ek.pairwise_linear(T, w, b, activation="leaky_relu")
        return out if isinstance(out, Tensor) else out[0]

    def plain(graph: ek.Graph, T: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.leaky_relu(F.linear(T, w, b), 0.01)

    inputs = [random(graph.num_edges, D), random(C, D) / D**0.5, random(C)]
    flops = 2 * C * D * graph.num_edges
    measure(f"pairwise_linear, {D} to {C}", {EQUIKERNELS: ours, INDEX_ADD: plain}, inputs, flops)
