"""What the rank-2 ops mean, in index notation. Pairs are rows (i, j) of a packed tensor, i = j included."""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import Graph
from ..segment import reference as segment

SUM_LETTERS, EXTREMUM_LETTERS = "smSM", "xnXN"


def diagonal(pairs: Graph) -> Tensor:
    """[n]: the row of pair (i, i). Pair (i, j) is row diagonal[i] + j - i."""
    ptr, pair_ptr = pairs._parts()
    event = pairs.events.receiver
    local = torch.arange(pairs.num_nodes, device=ptr.device) - ptr[event]
    return pair_ptr[event] + local * (ptr.diff()[event] + 1)


def transposed(pairs: Graph) -> Tensor:
    """[n_pairs]: the row of pair (j, i)."""
    i, j = pairs.receiver, pairs.sender
    return diagonal(pairs)[j] + i - j


def rank2_reduce(T: Tensor, pairs: Graph, reduce: str, weight: Tensor | None) -> Tensor:
    """diag, cols and rows as [n, 3, C]."""
    sides = [T[transposed(pairs)], T]
    if weight is not None:
        sides = [side * weight[pairs.sender].unsqueeze(-1) for side in sides]
    return torch.stack([T[diagonal(pairs)], *(segment.segment_reduce(side, pairs, reduce) for side in sides)], dim=1)


def rank2_broadcast(table: Tensor, pairs: Graph) -> Tensor:
    diag, col, row = table.unbind(1)
    return (row[pairs.receiver] + col[pairs.sender]).index_add(0, diagonal(pairs), diag)


def activate(z: Tensor, slope: float) -> Tensor:
    if slope == 1:
        return z
    return torch.relu(z) if slope == 0 else torch.nn.functional.leaky_relu(z, slope)


def through(grad: Tensor, out: Tensor | None, slope: float) -> Tensor:
    """What :func:`activate` lets through of a gradient, by what came out of it (not needed at slope 1)."""
    if out is None or slope == 1:
        return grad
    return torch.where(out <= 0, 0, grad) if slope == 0 else torch.where(out > 0, grad, grad * slope)


def rank2_mix(
    T: Tensor,
    identity: Tensor | None,
    transpose: Tensor | None,
    table: Tensor | None,
    pairs: Graph,
    slope: float,
) -> Tensor:
    terms = []
    if identity is not None:
        terms.append(T @ identity)
    if transpose is not None:
        terms.append(T[transposed(pairs)] @ transpose)
    if table is not None:
        terms.append(rank2_broadcast(table, pairs))
    z = terms[0]
    for term in terms[1:]:
        z = z + term
    return activate(z, slope)


def rows_layer(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float, moments: bool) -> tuple[Tensor, Tensor]:
    """act(x W^T + b), and mean and biased variance of its channels, float64 [2, D] (empty where not wanted)."""
    out = activate(torch.nn.functional.linear(x, weight, bias), slope)
    return out, row_moments(out) if moments else out.new_empty(0, dtype=torch.float64)


def row_moments(x: Tensor) -> Tensor:
    """Mean and biased variance of the channels, float64 [2, C]."""
    exact = x.double()
    mean = exact.sum(0) / max(x.shape[0], 1)
    return torch.stack([mean, (exact - mean).square().sum(0) / max(x.shape[0], 1)])


def rows_layer_gradient(
    grad: Tensor | None, to_mean: Tensor | None, to_out: Tensor | None, out: Tensor, slope: float
) -> Tensor:
    """act'(out) (grad + to_mean + to_out out), [R, D]."""
    g = torch.zeros_like(out) if grad is None else grad
    if to_mean is not None:
        g = g + to_mean
    if to_out is not None:
        g = g + to_out * out
    return through(g, out, slope)


def rows_layer_backward(
    grad: Tensor | None,
    to_mean: Tensor | None,
    to_out: Tensor | None,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    g = rows_layer_gradient(grad, to_mean, to_out, out, slope)
    return g @ weight, g.t() @ x, g.sum(0)
