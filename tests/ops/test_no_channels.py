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


@pytest.mark.parametrize(("width", "hidden"), [(0, 3), (3, 0), (0, 0)])
def test_messages(width: int, hidden: int, poisoned: None) -> None:
    graph = ek.Graph.complete(PTR)
    a, b, x, s = random(7, width), random(7, width), random(7, 4), random(width, 2)
    layer, head = (random(hidden, width), random(hidden)), (random(2, hidden), random(2), random(2))
    leaves = [a, b, x, s, *layer, *head]

    def run() -> Tensor:
        options = {"invariant_weight": s, "layers": [layer], "head": head}
        return torch.cat(ek.message_passing(a, b, x, graph, **options), dim=1)

    ours = value_and_gradients(run, leaves)
    with ek.use_backend("reference"):
        theirs = value_and_gradients(run, leaves)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("n_in", "n_out"), [(0, 3), (3, 0)])
@pytest.mark.parametrize("backend_name", ["auto", "reference"])
def test_rank_2_layers_refuse(n_in: int, n_out: int, backend_name: str) -> None:
    pairs = ek.Graph.complete(PTR, True)
    with ek.use_backend(backend_name), pytest.raises(ValueError, match="coefs: expected at least one channel"):
        ek.linear_2to2(random(25, n_in), pairs, random(n_in, n_out, 15))
