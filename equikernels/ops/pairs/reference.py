"""The rank-2 ops in index notation. Pairs are rows (i, j) of a packed tensor, i = j included."""

from __future__ import annotations

from typing import NamedTuple

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


NO_NORM, BATCH, RUNNING = range(3)  # csrc/pairs/rows_op.h: Norm


class RowsOptions(NamedTuple):
    """Everything beside tensors, in the order of csrc's NetworkInputs."""

    norm: int
    slope: float = 1.0
    eps: float = 0.0

    def encoded(self) -> tuple[list[int], list[float]]:
        return [self.norm], [self.slope, self.eps]

    @classmethod
    def decoded(cls, ints: list[int], numbers: list[float]) -> RowsOptions:
        return cls(*ints, *numbers)


def rows_network(tensors: list[Tensor | None], _: Graph | None, options: RowsOptions) -> list[Tensor]:
    """Of x, weight, bias and the norm's gamma, beta, mean and variance:

    out = act(x W^T + b), or x, which is not returned; its norm as (scale, shift) [2, D]; mean and biased variance of
    its channels, float64 [2, D]; mean and unbiased variance [2, D]. Empty where not wanted."""
    x, weight, bias, *of_norm = tensors
    assert x is not None
    out = x if weight is None else activate(torch.nn.functional.linear(x, weight, bias), options.slope)
    empty = x.new_empty(0)
    moments = row_moments(out) if options.norm == BATCH else empty.double()
    affine, running = norm_of(moments, out, of_norm, options)
    return [empty if weight is None else out, affine, moments, running]


def norm_of(moments: Tensor, out: Tensor, of_norm: list[Tensor | None], options: RowsOptions) -> tuple[Tensor, Tensor]:
    """The norm of out as (scale, shift) [2, D], and the statistics of a batch for running averages [2, D]."""
    running = out.new_empty(0)
    if options.norm == NO_NORM:
        return running, running
    gamma, beta, mean, variance = of_norm
    if options.norm == BATCH:
        mean, variance = moments.unbind()
        rows = out.shape[0]
        running = torch.stack([mean, variance * (rows / (rows - 1))]).detach().to(out.dtype)
    assert mean is not None
    assert variance is not None
    scale = (variance + options.eps).rsqrt()
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale if beta is None else torch.addcmul(beta.to(scale.dtype), mean, scale, value=-1)
    return torch.stack([scale, shift]).to(out.dtype), running


def row_moments(x: Tensor) -> Tensor:
    """Mean and biased variance of the channels, float64 [2, C]."""
    exact = x.double()
    mean = exact.sum(0) / max(x.shape[0], 1)
    return torch.stack([mean, (exact - mean).square().sum(0) / max(x.shape[0], 1)])


def through_norm(to_affine: Tensor, mean: Tensor, variance: Tensor, gamma: Tensor | None, eps: float) -> list[Tensor]:
    """Backward of :func:`norm_of`: gradients of gamma, beta, mean, variance. float64 [D]."""
    inverse = (variance.double() + eps).rsqrt()
    scale = inverse if gamma is None else inverse * gamma
    to_beta = to_affine[1].double()
    to_scale = to_affine[0].double() - to_beta * mean
    return [to_scale * inverse, to_beta, -to_beta * scale, -0.5 * to_scale * scale * inverse.square()]
