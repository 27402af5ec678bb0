"""Device functions shared by Triton kernels: precision, events, edges of a node. Imports triton.

Kernels also run in Triton's interpreter (TRITON_INTERPRET=1), so nothing here uses libdevice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..graph import COMPLETE_WITH_SELF_LOOPS as _SELF_LOOPS
from ..graph import CSR as _CSR
from .common import tf32_for

# Kernels can read globals only of this type.
CSR = tl.constexpr(_CSR)
SELF_LOOPS = tl.constexpr(_SELF_LOOPS)


def dot_precision(dtype: torch.dtype) -> str:
    """The precision of ``tl.dot``: IEEE multiply-adds for float32, or TF32 if PyTorch's settings allow it."""
    return "tf32" if tf32_for(dtype) else "ieee"


@triton.jit
def last_not_after(table, value, low, count, halvings):
    """The last b with table[b] <= value, of low .. low + count - 1, as int64: empty events are skipped."""
    lo = value * 0 + low
    hi = lo + count
    for _ in range(halvings):
        mid = lo + ((hi - lo) >> 1)
        reached = tl.load(table + mid) <= value
        lo = tl.where(reached, mid, lo)
        hi = tl.where(reached, hi, mid)
    return lo


@triton.jit
def find_row(table, node, num_nodes, num_edges, num_events, steps, kind: tl.constexpr, receiving: tl.constexpr):
    """The edges each node receives (or sends). Returns (count, first, self, edge0, stride, skip) for find_slot; first
    is a node of a complete graph, a slot of the whole list of any other. steps: halvings that take num_events to 1."""
    if kind == CSR:
        ptr = table
        if not receiving:
            ptr = table + (num_nodes + 1 + 2 * num_edges)
        first = tl.load(ptr + node)
        return tl.load(ptr + node + 1) - first, first, first, first, first, first
    event = last_not_after(table, node, 0, num_events, steps)
    first = tl.load(table + event)
    n = tl.load(table + event + 1) - first
    edge0 = tl.load(table + num_events + 1 + event)
    place = node - first
    if kind == SELF_LOOPS:
        width = n
        slot = n
    else:
        width = n - 1
        slot = place
    if receiving:
        return width, first, slot, edge0 + place * width, width * 0 + 1, width * 0
    if kind == SELF_LOOPS:
        return width, first, slot, edge0 + place, width, width + 1
    return width, first, slot, edge0 + place - 1, width, width + 1


@triton.jit
def find_slot(
    table, row, slot, live, own, num_nodes, num_edges, kind: tl.constexpr, receiving: tl.constexpr, edges: tl.constexpr
):
    """Node at the other end of a slot, and, if requested, its edge; for dead slots the node itself and edge 0."""
    if kind == CSR:
        others = table + (num_nodes + 1)
        if not receiving:
            others += num_nodes + 1 + 2 * num_edges
        other = tl.load(others + row[1] + slot, mask=live, other=0)
        edge = other
        if edges:
            edge = tl.load(others + num_edges + row[1] + slot, mask=live, other=0)
    else:
        behind = slot >= row[2]
        other = row[1] + slot + behind.to(tl.int64)
        edge = row[3] + slot * row[4] + tl.where(behind, row[5], 0)
    return tl.where(live, other, own), tl.where(live, edge, 0)
