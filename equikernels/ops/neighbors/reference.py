"""Defines the neighbour searches: the squared distance of every pair of an event in float64, and a stable sort."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from ...graph import Graph

PAIRS = 2**22  # distances in memory at a time


def nearest_neighbors(
    x: Tensor, events: Graph, k: int, radius: float | None, metric: list[float], periodic: bool, loop: bool
) -> tuple[Tensor, Tensor]:
    index = torch.full((x.shape[0], k), -1, device=x.device)
    square = torch.full((x.shape[0], k), math.inf, dtype=x.dtype, device=x.device)
    for rows, first, found in _distances(x, events, radius, metric, periodic, loop):
        value, order = found.sort(dim=1, stable=True)
        value, order = value[:, :k], order[:, :k] + first
        square[rows, : value.shape[1]] = value
        index[rows, : value.shape[1]] = torch.where(value.isfinite(), order, -1)
    return index, square


def neighbors_within(
    x: Tensor, events: Graph, radius: float | None, metric: list[float], periodic: bool, loop: bool
) -> tuple[Tensor, Tensor, Tensor]:
    count = x.new_zeros(x.shape[0] + 1, dtype=torch.int64)
    index, square = [count[:0]], [x[:0, 0]]
    for rows, first, found in _distances(x, events, radius, metric, periodic, loop):
        value, order = found.sort(dim=1, stable=True)
        count[rows + 1] = value.isfinite().sum(1)
        index.append((order + first)[value.isfinite()])
        square.append(value[value.isfinite()])
    return count.cumsum(0), torch.cat(index), torch.cat(square)


def _distances(
    x: Tensor, events: Graph, radius: float | None, metric: list[float], periodic: bool, loop: bool
) -> Iterator[tuple[Tensor, int, Tensor]]:
    """(receivers [m], first node of their event of s, distance squared [m, s]); inf: no neighbour."""
    assert events.ptr is not None
    for first, last in pairwise(events.ptr.tolist()):
        for rows in torch.arange(first, last, device=x.device).split(max(1, PAIRS // max(1, last - first))):
            square = _distance2(x[rows, None], x[None, first:last], metric, periodic)
            none = ~square.isfinite()
            if radius is not None:  # exact, and safe from overflow: radius^2 may be inf
                none |= square > radius * radius
            if not loop:
                none |= rows[:, None] == torch.arange(first, last, device=x.device)
            yield rows, first, square.masked_fill(none, math.inf)


def _distance2(a: Tensor, b: Tensor, metric: list[float], periodic: bool) -> Tensor:
    square = torch.zeros((), dtype=a.dtype, device=a.device)
    for c, eta in enumerate(metric):
        d = a[..., c] - b[..., c]
        if periodic and c == len(metric) - 1:
            d = torch.minimum(2 * math.pi - d.abs(), d.abs())
        square = square + d * d * eta
    return square.abs()
