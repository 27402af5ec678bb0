"""Tests edge_network beyond the generic checks: both ways to read a node, errors, unneeded gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.nn.edge_chain import FEW, EdgeChain
from equikernels.ops.edge_network.spec import EdgeLayer

GRAPH = ek.Graph.from_edge_index(torch.tensor([[0, 1, 2, 2, 4, 0], [1, 2, 0, 4, 2, 4]]), 5)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [1, FEW, FEW + 1])
def test_features_read_or_added_are_the_same(width: int) -> None:
    """A first layer on [h_i, h_j, a_ij] can also be computed from two node tables; both give the same result."""
    h, a, weight = normal(5, width), normal(6, 2, seed=1), normal(3, 2 * width + 2, seed=2)
    u, v, q = weight.tensor_split([width, 2 * width], dim=1)
    layers = [EdgeLayer(weight, normal(3, seed=3), "silu"), EdgeLayer(normal(2, 3, seed=4))]
    chain = EdgeChain.of(layers, u, v, q)
    assert (chain.nodes is None) == (width <= FEW)
    found = chain.run(h, GRAPH, edge_attr=a, messages_at=1).messages
    network = ek.EdgeNetwork.of([layers[0]._replace(weight=q), layers[1]])
    added = ek.edge_network(network, GRAPH, receiver=h @ u.T, sender=h @ v.T, edge_attr=a, messages_at=1).messages
    assert found is not None
    torch.testing.assert_close(found, added)


@pytest.mark.parametrize("ends", ["added", "inputs"])
@pytest.mark.parametrize("wanted", ["receiver", "sender", "x", "edge_attr"])
def test_one_gradient_alone(ends: str, wanted: str) -> None:
    """Requested outputs do not depend on which others are requested."""
    given = {"receiver": normal(5, 3), "sender": normal(5, 3, seed=1), "x": normal(5, 2, seed=2)}
    given["edge_attr"] = normal(6, 4, seed=3)
    columns = 2 + 4 + (6 if ends == "inputs" else 0)
    network = ek.EdgeNetwork.of([EdgeLayer(normal(3, columns, seed=4)), EdgeLayer(normal(1, 3, seed=5))])

    def gradients(names: set[str]) -> dict[str, Tensor]:
        leaves = {name: t.clone().requires_grad_(name in names) for name, t in given.items()}
        out = ek.edge_network(network, GRAPH, ends=ends, invariants="both", coordinates=True, **leaves)
        assert out.coordinates is not None
        out.coordinates.square().sum().backward()
        return {name: t.grad for name, t in leaves.items() if t.grad is not None}

    alone, together = gradients({wanted}), gradients(set(given))
    assert set(alone) == {wanted}
    assert set(together) == set(given)
    assert torch.equal(alone[wanted], together[wanted])


def test_errors_name_the_argument() -> None:
    narrow, wide = (ek.EdgeNetwork.of([EdgeLayer(normal(3, k))]) for k in (2, 6))
    h, a = normal(5, 2), normal(6, 2)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"ends": "joined", "receiver": h}, "ends: expected one of added, inputs, got 'joined'"),
        ({"receiver": h}, r"receiver: expected shape \[5, 3\], got \[5, 2\]"),
        ({"receiver": h[1:], "ends": "inputs"}, r"graph: expected 4 nodes, got 5"),
        ({"receiver": h, "sender": h[:, :1], "ends": "inputs"}, r"sender: expected shape \[5, 2\], got \[5, 1\]"),
        ({"receiver": h[:, :0], "ends": "inputs"}, r"receiver: expected at least one column, got \[5, 0\]"),
        (
            {"receiver": h, "sender": h, "ends": "inputs", "network": narrow},
            "network: expected a first layer of 4 columns, for invariants, both ends and edge attributes, got 2 col",
        ),
        (
            {"receiver": normal(5, 3), "edge_attr": a},
            "network: expected a first layer of 2 columns, for invariants and edge attributes, got 6 columns",
        ),
        ({"receiver": h, "graph": None}, "graph: expected a Graph, or edge_attr and edges_at alone, got None with"),
        (
            {"sender": h, "graph": None, "ends": "inputs"},
            r"graph: expected a Graph, or receiver and edge_attr and edges_at alone, got None with \['sender'\]",
        ),
        ({"receiver": h, "edge_attr": a, "graph": None, "ends": "inputs"}, "edge_attr: expected 5 rows, as receiver"),
        ({"edge_attr": a, "edges_at": 1}, "edges_at: expected a layer from 0 to 0, or None, got 1"),
        ({"edge_attr": a, "invariants": "both"}, "receiver: expected a tensor: without receiver, sender and x"),
    ]
    for arguments, message in cases:
        given: dict[str, Any] = {"network": wide, "graph": GRAPH, "edges_at": 0, **arguments}
        with pytest.raises(ValueError, match=f"^edge_network: {message}"):
            ek.edge_network(given.pop("network"), given.pop("graph"), **given)
