"""Triton kernels of segment sums, extrema, gather_to_edges and edge_dot; csrc/segment/segment.h says what they are.

A program owns one node and some channels, and walks the node's edges in tiles. Sums are taken in an order that depends
on the number of edges alone; offsets are 64-bit; nothing is read back.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_common import find_row, find_slot

# mypy: disable-error-code="no-untyped-def"

EDGES, RECEIVERS = tl.constexpr(0), tl.constexpr(2)  # whose rows are summed; csrc/segment/segment.h
NONE = tl.constexpr(9223372036854775807)  # no slot


@triton.jit
def load_weighted(source, weight, at, edge, channel, mask, CHANNELS: tl.constexpr, PER_CHANNEL: tl.constexpr, ACC):
    value = tl.load(source + at[:, None] * CHANNELS + channel[None, :], mask=mask, other=0).to(ACC)
    if weight is not None:
        if PER_CHANNEL:
            value *= tl.load(weight + edge[:, None] * CHANNELS + channel[None, :], mask=mask, other=0).to(ACC)
        else:
            value *= tl.load(weight + edge[:, None], mask=mask, other=0).to(ACC)
    return value


@triton.jit(do_not_specialize=["nodes", "edges", "events", "halvings"])
def sum_kernel(
    source,  # [edges or nodes, CHANNELS]
    weight,  # [edges], [edges, CHANNELS] or None
    arg,  # int64 [nodes, CHANNELS] or None
    graph,
    result,  # [nodes, CHANNELS]
    nodes,
    edges,
    events,
    halvings,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    MEAN: tl.constexpr,
    CHANNELS: tl.constexpr,
    PER_CHANNEL: tl.constexpr,  # a weight
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,  # edges at a time
    COLUMNS: tl.constexpr,
):
    me = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < CHANNELS
    SENT: tl.constexpr = ROWS == RECEIVERS
    row = find_row(graph, me, nodes, edges, events, halvings, KIND, not SENT)
    acc = tl.zeros((BLOCK, COLUMNS), ACC)
    for begin in range(0, row[0], BLOCK):
        k = begin + tl.arange(0, BLOCK).to(tl.int64)
        valid = k < row[0]
        mask = valid[:, None] & inside[None, :]
        other, edge = find_slot(graph, row, k, valid, me, nodes, edges, KIND, not SENT, True)
        at = edge if ROWS == EDGES else other
        value = load_weighted(source, weight, at, edge, channel, mask, CHANNELS, PER_CHANNEL, ACC)
        if arg is not None:
            receiver = other if SENT else other * 0 + me
            chosen = tl.load(arg + receiver[:, None] * CHANNELS + channel[None, :], mask=mask, other=-1)
            value = tl.where(chosen == edge[:, None], value, 0)
        acc += value
    total = tl.sum(acc, axis=0)
    if MEAN:
        total /= tl.maximum(row[0], 1).to(ACC)
    tl.store(result + me * CHANNELS + channel, total.to(result.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["nodes", "edges", "events", "halvings"])
def gather_to_edges_kernel(
    source,  # [nodes, CHANNELS]
    arg,  # int64 [nodes, CHANNELS] or None
    graph,
    result,  # [edges, CHANNELS]
    nodes,
    edges,
    events,
    halvings,
    KIND: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    me = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < CHANNELS
    row = find_row(graph, me, nodes, edges, events, halvings, KIND, True)
    value = tl.load(source + me * CHANNELS + channel, mask=inside, other=0)[None, :]
    chosen = channel[None, :]
    if arg is not None:
        chosen = tl.load(arg + me * CHANNELS + channel, mask=inside, other=-1)[None, :]
    for begin in range(0, row[0], BLOCK):
        k = begin + tl.arange(0, BLOCK).to(tl.int64)
        valid = k < row[0]
        _other, edge = find_slot(graph, row, k, valid, me, nodes, edges, KIND, True, True)
        tile = tl.broadcast_to(value, (BLOCK, COLUMNS))
        if arg is not None:
            tile = tl.where(chosen == edge[:, None], tile, 0)
        mask = valid[:, None] & inside[None, :]
        tl.store(result + edge[:, None] * CHANNELS + channel[None, :], tile, mask=mask)


@triton.jit(do_not_specialize=["nodes", "edges", "events", "halvings"])
def edge_dot_kernel(
    receivers,  # [nodes, CHANNELS]
    senders,  # [nodes, CHANNELS]
    arg,  # int64 [nodes, CHANNELS] or None
    graph,
    result,  # [edges] or, with PER_CHANNEL, [edges, CHANNELS]
    nodes,
    edges,
    events,
    halvings,
    KIND: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    me = tl.program_id(0).to(tl.int64)
    row = find_row(graph, me, nodes, edges, events, halvings, KIND, True)
    for begin in range(0, row[0], BLOCK):
        k = begin + tl.arange(0, BLOCK).to(tl.int64)
        valid = k < row[0]
        other, edge = find_slot(graph, row, k, valid, me, nodes, edges, KIND, True, True)
        total = tl.zeros((BLOCK,), ACC)
        for first in range(0, CHANNELS, COLUMNS):
            channel = first + tl.arange(0, COLUMNS)
            inside = channel < CHANNELS
            mask = valid[:, None] & inside[None, :]
            mine = tl.load(receivers + me * CHANNELS + channel, mask=inside, other=0).to(ACC)[None, :]
            value = mine * tl.load(senders + other[:, None] * CHANNELS + channel[None, :], mask=mask, other=0).to(ACC)
            if arg is not None:
                chosen = tl.load(arg + me * CHANNELS + channel, mask=inside, other=-1)[None, :]
                value = tl.where(chosen == edge[:, None], value, 0)
            if PER_CHANNEL:
                at = result + edge[:, None] * CHANNELS + channel[None, :]
                tl.store(at, value.to(result.dtype.element_ty), mask=mask)
            else:
                total += tl.sum(tl.where(mask, value, 0), axis=1)
        if not PER_CHANNEL:
            tl.store(result + edge, total.to(result.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["nodes", "edges", "events", "halvings"])
def extremum_kernel(
    source,  # [edges or nodes, CHANNELS]
    weight,  # [edges], [edges, CHANNELS] or None
    graph,
    result,  # [nodes, CHANNELS]
    arg,  # int64 [nodes, CHANNELS]
    nodes,
    edges,
    events,
    halvings,
    KIND: tl.constexpr,
    ROWS: tl.constexpr,
    LARGEST: tl.constexpr,
    CHANNELS: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    me = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < CHANNELS
    row = find_row(graph, me, nodes, edges, events, halvings, KIND, True)
    best = tl.full((BLOCK, COLUMNS), float("-inf"), ACC)
    where = tl.full((BLOCK, COLUMNS), NONE, tl.int64)
    for begin in range(0, row[0], BLOCK):
        k = begin + tl.arange(0, BLOCK).to(tl.int64)
        valid = k < row[0]
        mask = valid[:, None] & inside[None, :]
        other, edge = find_slot(graph, row, k, valid, me, nodes, edges, KIND, True, True)
        at = edge if ROWS == EDGES else other
        value = load_weighted(source, weight, at, edge, channel, mask, CHANNELS, PER_CHANNEL, ACC)
        value = value if LARGEST else -value
        better = mask & ((value > best) | ((value != value) & (best == best)) | (where == NONE))
        best = tl.where(better, value, best)
        where = tl.where(better, k[:, None], where)
    # The first NaN, else the first of the largest.
    seen = where != NONE
    bad = seen & (best != best)
    spoilt = tl.max(bad.to(tl.int32), axis=0) > 0
    top = tl.max(tl.where(bad | (where == NONE), float("-inf"), best), axis=0)
    found = tl.where(spoilt[None, :], bad, seen & (best == top[None, :]))
    first = tl.min(tl.where(found, where, NONE), axis=0)
    some = inside & (first != NONE)
    other, edge = find_slot(graph, row, tl.where(some, first, 0), some, me, nodes, edges, KIND, True, True)
    top = tl.where(spoilt, float("nan"), top if LARGEST else -top)
    top = tl.where(first != NONE, top, 0)
    tl.store(result + me * CHANNELS + channel, top.to(result.dtype.element_ty), mask=inside)
    tl.store(arg + me * CHANNELS + channel, tl.where(some, edge, -1), mask=inside)
