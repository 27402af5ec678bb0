"""Tests error messages of the ops, and accepted kinds of integers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.ops.edge_network.spec import ACTIVATIONS, NORM

W = torch.zeros
EDGES = ek.Graph.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]), 3)
EVENT = ek.Graph.complete(torch.tensor([0, 3]))
X, H, T = torch.zeros(3, 4), torch.zeros(3, 5), torch.zeros(9, 2)


def network(*widths: Any, steps: Any = None, inputs: Any = 3, weights: Tensor | None = None) -> ek.EdgeNetwork:
    size, columns = 0, inputs
    for width in widths:
        size += (columns + 1) * width
        columns = width
    return ek.EdgeNetwork(W(size) if weights is None else weights, inputs, widths, steps or (1,) * len(widths))


def rows(network: Any, **options: Any) -> ek.ops.edge_network.EdgeOutput:
    return ek.edge_network(network, None, edge_attr=W(3, 3), **{"edges_at": 0, **options})


def messages(**options: Any) -> Any:
    return ek.message_passing(H, H, X, EDGES, **options)


def statistics(**options: Any) -> Any:
    return ek.message_statistics(H, H, **{"x": X, "graph": EDGES, **options})


def layer(batch: Any = None, **options: Any) -> Tensor:
    return ek.linear_2to2(T, EVENT if batch is None else batch, W(2, 2, 15), **options)


# Each names the op and the argument.
REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("edge_network: network.widths", lambda: rows(network(513))),
    ("edge_network: network.widths", lambda: rows(network(2, 0, 2))),
    ("edge_network: network.widths", lambda: rows(network(2, True))),
    ("edge_network: network.widths", lambda: rows(ek.EdgeNetwork(W(8), 3, (2.0,), (1,)))),  # type: ignore[arg-type]
    ("edge_network: network", lambda: rows(network(*[2] * 33))),
    ("edge_network: network", lambda: rows(network())),
    ("edge_network: network", lambda: rows(network(2, 2, steps=(1,)))),
    ("edge_network: network", lambda: rows([])),
    ("edge_network: network.steps", lambda: rows(network(2, steps=(NORM + len(ACTIVATIONS),)))),
    ("edge_network: network.steps", lambda: rows(network(2, steps=(len(ACTIVATIONS),)))),
    ("edge_network: network.steps", lambda: rows(network(2, steps=(-1,)))),
    ("edge_network: network.inputs", lambda: rows(ek.EdgeNetwork(W(2), -1, (2,), (0,)))),
    ("edge_network: network.weights", lambda: rows(network(2, weights=W(7)))),
    ("edge_network: edges_at", lambda: rows(network(2), edges_at=-1)),
    ("edge_network: edges_at", lambda: rows(network(2), edges_at=1)),
    ("edge_network: edges_at", lambda: rows(network(2), edges_at=False)),
    ("edge_network: edges_at", lambda: rows(network(2), edges_at=0.0)),
    ("edge_network: messages_at", lambda: ek.edge_network(network(2), EDGES, x=X, edge_attr=W(3, 3), messages_at=2)),
    ("edge_network: negative_slope", lambda: rows(network(2), negative_slope="a")),
    ("edge_network: negative_slope", lambda: rows(network(2), negative_slope=math.inf)),
    ("edge_network: clamp", lambda: rows(network(2), clamp="a")),
    ("EdgeNetwork: layers[0] weight", lambda: ek.EdgeNetwork.of([ek.EdgeLayer(W(513, 3))])),
    ("EdgeNetwork: layers[1] weight", lambda: ek.EdgeNetwork.of([ek.EdgeLayer(W(2, 3)), ek.EdgeLayer(W(0, 2))])),
    ("EdgeNetwork: layers", lambda: ek.EdgeNetwork.of([ek.EdgeLayer(W(2, 2))] * 33)),
    ("message_passing: layers[0]", lambda: messages(layers=[(None, None), (W(5, 5), None)])),
    ("message_passing: layers[0]", lambda: messages(layers=[(None, W(5))])),
    ("message_passing: layers[1]", lambda: messages(layers=[(W(5, 5), None), W(5, 5)])),
    ("message_passing: layers", lambda: messages(layers=[(W(5, 5), None)] * 3)),
    ("message_passing: gate", lambda: messages(gate=(None, W(1)))),
    ("message_passing: gate", lambda: messages(gate=W(5))),
    ("message_passing: head", lambda: messages(head=(W(2, 5), None, None))),
    ("message_passing: head", lambda: messages(head=(None, None, W(2)))),
    ("message_passing: head", lambda: messages(head=(W(2, 5), None))),
    ("message_passing: negative_slope", lambda: messages(negative_slope=math.nan)),
    ("message_passing: negative_slope", lambda: messages(negative_slope=None)),
    ("message_passing: clamp", lambda: messages(clamp="1")),
    ("message_passing: metric", lambda: messages(metric=[math.inf, 1, 1, 1])),
    ("message_statistics: invariant_weight", lambda: statistics(invariant_weight=W(5, 1))),
    ("message_statistics: invariant_weight", lambda: statistics(invariant_weight=W(4, 2))),
    ("message_statistics: invariants", lambda: statistics(invariant_weight=W(5, 2), invariants="up")),
    ("message_statistics: x", lambda: statistics(invariant_weight=W(5, 2), x=None)),
    ("message_statistics: x", lambda: statistics(invariant_weight=W(5, 2), x=W(2, 4))),
    ("message_statistics: edge_weight", lambda: statistics(edge_attr=W(3, 2), edge_weight=W(5, 1))),
    ("message_statistics: edge_weight", lambda: statistics(edge_attr=W(3, 2))),
    ("message_statistics: edge_weight", lambda: statistics(edge_weight=W(5, 2))),
    ("message_statistics: edge_attr", lambda: statistics(edge_attr=W(4, 2), edge_weight=W(5, 2))),
    ("pairwise_invariants: metric", lambda: ek.pairwise_invariants(X, EDGES, [1, 1, 1, math.nan])),
    ("coordinate_update: c", lambda: ek.coordinate_update(X, W(3), EDGES, c=math.inf)),
    ("coordinate_update: c", lambda: ek.coordinate_update(X, W(3), EDGES, c="1")),  # type: ignore[arg-type]
    *(
        (f"{name}: {argument}", lambda f=f, bad=bad: f(bad))
        for name, argument, f in (
            ("k_nearest", "k", lambda k: ek.k_nearest(X, k)),
            ("knn_graph", "k", lambda k: ek.knn_graph(X, k)),
            ("radius_graph", "max_num_neighbors", lambda k: ek.radius_graph(X, 1.0, max_num_neighbors=k)),
            ("linear_2to2", "padded_to", lambda k: layer(ek.PairBatch(EVENT, padded_to=k), how=ek.Aggregation("n"))),
        )
        for bad in (-1, True, np.bool_(True), 2.0, np.float64(2), np.int32(-3), "2", torch.tensor(True), torch.ones(2))
    ),
    ("k_nearest: k", lambda: ek.k_nearest(X, None)),  # type: ignore[arg-type]
    ("k_nearest: radius", lambda: ek.k_nearest(X, 1, radius="1")),  # type: ignore[arg-type]
    ("radius_graph: r", lambda: ek.radius_graph(X, "1")),  # type: ignore[arg-type]
    ("linear_2to2: negative_slope", lambda: layer(activation="leaky_relu", negative_slope=math.inf)),
    ("linear_2to2: negative_slope", lambda: layer(activation="leaky_relu", negative_slope=0)),
]


@pytest.mark.parametrize(("named", "call"), REFUSED, ids=[f"{k}-{named}" for k, (named, _) in enumerate(REFUSED)])
def test_refusals_name_the_argument_and_no_source_file(named: str, call: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(named)}: expected .*, got ") as error:
        call()
    assert not re.search(r"\.cpp|\.h\b|Exception raised from", str(error.value))


INTEGERS = [np.int64, np.int32, np.uint8, torch.tensor]


@pytest.mark.parametrize("kind", INTEGERS, ids=["int64", "int32", "uint8", "tensor"])
def test_integers_of_any_kind(kind: Callable[[int], Any]) -> None:
    x = torch.randn(6, 3)
    two, given = kind(2), W(3, 3) + torch.arange(3.0)
    made = ek.EdgeNetwork(torch.randn(8), kind(3), (two,), (kind(1),))
    plain = made._replace(inputs=3, widths=(2,), steps=(1,))
    pairs = [
        (lambda k: ek.k_nearest(x, k)[0], 2),
        (lambda k: ek.knn_graph(x, k).edge_index, 2),
        (lambda k: ek.radius_graph(x, 9.0, max_num_neighbors=k).edge_index, 2),
        (lambda k: layer(ek.PairBatch(EVENT, padded_to=k), how=ek.Aggregation("n")).shape[1], 2),
    ]
    for f, number in pairs:
        found, expected = f(kind(number)), f(number)
        assert torch.equal(found, expected) if isinstance(found, Tensor) else found == expected
    outs = [ek.edge_network(n, None, edge_attr=given, edges_at=at).edges for n, at in ((made, kind(0)), (plain, 0))]
    assert torch.equal(*outs)  # type: ignore[arg-type]


def test_widths_up_to_the_limit(backend: str) -> None:
    made = ek.EdgeNetwork.of([ek.EdgeLayer(torch.randn(512, 3)), *[ek.EdgeLayer(torch.randn(512, 512) / 23)] * 2])
    edge_attr = torch.randn(5, 3)
    out = ek.edge_network(made, None, edge_attr=edge_attr, edges_at=2).edges
    with ek.use_backend("reference"):
        expected = ek.edge_network(made, None, edge_attr=edge_attr, edges_at=2).edges
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
