"""Ops with a network on every edge against the same formula in plain PyTorch, and PELICAN's encoder."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from equikernels.ops.edge_network.spec import ACTIVATIONS, NORM
from torch import Tensor

import equikernels as ek

from ..conftest import EQUIKERNELS, GRAPHS, INDEX_ADD, Implementation, jets, prepared

H = 72  # LorentzNet's block
EUCLID = (8, 8, 8, 8, 8, 1)  # EuclidNet's: edges, messages, weights of differences
FEWER = {**GRAPHS, "20 jets": lambda: jets(20)}  # plain PyTorch would take minutes for a hundred
del FEWER["100 jets"]


@pytest.fixture(scope="session", params=FEWER)
def graph(request: pytest.FixtureRequest) -> ek.Graph:
    return prepared(FEWER[request.param](), request)


@pytest.fixture(params=[EQUIKERNELS, INDEX_ADD])
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


def beside_plain(ours: Implementation) -> dict[str, Implementation]:
    """The op, and its formula with a row for each edge and index_add_."""

    def plain(*arguments: object) -> Tensor:
        with ek.use_backend("reference"):
            return ours(*arguments)

    return {EQUIKERNELS: ours, INDEX_ADD: plain}


def block(graph: ek.Graph, u: Tensor, v: Tensor, x: Tensor, inner: Tensor, square: Tensor, rows: Tensor) -> Tensor:
    """Messages and coordinates of LorentzNet's block; square [2, H, H] and rows [4, H]: its weights."""
    messages, coordinates = ek.message_passing(
        u,
        v,
        x,
        graph,
        invariant_weight=inner,
        layers=[(square[0], rows[0])],
        gate=(rows[1:2], None),
        head=(square[1], rows[2], rows[3:]),
        clamp=100.0,
    )
    assert coordinates is not None
    return torch.cat([messages, coordinates], dim=1)


def euclid(graph: ek.Graph, h: Tensor, x: Tensor, attr: Tensor, weights: Tensor) -> Tensor:
    """Messages and coordinates of EuclidNet's block, which reads features of both ends and of the edge."""
    steps = (("silu", 1), ("identity", 0), ("silu", 1), ("sigmoid", 1), ("silu", 1), ("identity", 0))
    numbers = tuple(ACTIVATIONS.index(name) + NORM * norm for name, norm in steps)
    network = ek.EdgeNetwork(weights, 2 + 3 * EUCLID[0], EUCLID, numbers)
    where = {"ends": "inputs", "invariants": "both", "messages_at": 3, "coordinates": True, "clamp": 100.0}
    out = ek.edge_network(network, graph, receiver=h, sender=h, x=x, edge_attr=attr, **where)  # type: ignore[arg-type]
    assert out.messages is not None
    assert out.coordinates is not None
    return torch.cat([out.messages, out.coordinates], dim=1)


def momenta(n: int, generator: torch.Generator) -> Tensor:
    p = torch.randn(n, 3, generator=generator)
    return torch.cat([(p.square().sum(1, keepdim=True) + 1).sqrt(), p], dim=1)


def test_message_passing(measure: Callable[..., None], graph: ek.Graph) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((graph.num_nodes, H), (graph.num_nodes, H), (H, 2), (2, H, H), (4, H))
    u, v, inner, square, rows = (torch.randn(s, generator=generator) for s in shapes)
    inputs = [u, v, momenta(graph.num_nodes, generator), inner, square / H**0.5, rows / H**0.5]
    flops = graph.num_edges * (4 * H * H + 10 * H)
    measure("message_passing, LorentzNet's block", beside_plain(block), inputs, flops, kinks=True)


def test_edge_network(measure: Callable[..., None], graph: ek.Graph) -> None:
    generator, width = torch.Generator().manual_seed(0), EUCLID[0]
    shapes = ((graph.num_nodes, width), (graph.num_nodes, 3), (graph.num_edges, width))
    h, x, attr = (torch.randn(shape, generator=generator) for shape in shapes)
    inputs = (2 + 3 * width, *EUCLID[:-1])
    products = sum(a * b for a, b in zip(inputs, EUCLID, strict=True))
    weights = torch.randn(products + sum(EUCLID), generator=generator) / width**0.5
    op = "edge_network, EuclidNet's block"
    measure(op, beside_plain(euclid), [h, x, attr, weights], 2 * products * graph.num_edges)


def test_encode_invariants(measure: Callable[..., None], graph: ek.Graph) -> None:
    z = torch.randn(graph.num_edges, 50, generator=torch.Generator().manual_seed(0))
    inputs = [z, torch.linspace(0.05, 0.5, 50)]
    measure("encode_invariants, 50 channels", beside_plain(lambda graph, z, t: ek.encode_invariants(z, t)), inputs)
