"""Tests tables without channels: values and gradients of the reference, or an error by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.ops.pairs.rows import pairwise_linear

PTR = torch.tensor([0, 3, 3, 7])


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def value_and_gradients(function, leaves: list[Tensor]) -> list[Tensor]:
    out = function()
    grads = torch.autograd.grad(out, leaves, torch.ones_like(out).cumsum(0), allow_unused=True)
    return [out, *(torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True))]


@pytest.mark.parametrize(("n_in", "n_out"), [(0, 3), (3, 0), (0, 0)])
def test_rows(n_in: int, n_out: int, poisoned: None) -> None:
    leaves = [random(9, n_in), random(n_out, n_in), random(n_out)]
    ours = value_and_gradients(lambda: pairwise_linear(*leaves), leaves)
    with ek.use_backend("reference"):
        theirs = value_and_gradients(lambda: pairwise_linear(*leaves), leaves)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("features", [0, 3])
@pytest.mark.parametrize(("width", "hidden"), [(0, 3), (3, 0), (0, 0), (2, 3)])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_messages(features: int, width: int, hidden: int, activation: str, poisoned: None) -> None:
    """Features, attributes, first layers, messages and heads without columns, of either kernel's networks."""
    graph = ek.Graph.complete(PTR)
    leaves = [random(7, features), random(7, 4), random(graph.num_edges, 0)]
    shapes = (width, 2 * features + 2), (hidden, width), (2, hidden), (1, 2)
    weights, biases = [random(*shape) for shape in shapes], [random(shape[0]) for shape in shapes[:3]]
    kinds = ["relu", activation, "relu"]
    layers = [ek.Layer(w, b, kind) for w, b, kind in zip(weights, biases, kinds, strict=False)]

    def run() -> Tensor:
        mlp = ek.EdgeMLP.of(layers[:2], head=[layers[2], ek.Layer(weights[3])])
        out = ek.message_passing(mlp, graph, h=leaves[0], x=leaves[1], edge_attr=leaves[2], coordinates="sum")
        assert out.messages is not None
        assert out.coordinates is not None
        return torch.cat([out.messages, out.coordinates], dim=1)

    leaves += [*weights, *biases]
    ours = value_and_gradients(run, leaves)
    with ek.use_backend("reference"):
        theirs = value_and_gradients(run, leaves)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("columns", [(0,), (0, 3), (2, 0, 1), (0, 0)])
@pytest.mark.parametrize("hidden", [0, 4, 60])
@pytest.mark.parametrize("rows", [0, 5])
def test_row_networks(columns: tuple[int, ...], hidden: int, rows: int, poisoned: None) -> None:
    tables, weights = [random(rows, c) for c in columns], [random(hidden, sum(columns)), random(2, hidden)]
    bias = random(hidden)
    mlp = ek.EdgeMLP.of([ek.Layer(weights[0], bias, "silu"), ek.Layer(weights[1])])
    leaves = [*tables, *weights, bias]
    ours = value_and_gradients(lambda: ek.row_mlp(mlp, *tables), leaves)
    with ek.use_backend("reference"):
        theirs = value_and_gradients(lambda: ek.row_mlp(mlp, *tables), leaves)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("n_in", "n_out"), [(0, 3), (3, 0)])
@pytest.mark.parametrize("backend_name", ["auto", "reference"])
def test_rank_2_layers_refuse(n_in: int, n_out: int, backend_name: str) -> None:
    pairs = ek.Graph.complete(PTR, True)
    with ek.use_backend(backend_name), pytest.raises(ValueError, match="coefs: expected at least one channel"):
        ek.linear_2to2(random(25, n_in), pairs, random(n_in, n_out, 15))
