"""Rank-2 tensors as published code passes them, and their packed rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import fail
from ..graph import Graph
from .edges import GraphCache


@dataclass
class PaddedRows:
    """Where the real rows of a padded tensor are."""

    slots: Tensor  # [rows], of the flattened tensor
    particles: Tensor | None = None  # [n], of the flattened [B, N]; None where the mask is not one of pairs
    pairs: Graph | None = None

    def pack(self, padded: Tensor) -> Tensor:
        """[rows, C] of [B, N, N, C]."""
        return Take.apply(padded.reshape(-1, padded.shape[-1]), self.slots)

    def unpack(self, rows: Tensor, shape: torch.Size) -> Tensor:
        """[B, N, N, D] of [rows, D], with zeros elsewhere."""
        size = shape[:-1]
        return Place.apply(rows, self.slots, size.numel()).view(*size, rows.shape[-1])


def padded_rows(mask: Tensor, cache: GraphCache) -> PaddedRows:
    """The real rows of a bool mask [B, N, N, 1], or of any other shape, without pairs then."""
    made: PaddedRows = cache.once((mask,), "rows", lambda: _padded_rows(mask))
    return made


def _padded_rows(mask: Tensor) -> PaddedRows:
    slots = mask.flatten().nonzero().squeeze(1)
    if mask.dim() != 4 or mask.shape[1] != mask.shape[2]:
        return PaddedRows(slots)
    real = mask[..., 0].diagonal(dim1=1, dim2=2)
    if not torch.equal(mask[..., 0], real[:, :, None] & real[:, None, :]):
        return PaddedRows(slots)
    particles = real.flatten().nonzero().squeeze(1)
    counts = real.sum(1)
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    sizes = {"num_nodes": particles.shape[0], "num_edges": slots.shape[0]}
    return PaddedRows(slots, particles, Graph.complete(ptr, True, **sizes, validate=False))


def all_pairs(events: int, size: int, device: torch.device) -> Graph:
    """The pairs of a padded tensor [events, size, size, C], its padding included: its rows as they are."""
    ptr = torch.arange(events + 1, device=device) * size
    return Graph.complete(ptr, True, num_nodes=events * size, num_edges=events * size * size, validate=False)


@dataclass
class EdgeRows:
    """Where the edges of a batch are among its packed pairs."""

    pairs: Graph
    slots: Tensor | None  # [E], the pair of each edge; None where edges come as the pairs do
    self_loops: bool  # without them the diagonal is zero, and is not counted

    def pack(self, edges: Tensor) -> Tensor:
        """[n_pairs, C] of [E, C]."""
        return edges if self.slots is None else Place.apply(edges, self.slots, self.pairs.num_edges)

    def unpack(self, rows: Tensor) -> Tensor:
        """[E, D] of [n_pairs, D]."""
        return rows if self.slots is None else Take.apply(rows, self.slots)


def edge_rows(edge_index: Tensor, batch: Tensor, cache: GraphCache) -> EdgeRows:
    """The pairs of a batch of events, edges (i, j) in any order.

    Args:
        edge_index: int64 [2, E], all pairs of every event, with all self-loops or without any.
        batch: int64 [n], the event of each particle, not decreasing.

    Raises:
        ValueError: particles out of order, or an edge too many or too few, which is named.
    """
    made: EdgeRows = cache.once((edge_index, batch), "edges", lambda: _edge_rows(edge_index, batch))
    return made


def _edge_rows(edge_index: Tensor, batch: Tensor) -> EdgeRows:
    op = "fuse_"
    if batch.numel() > 0 and bool((batch.diff() < 0).any()):
        fail(op, "batch", "the events of particles in order", "an entry below the one before it")
    i, j = edge_index
    nodes = batch.shape[0]
    if i.numel() > 0:
        low, high = (int(v) for v in edge_index.aminmax())
        if low < 0 or high >= nodes:
            fail(op, "edge_index", f"particles from 0 to {nodes - 1}", low if low < 0 else high)
    counts = torch.bincount(batch)
    ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    pairs = Graph.complete(ptr, True, num_nodes=nodes, validate=False)
    across = (batch[i] != batch[j]).nonzero()
    if across.numel() > 0:
        fail(op, "edge_index", "edges inside events", f"{_edge(i, j, across)} between two")
    first = pairs.table.chunk(2)[1]
    slots = first[batch[i]] + (i - ptr[batch[i]]) * counts[batch[i]] + j - ptr[batch[i]]
    copies = torch.bincount(slots, minlength=pairs.num_edges)
    twice = (copies[slots] > 1).nonzero()
    if twice.numel() > 0:
        fail(op, "edge_index", "every edge once", f"{_edge(i, j, twice)} twice")
    missing = (copies == 0).nonzero().squeeze(1)
    row, column = pairs.receiver[missing], pairs.sender[missing]
    self_loops = missing.numel() == 0
    if not self_loops and not (missing.numel() == nodes and torch.equal(row, column)):
        _fail_incomplete(op, row, column, copies, first, counts, ptr, batch)
    in_order = self_loops and bool((slots.diff() > 0).all())
    return EdgeRows(pairs, None if in_order else slots, self_loops)


def _fail_incomplete(op: str, row: Tensor, column: Tensor, copies: Tensor, *where: Any) -> None:
    """Names a missing edge: one whose reverse is there, if any, a self-loop last."""
    first, counts, ptr, batch = where
    event = batch[row]
    reverse = first[event] + (column - ptr[event]) * counts[event] + row - ptr[event]
    one_way = copies[reverse] > 0
    k = int((2 * one_way + (row != column)).argmax())
    edge, other = f"({int(row[k])}, {int(column[k])})", f"({int(column[k])}, {int(row[k])})"
    if bool(one_way[k]):
        fail(op, "edge_index", "the reverse of every edge", f"{other} without {edge}")
    fail(op, "edge_index", f"all pairs of event {int(event[k])}", f"no edge {edge}")


def _edge(i: Tensor, j: Tensor, which: Tensor) -> str:
    k = int(which[0])
    return f"({int(i[k])}, {int(j[k])})"


class Take(torch.autograd.Function):
    """rows[slots], slots without repetition: nothing is summed in backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slots: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        ctx.size = rows.shape[0]
        return rows.index_select(0, slots)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return Place.apply(grad, *ctx.saved_tensors, ctx.size), None


class Place(torch.autograd.Function):
    """The adjoint of Take: [size, C], zero but at slots."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, slots: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(slots)
        return rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, slots, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return Take.apply(grad, *ctx.saved_tensors), None, None
