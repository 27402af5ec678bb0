"""Ops with a network on every edge against the same formula in plain PyTorch, and PELICAN's encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek

from ..conftest import EQUIKERNELS, GRAPHS, INDEX_ADD, Implementation, jets, prepared

H = 72  # LorentzNet's block
EUCLID = (8, 8, 8, 8, 8, 1)  # EuclidNet's: edges, messages, weights of differences
ACTIVATIONS, NORMS = ("silu", "identity", "silu", "sigmoid", "silu", "identity"), (1, 0, 1, 1, 1, 0)
FORMULA = ("receiver", "sender", "invariants")
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


def block(graph: ek.Graph, h: Tensor, x: Tensor, first: Tensor, square: Tensor, rows: Tensor) -> Tensor:
    """Messages and coordinates of LorentzNet's block; first [H, 2 H + 2], square [2, H, H] and rows [4, H]: its
    weights."""
    layers = [ek.Layer(first, None, "relu"), ek.Layer(square[0], rows[0], "relu")]
    head = [ek.Layer(square[1], rows[2], "relu"), ek.Layer(rows[3:])]
    mlp = ek.EdgeMLP.of(layers, gate=ek.Layer(rows[1:2], None, "sigmoid"), head=head, order=FORMULA)
    return both(mlp, graph, h=h, x=x, geometry=ek.Geometry(clamp=100.0), coordinates="mean")


def euclid(graph: ek.Graph, h: Tensor, x: Tensor, attr: Tensor, weights: Tensor) -> Tensor:
    """Messages and coordinates of EuclidNet's block, which reads features of both ends and of the edge."""
    layers, at = [], 0
    for n_in, n_out, activation, norm in zip((2 + 3 * EUCLID[0], *EUCLID), EUCLID, ACTIVATIONS, NORMS, strict=False):
        weight = weights[at : at + n_in * n_out].view(n_out, n_in)
        bias = weights[at + n_in * n_out :][:n_out]
        layers.append(ek.Layer(weight, bias, activation, norm=ek.Norm("layer") if norm else None))
        at += (n_in + 1) * n_out
    mlp = ek.EdgeMLP.of(layers[:4], head=layers[4:], order=(*FORMULA, "edge_attr"))
    geometry = ek.Geometry(metric="euclidean", clamp=100.0)
    return both(mlp, graph, h=h, x=x, edge_attr=attr, geometry=geometry, coordinates="sum")


def both(mlp: ek.EdgeMLP, graph: ek.Graph, **inputs: Any) -> Tensor:
    out = ek.message_passing(mlp, graph, **inputs)
    assert out.messages is not None
    assert out.coordinates is not None
    return torch.cat([out.messages, out.coordinates], dim=1)


def momenta(n: int, generator: torch.Generator) -> Tensor:
    p = torch.randn(n, 3, generator=generator)
    return torch.cat([(p.square().sum(1, keepdim=True) + 1).sqrt(), p], dim=1)


def test_message_passing(measure: Callable[..., None], graph: ek.Graph) -> None:
    generator = torch.Generator().manual_seed(0)
    h, *weights = (
        torch.randn(s, generator=generator) for s in ((graph.num_nodes, H), (H, 2 * H + 2), (2, H, H), (4, H))
    )
    inputs = [h, momenta(graph.num_nodes, generator), *(w / H**0.5 for w in weights)]
    flops = graph.num_edges * (4 * H * H + 10 * H)
    measure("message_passing, LorentzNet's block", beside_plain(block), inputs, flops, kinks=True)


def test_deep_message_passing(measure: Callable[..., None], graph: ek.Graph) -> None:
    generator, width = torch.Generator().manual_seed(0), EUCLID[0]
    shapes = ((graph.num_nodes, width), (graph.num_nodes, 3), (graph.num_edges, width))
    h, x, attr = (torch.randn(shape, generator=generator) for shape in shapes)
    inputs = (2 + 3 * width, *EUCLID[:-1])
    products = sum(a * b for a, b in zip(inputs, EUCLID, strict=True))
    weights = torch.randn(products + sum(EUCLID), generator=generator) / width**0.5
    op = "message_passing, EuclidNet's block"
    # LayerNorm amplifies roundings: of two edges' gradients in float32 the errors of both sides differ by up to 20
    # times, either way (40 seeds; in the geometric mean they are equal). So they are compared in float64, as at kinks.
    few = graph.num_edges <= 2
    measure(op, beside_plain(euclid), [h, x, attr, weights], 2 * products * graph.num_edges, kinks=few)


def test_encode_invariants(measure: Callable[..., None], graph: ek.Graph) -> None:
    z = torch.randn(graph.num_edges, 50, generator=torch.Generator().manual_seed(0))
    inputs = [z, torch.linspace(0.05, 0.5, 50)]
    measure("encode_invariants, 50 channels", beside_plain(lambda graph, z, t: ek.encode_invariants(z, t)), inputs)
