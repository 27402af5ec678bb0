"""The Triton kernels of the rank-2 family. What each is for is said in csrc/rank2/rank2.h; shapes are those of there.

A product works on tiles of rows (pairs of any events; particles, without a graph). For a pair, T_ij and T_ji side by
side are one row of 2 C numbers, and their two matrices one above the other are one matrix: the padding of C to what
tensor cores take is paid once. Rows are gathered C numbers at a time, so that reading T_ji costs what reading T_ij does.

Sums are taken by one program each, in an order that depends on shapes alone. Offsets are 64-bit. Tables of offsets are
searched on the device: nothing is read back.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

# mypy: disable-error-code="no-untyped-def"


@triton.jit
def last_not_after(table, value, events, halvings):
    """The last b with table[b] <= value, as int64: empty events are stepped over."""
    lo = value * 0
    hi = lo + events
    for _ in range(halvings):
        mid = lo + ((hi - lo) >> 1)
        reached = tl.load(table + mid) <= value
        lo = tl.where(reached, mid, lo)
        hi = tl.where(reached, hi, mid)
    return lo


@triton.jit
def particles(graph, row, events, halvings):
    """Of pairs, given by their rows: first particle and first pair of the event, n, i and j."""
    event = last_not_after(graph + events + 1, row, events, halvings)
    node = tl.load(graph + event)
    pair = tl.load(graph + events + 1 + event)
    n = tl.maximum(tl.load(graph + event + 1) - node, 1)
    i = (row - pair) // n
    return node, pair, n, i, row - pair - i * n


@triton.jit
def activate(z, SLOPE: tl.constexpr):
    if SLOPE == 1:
        return z
    elif SLOPE == 0:
        return tl.where(z <= 0, 0, z)  # a NaN stays
    else:
        return tl.where(z > 0, z, z * SLOPE)


@triton.jit
def through(grad, activated, SLOPE: tl.constexpr):
    """The share of a gradient that the activation lets through, from what came out of it."""
    if SLOPE == 0:
        return tl.where(activated <= 0, 0, grad)
    else:
        return tl.where(activated > 0, grad, grad * SLOPE)


@triton.jit
def load_values(x, activated, offset, mask, SLOPE: tl.constexpr):
    value = tl.load(x + offset, mask=mask, other=0)
    if activated is not None:
        value = through(value, tl.load(activated + offset, mask=mask, other=0), SLOPE)
    return value


@triton.jit
def load_side_by_side(x, activated, here, there, valid, k, IN: tl.constexpr, BOTH: tl.constexpr, SLOPE: tl.constexpr):
    """[rows, k]: channels of x at rows `here`, with BOTH followed by those at rows `there`."""
    if BOTH:
        second = k >= IN
        row = tl.where(second[None, :], there[:, None], here[:, None])
        mask = valid[:, None] & (k < 2 * IN)[None, :]
        offset = row * IN + tl.where(second, k - IN, k)[None, :]
    else:
        mask = valid[:, None] & (k < IN)[None, :]
        offset = here[:, None] * IN + k[None, :]
    return load_values(x, activated, offset, mask, SLOPE)


@triton.jit
def load_matrix(first, second, stride_in, stride_out, k, out, IN: tl.constexpr, WIDTH: tl.constexpr):
    """[k, out]: of the first matrix [IN, WIDTH], and of the second below it where there is one."""
    offset = k[:, None].to(tl.int64) * stride_in + out[None, :].to(tl.int64) * stride_out
    mask = (k < IN)[:, None] & (out < WIDTH)[None, :]
    value = tl.load(first + offset, mask=mask, other=0)
    if second is not None:
        below = (k >= IN)[:, None] & (k < 2 * IN)[:, None] & (out < WIDTH)[None, :]
        offset = (k - IN)[:, None].to(tl.int64) * stride_in + out[None, :].to(tl.int64) * stride_out
        value += tl.load(second + offset, mask=below, other=0)
    return value


@triton.jit
def finish(acc, table, result, row, valid, i, j, out, WIDTH: tl.constexpr, SLOPE: tl.constexpr):
    """Adds what a table [nodes, 3, WIDTH] (diagonal, columns, rows) broadcasts to pairs, activates, stores."""
    mask = valid[:, None] & (out < WIDTH)[None, :]
    if table is not None:
        diagonal = mask & (i == j)[:, None]
        acc += tl.load(table + (i * 3 + 2)[:, None] * WIDTH + out[None, :], mask=mask, other=0)
        acc += tl.load(table + (j * 3 + 1)[:, None] * WIDTH + out[None, :], mask=mask, other=0)
        acc += tl.load(table + (i * 3)[:, None] * WIDTH + out[None, :], mask=diagonal, other=0)
    acc = activate(acc, SLOPE)
    tl.store(result + row[:, None] * WIDTH + out[None, :], acc.to(result.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "events", "halvings"])
def product_kernel(
    x,  # [rows, IN]
    activated,  # [rows, IN] or None: x is a gradient that goes through the activation that made it
    identity,  # [IN, WIDTH] or None, as the next, not both; of these strides
    transpose,
    stride_in,
    stride_out,
    table,  # [nodes, 3, WIDTH] or None
    graph,  # None where there is neither a transpose nor a table
    result,  # [rows, WIDTH]
    rows,
    events,
    halvings,
    IN: tl.constexpr,
    WIDTH: tl.constexpr,
    SLOPE: tl.constexpr,  # of the activation of the result, or with `activated` of that of x
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,  # rows
    K: tl.constexpr,  # channels of x at a time
    FIRST: tl.constexpr,  # channels of the result, in two blocks; the second may be empty
    SECOND: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    valid = row < rows
    row = tl.minimum(row, rows - 1)
    here = row
    there = row
    i = row
    j = row
    if graph is not None:
        node, pair, n, i, j = particles(graph, row, events, halvings)
        there = pair + j * n + i
        i += node
        j += node
    first_matrix = identity
    second_matrix = transpose
    BOTH: tl.constexpr = identity is not None and transpose is not None
    if identity is None:
        here = there
        first_matrix = transpose
        second_matrix = None

    out = tl.program_id(1) * (FIRST + SECOND) + tl.arange(0, FIRST)
    acc = tl.zeros((BLOCK, FIRST), ACC)
    if SECOND > 0:
        rest = tl.program_id(1) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        acc_rest = tl.zeros((BLOCK, SECOND), ACC)
    for begin in range(0, 2 * IN if BOTH else IN, K):
        k = begin + tl.arange(0, K)
        value = load_side_by_side(x, activated, here, there, valid, k, IN, BOTH, SLOPE)
        matrix = load_matrix(first_matrix, second_matrix, stride_in, stride_out, k, out, IN, WIDTH)
        acc = tl.dot(value, matrix, acc, input_precision=PRECISION, out_dtype=ACC)
        if SECOND > 0:
            matrix = load_matrix(first_matrix, second_matrix, stride_in, stride_out, k, rest, IN, WIDTH)
            acc_rest = tl.dot(value, matrix, acc_rest, input_precision=PRECISION, out_dtype=ACC)
    AFTER: tl.constexpr = SLOPE if activated is None else 1
    finish(acc, table, result, row, valid, i, j, out, WIDTH, AFTER)
    if SECOND > 0:
        finish(acc_rest, table, result, row, valid, i, j, rest, WIDTH, AFTER)


@triton.jit
def store_partial(acc, partial, k, out, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    mask = (k < SIZE)[:, None] & (out < WIDTH)[None, :]
    tl.store(partial + k[:, None] * WIDTH + out[None, :], acc, mask=mask)


@triton.jit(do_not_specialize=["rows", "span", "events", "halvings"])
def outer_kernel(
    x,  # [rows, IN]
    grad,  # [rows, WIDTH]
    activated,  # [rows, WIDTH] or None
    graph,  # None where there is no transpose
    partials,  # [programs, (1 or 2) IN, WIDTH]
    rows,
    span,  # rows of a program
    events,
    halvings,
    IN: tl.constexpr,
    WIDTH: tl.constexpr,
    IDENTITY: tl.constexpr,
    TRANSPOSE: tl.constexpr,
    SLOPE: tl.constexpr,
    ACC: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,  # rows at a time
    FIRST: tl.constexpr,  # channels of x, those of both sides in a row, in two blocks; the second may be empty
    SECOND: tl.constexpr,
    COLUMNS: tl.constexpr,  # channels of the gradient
):
    """x^T grad over the program's rows: of T_ij, of T_ji, or of both side by side."""
    BOTH: tl.constexpr = IDENTITY and TRANSPOSE
    SIZE: tl.constexpr = 2 * IN if BOTH else IN
    k = tl.program_id(1) * (FIRST + SECOND) + tl.arange(0, FIRST)
    out = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    acc = tl.zeros((FIRST, COLUMNS), ACC)
    if SECOND > 0:
        rest = tl.program_id(1) * (FIRST + SECOND) + FIRST + tl.arange(0, SECOND)
        acc_rest = tl.zeros((SECOND, COLUMNS), ACC)
    start = tl.program_id(0).to(tl.int64) * span
    stop = tl.minimum(start + span, rows)
    for begin in range(start, stop, BLOCK):
        row = begin + tl.arange(0, BLOCK)
        valid = row < stop
        row = tl.minimum(row, rows - 1)
        here = row
        there = row
        if TRANSPOSE:
            node, pair, n, i, j = particles(graph, row, events, halvings)
            there = pair + j * n + i
        if not IDENTITY:
            here = there
        mask = valid[:, None] & (out < WIDTH)[None, :]
        value = load_values(grad, activated, row[:, None] * WIDTH + out[None, :], mask, SLOPE)
        columns = load_side_by_side(x, None, here, there, valid, k, IN, BOTH, SLOPE)
        acc = tl.dot(tl.trans(columns), value, acc, input_precision=PRECISION, out_dtype=ACC)
        if SECOND > 0:
            columns = load_side_by_side(x, None, here, there, valid, rest, IN, BOTH, SLOPE)
            acc_rest = tl.dot(tl.trans(columns), value, acc_rest, input_precision=PRECISION, out_dtype=ACC)
    partial = partials + tl.program_id(0).to(tl.int64) * SIZE * WIDTH
    store_partial(acc, partial, k, out, SIZE, WIDTH)
    if SECOND > 0:
        store_partial(acc_rest, partial, rest, out, SIZE, WIDTH)


@triton.jit(do_not_specialize=["count"])
def add_up_kernel(
    partials, first, second, count, SIZE: tl.constexpr, TOTAL: tl.constexpr, BLOCK: tl.constexpr, AT: tl.constexpr
):
    """Partials [count, TOTAL], summed in order; the first SIZE sums go to one tensor, the others to another."""
    at = tl.program_id(0) * AT + tl.arange(0, AT)
    acc = tl.zeros((BLOCK, AT), partials.dtype.element_ty)
    for begin in range(0, count, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        mask = (k < count)[:, None] & (at < TOTAL)[None, :]
        acc += tl.load(partials + k[:, None].to(tl.int64) * TOTAL + at[None, :], mask=mask, other=0)
    total = tl.sum(acc, axis=0)
    tl.store(first + at, total.to(first.dtype.element_ty), mask=at < SIZE)
    if SIZE < TOTAL:
        tl.store(second + at - SIZE, total.to(second.dtype.element_ty), mask=(at >= SIZE) & (at < TOTAL))


@triton.jit
def event_of(graph, node, events, halvings):
    """First particle and first pair of a particle's event, and n."""
    event = last_not_after(graph, node, events, halvings)
    first = tl.load(graph + event)
    return first, tl.load(graph + events + 1 + event), tl.load(graph + event + 1) - first


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
def first_extremum(x, row0, step, n, channel, inside, CHANNELS: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
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
    node, pair, n, i, j = particles(graph, tl.minimum(row, rows - 1), events, halvings)
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


KERNELS: dict[str, Any] = {
    kernel.__name__: kernel
    for kernel in (product_kernel, outer_kernel, add_up_kernel, sum_kernel, extremum_kernel, broadcast_kernel)
}
