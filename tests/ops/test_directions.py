"""Tests the directions of the coordinate update: custom norms, and points without a derivative."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek

PLANS = {"channels": 2, "edges": 1}  # which kernel runs: layers of the head
GRAPH = ek.Graph.from_edge_index(torch.tensor([[1, 2, 0, 3], [0, 0, 3, 3]]), 4)


def move(plan: str, x: Tensor, graph: ek.Graph = GRAPH, metric: str = "euclidean", **options: Any) -> Tensor:
    """sum_j d_ij: the network gives 1 on every edge."""
    one = torch.ones(1, 1, dtype=x.dtype)
    first = ek.Layer(0 * one, one[0])
    head = [ek.Layer(one)] * PLANS[plan]
    out = ek.message_passing(
        ek.EdgeMLP.of([first], head=head, order=("receiver",)),
        graph,
        h=x.detach()[:, :1],
        x=x,
        geometry=ek.Geometry(metric=metric, **options),
        messages="none",
        coordinates="sum",
    ).coordinates
    assert out is not None
    return out


def by_hand(x: Tensor, direction: ek.Normed, graph: ek.Graph = GRAPH, eta: Tensor | float = 1.0) -> Tensor:
    d = x[graph.receiver] - x[graph.sender]
    root = ((d * d * eta).sum(1, keepdim=True) + direction.inside).sqrt()
    step = d / ((root.detach() if direction.held else root) + direction.offset)
    return torch.zeros_like(x).index_add(0, graph.receiver, step)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("inside", [0.0, 1e-8, 2.0])
@pytest.mark.parametrize("offset", [0.0, 1e-6, 1.0, 1e3])
@pytest.mark.parametrize("held", [True, False])
def test_norms_are_those_written_out(plan: str, inside: float, offset: float, held: bool, backend: str) -> None:
    direction = ek.Normed(inside, offset, held)
    graph = ek.Graph.from_edge_index(GRAPH.edge_index[:, :3], 4)  # no self-loop, no pair at one place
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(4, 3, dtype=torch.float64)
    results = [move(plan, x, graph, direction=direction), by_hand(x, direction, graph)]
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad(r, x, cotangent)[0] for r in results]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ["unit", "norm_plus_one"])
def test_names_are_settings(plan: str, name: str, backend: str) -> None:
    direction = {"unit": ek.Normed(offset=1e-8, held=True), "norm_plus_one": ek.Normed(offset=1.0)}[name]
    x = torch.randn(4, 3, requires_grad=True)
    found = [move(plan, x, direction=d) for d in (name, direction)]
    assert torch.equal(*found)
    assert torch.equal(*(torch.autograd.grad(f.sin().sum(), x)[0] for f in found))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("which", ["auto", "reference"])
@pytest.mark.parametrize("metric", ["euclidean", "minkowski"])
@pytest.mark.parametrize("apart", [0.0, 1e-17])
def test_where_the_root_is_zero_its_derivative_is_taken_as_zero(
    plan: str, which: str, metric: str, apart: float
) -> None:
    """Nodes 0 and 1 coincide, or nearly; under the Minkowski metric 2 and 0 have a light-like distance."""
    direction = ek.Normed(offset=0.5)
    x = torch.zeros(4, 4, dtype=torch.float64)
    x[1, 1] = apart if metric == "euclidean" else 0.0
    x[2] = torch.tensor([3.0, 0.0, 0.0, 3.0])
    x[3] = torch.tensor([5.0, 1.0, 2.0, 1.0])
    x.requires_grad_()
    with ek.use_backend(which):
        (grad,) = torch.autograd.grad(move(plan, x, metric=metric, direction=direction)[0, 3], x)
    assert grad.isfinite().all()
    if metric == "minkowski":  # both roots are 0: d is (x_0 - x_j) / offset, and nothing else
        torch.testing.assert_close(grad[:, 3], torch.tensor([4.0, -2.0, -2.0, 0.0]).double())
        assert not grad[:, :3].any()


@pytest.mark.parametrize("plan", PLANS)
def test_compiles_and_exports(plan: str) -> None:
    direction = ek.Normed(0.1, 1.0)

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return move(plan, x, direction=direction)

    x = torch.randn(4, 3)
    expected = Module()(x)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(Module(), fullgraph=True, backend="aot_eager")(x), expected)
    assert torch.equal(torch.export.export(Module(), (x,)).module()(x), expected)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    ("direction", "message"),
    [
        ("up", "direction: expected one of difference, unit, norm_plus_one, sender, or a Normed, got 'up'"),
        (3, "direction: expected one of difference, unit, norm_plus_one, sender, or a Normed, got 3"),
        (ek.Normed(-1.0), "direction.inside: expected a number >= 0, got -1.0"),
        (ek.Normed(offset=math.inf), "direction.offset: expected a number >= 0, got inf"),
        (ek.Normed(math.nan), "direction.inside: expected a number >= 0, got nan"),
    ],
)
def test_errors_name_the_argument(plan: str, direction: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"message_passing: {message}"):
        move(plan, torch.randn(4, 3), direction=direction)
