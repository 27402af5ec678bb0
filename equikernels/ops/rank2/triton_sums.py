"""Triton kernels of rank-2 sums, extrema and broadcasts; csrc/rank2/rank2.h says what they are.

A sum or an extremum is one program's, for one particle: its row lies in one piece, its column is gathered, C numbers at
a time. A broadcast works on tiles of rows.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_pairs import event_of, load_values, particles

# mypy: disable-error-code="no-untyped-def"


@triton.jit
def picked(x, arg, row0, step, n, channel, mask, CHANNELS: tl.constexpr):
    """x at the pair that arg names, row0 + arg * step, for each channel; 0 where it names none."""
    k = tl.load(arg + channel, mask=mask, other=-1).to(tl.int64)
    there = mask & (k >= 0) & (k < n)
    return tl.load(x + (row0 + k * step) * CHANNELS + channel, mask=there, other=0)


@triton.jit(do_not_specialize=["events", "halvings"])
def sum_kernel(
    x,  # [pairs, CHANNELS]
    activated,  # [pairs, CHANNELS] or None
    weight,  # [nodes, 2, CHANNELS] of these strides, or None
    stride_node,
    stride_side,
    stride_channel,
    arg,  # [nodes, 2, CHANNELS] or None
    graph,
    result,  # [nodes, 3, CHANNELS]
    events,
    halvings,
    CHANNELS: tl.constexpr,
    SLOPE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,  # pairs at a time
    COLUMNS: tl.constexpr,  # channels
):
    """One particle a program: its diagonal, its column and its row."""
    me = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < CHANNELS
    node, pair, n = event_of(graph, me, events, halvings)
    i = me - node
    column = pair + i  # and n further for each next k
    row = pair + i * n  # and 1 further
    if arg is not None:
        cols = picked(x, arg + me * 2 * CHANNELS, column, n, n, channel, inside, CHANNELS)
        rows = picked(x, arg + (me * 2 + 1) * CHANNELS, row, 1, n, channel, inside, CHANNELS)
    else:
        of_cols = tl.zeros((BLOCK, COLUMNS), ACC)
        of_rows = tl.zeros((BLOCK, COLUMNS), ACC)
        for begin in range(0, n, BLOCK):
            k = begin + tl.arange(0, BLOCK).to(tl.int64)
            mask = (k < n)[:, None] & inside[None, :]
            down = load_values(x, activated, (column + k * n)[:, None] * CHANNELS + channel[None, :], mask, SLOPE)
            along = load_values(x, activated, (row + k)[:, None] * CHANNELS + channel[None, :], mask, SLOPE)
            if weight is not None:
                at = weight + (node + k)[:, None] * stride_node + channel[None, :].to(tl.int64) * stride_channel
                down *= tl.load(at, mask=mask, other=0)
                along *= tl.load(at + stride_side, mask=mask, other=0)
            of_cols += down
            of_rows += along
        cols = tl.sum(of_cols, axis=0)
        rows = tl.sum(of_rows, axis=0)
    diag = load_values(x, activated, (row + i) * CHANNELS + channel, inside, SLOPE)
    at = result + me * 3 * CHANNELS + channel
    tl.store(at, diag, mask=inside)
    tl.store(at + CHANNELS, cols.to(result.dtype.element_ty), mask=inside)
    tl.store(at + 2 * CHANNELS, rows.to(result.dtype.element_ty), mask=inside)


@triton.jit
def first_extremum(
    x, row0, step, n, channel, inside, CHANNELS: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr
):
    """The k < n of the largest or smallest x at row0 + k step, for each channel: the first of equals, the first NaN
    over everything."""
    best = tl.full((BLOCK, channel.shape[0]), float("-inf"), x.dtype.element_ty)
    where = tl.full((BLOCK, channel.shape[0]), 2147483647, tl.int32)
    for begin in range(0, n, BLOCK):
        k = begin + tl.arange(0, BLOCK).to(tl.int64)
        mask = (k < n)[:, None] & inside[None, :]
        value = tl.load(x + (row0 + k * step)[:, None] * CHANNELS + channel[None, :], mask=mask, other=0)
        value = value if LARGEST else -value
        better = (value > best) | ((value != value) & (best == best)) | (where == 2147483647)
        best = tl.where(mask & better, value, best)
        where = tl.where(mask & better, k[:, None].to(tl.int32), where)
    seen = where != 2147483647
    bad = seen & (best != best)
    any_bad = tl.max(bad.to(tl.int32), axis=0) > 0
    top = tl.max(tl.where(bad | ~seen, float("-inf"), best), axis=0)
    found = tl.where(any_bad[None, :], bad, seen & (best == top[None, :]))
    return tl.min(tl.where(found, where, 2147483647), axis=0)


@triton.jit(do_not_specialize=["events", "halvings"])
def extremum_kernel(
    x,  # [pairs, CHANNELS]
    graph,
    result,  # [nodes, 3, CHANNELS]
    arg,  # int32 [nodes, 2, CHANNELS]
    events,
    halvings,
    CHANNELS: tl.constexpr,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    me = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < CHANNELS
    node, pair, n = event_of(graph, me, events, halvings)
    i = me - node
    down = first_extremum(x, pair + i, n, n, channel, inside, CHANNELS, LARGEST, BLOCK)
    along = first_extremum(x, pair + i * n, 1, n, channel, inside, CHANNELS, LARGEST, BLOCK)
    tl.store(arg + me * 2 * CHANNELS + channel, down, mask=inside)
    tl.store(arg + (me * 2 + 1) * CHANNELS + channel, along, mask=inside)
    at = result + me * 3 * CHANNELS + channel
    tl.store(at, tl.load(x + (pair + i * n + i) * CHANNELS + channel, mask=inside), mask=inside)
    cols = tl.load(x + (pair + down.to(tl.int64) * n + i) * CHANNELS + channel, mask=inside)
    tl.store(at + CHANNELS, cols, mask=inside)
    rows = tl.load(x + (pair + i * n + along.to(tl.int64)) * CHANNELS + channel, mask=inside)
    tl.store(at + 2 * CHANNELS, rows, mask=inside)


@triton.jit(do_not_specialize=["rows", "events", "halvings"])
def broadcast_kernel(
    table,  # [nodes, 3, CHANNELS]
    weight,  # [nodes, 2, CHANNELS] of these strides, or None
    stride_node,
    stride_side,
    stride_channel,
    arg,  # [nodes, 2, CHANNELS] or None
    graph,
    result,  # [rows, CHANNELS]
    rows,
    events,
    halvings,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,  # rows
    COLUMNS: tl.constexpr,  # channels
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (channel < CHANNELS)[None, :]
    node, _pair, _n, i, j = particles(graph, tl.minimum(row, rows - 1), events, 0, events, halvings)
    c = channel[None, :]
    of_row = tl.load(table + ((node + i) * 3 + 2)[:, None] * CHANNELS + c, mask=mask, other=0)
    of_col = tl.load(table + ((node + j) * 3 + 1)[:, None] * CHANNELS + c, mask=mask, other=0)
    diag = tl.load(table + ((node + i) * 3)[:, None] * CHANNELS + c, mask=mask & (i == j)[:, None], other=0)
    if weight is not None:
        at = weight + c.to(tl.int64) * stride_channel
        of_col *= tl.load(at + (node + i)[:, None] * stride_node, mask=mask, other=0)
        of_row *= tl.load(at + (node + j)[:, None] * stride_node + stride_side, mask=mask, other=0)
    if arg is not None:
        chosen = tl.load(arg + ((node + j) * 2)[:, None] * CHANNELS + c, mask=mask, other=-1)
        of_col = tl.where(chosen == i[:, None], of_col, 0)
        chosen = tl.load(arg + ((node + i) * 2 + 1)[:, None] * CHANNELS + c, mask=mask, other=-1)
        of_row = tl.where(chosen == j[:, None], of_row, 0)
    tl.store(result + row[:, None] * CHANNELS + c, of_row + of_col + diag, mask=mask)
