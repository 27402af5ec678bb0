"""Defines coordinate_update."""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import Graph


def clamped(y: Tensor, bound: float | None) -> Tensor:
    """y within [-bound, bound]; None: no bound. The derivative is one up to and at the bound, zero beyond it, and NaN
    for NaN, as in the kernels and in torch.clamp, except in PyTorch 2.15, where it is zero at the bound."""
    if bound is None:
        return y
    return torch.where(y.abs() <= bound, y, y.detach().clamp(-bound, bound))


def coordinate_update(
    x: Tensor, weight: Tensor, graph: Graph, c: float, clamp: float | None, mean: bool, difference: bool
) -> Tensor:
    x_j = x[graph.sender]
    t = weight.unsqueeze(-1) * (x[graph.receiver] - x_j if difference else x_j)
    total = torch.zeros_like(x).index_add(0, graph.receiver, clamped(t, clamp))
    if mean:
        total = total / graph.in_degree().clamp(min=1).unsqueeze(-1)
    return x + c * total
