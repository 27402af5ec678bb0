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

W = torch.zeros
EDGES = ek.Graph.from_edge_index(torch.tensor([[0, 1, 2], [1, 2, 0]]), 3)
EVENT = ek.Graph.complete(torch.tensor([0, 3]))
X, H, T = torch.zeros(3, 4), torch.zeros(3, 5), torch.zeros(9, 2)


def messages(**options: Any) -> Any:
    mlp = ek.EdgeMLP.of([ek.Layer(W(2, 12))], order=("receiver", "sender", "invariants"))
    geometry = {k: options.pop(k) for k in ("clamp", "metric", "direction") if k in options}
    return ek.message_passing(mlp, EDGES, h=H, x=X, geometry=ek.Geometry(**geometry), **options)


def layer(batch: Any = None, **options: Any) -> Tensor:
    return ek.linear_2to2(T, EVENT if batch is None else batch, W(2, 2, 15), **options)


# Each names the op and the argument.
REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("message_passing: edges", lambda: messages(edges=-1)),
    ("message_passing: edges", lambda: messages(edges=1)),
    ("message_passing: edges", lambda: messages(edges=0.0)),
    ("message_passing: edges", lambda: messages(edges=None)),
    ("message_passing: geometry.clamp", lambda: messages(clamp="1")),
    ("message_passing: metric", lambda: messages(metric=[math.inf, 1, 1, 1])),
    ("message_passing: direction.inside", lambda: messages(direction=ek.Normed("1"))),  # type: ignore[arg-type]
    ("EdgeMLP: layers[0] weight", lambda: ek.EdgeMLP.of([ek.Layer(None)])),  # type: ignore[arg-type]
    ("EdgeMLP: layers[0] slope", lambda: ek.EdgeMLP.of([ek.Layer(W(2, 3), None, "leaky_relu", math.nan)])),
    ("EdgeMLP: layers[0] slope", lambda: ek.EdgeMLP.of([ek.Layer(W(2, 3), None, "leaky_relu", "a")])),  # type: ignore[arg-type]
    ("EdgeMLP: layers[0] norm eps", lambda: ek.EdgeMLP.of([ek.Layer(W(2, 3), norm=ek.Norm("batch", eps=math.nan))])),
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
    pairs = [
        (lambda k: ek.k_nearest(x, k)[0], 2),
        (lambda k: ek.knn_graph(x, k).edge_index, 2),
        (lambda k: ek.radius_graph(x, 9.0, max_num_neighbors=k).edge_index, 2),
        (lambda k: layer(ek.PairBatch(EVENT, padded_to=k), how=ek.Aggregation("n")).shape[1], 2),
    ]
    for f, number in pairs:
        found, expected = f(kind(number)), f(number)
        assert torch.equal(found, expected) if isinstance(found, Tensor) else found == expected
    layers = [ek.Layer(torch.randn(3, k)) for k in (10, 3, 3, 3)]
    mlp = ek.EdgeMLP.of(layers, order=("sender", "receiver"))
    outs = [ek.message_passing(mlp, EDGES, h=torch.ones(3, 5), edges=k).edges for k in (kind(2), 2)]
    assert torch.equal(*outs)  # type: ignore[arg-type]
