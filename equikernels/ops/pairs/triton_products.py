"""Triton kernels of products: of pairs' rows (or, without a graph, any rows) with matrices, and outer products.

A product works on tiles of rows, which may be of any events. For a pair, T_ij and T_ji side by side are one row of 2 C
numbers, and their two matrices one above the other are one matrix: the padding of C to what tensor cores take is paid
once. Rows are gathered C numbers at a time, so that T_ji costs what T_ij does.

An outer product is summed in shares of the rows that depend on shapes alone, and the shares in order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_common import last_not_after
from .triton_pairs import activate, load_values, particles

# mypy: disable-error-code="no-untyped-def"


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
def finish(acc, bias, table, result, row, valid, i, j, out, WIDTH: tl.constexpr, SLOPE: tl.constexpr):
    """Adds a bias and what a table [nodes, 3, WIDTH] (diagonal, columns, rows) broadcasts, activates, stores."""
    mask = valid[:, None] & (out < WIDTH)[None, :]
    if bias is not None:
        acc += tl.load(bias + out, mask=out < WIDTH, other=0)[None, :]
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
    bias,  # [WIDTH] or None
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
        node, pair, n, i, j = particles(graph, row, events, 0, events, halvings)
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
    finish(acc, bias, table, result, row, valid, i, j, out, WIDTH, AFTER)
    if SECOND > 0:
        finish(acc_rest, bias, table, result, row, valid, i, j, rest, WIDTH, AFTER)


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
    low = start * 0
    count = low
    steps = low
    if TRANSPOSE:  # a share has few events: they are sought once
        low = last_not_after(graph + events + 1, start, 0, events, halvings)
        count = last_not_after(graph + events + 1, stop - 1, 0, events, halvings) - low + 1
        reach = low * 0 + 1
        while reach < count:
            reach *= 2
            steps += 1
    for begin in range(start, stop, BLOCK):
        row = begin + tl.arange(0, BLOCK)
        valid = row < stop
        row = tl.minimum(row, stop - 1)
        here = row
        there = row
        if TRANSPOSE:
            _node, pair, n, i, j = particles(graph, row, events, low, count, steps)
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


@triton.jit(do_not_specialize=["rows", "span"])
def moments_kernel(
    x,  # [rows, CHANNELS]
    about,  # float64 [CHANNELS]
    partials,  # float64 [programs, 2, CHANNELS]
    rows,
    span,  # rows of a program
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Sums of x - about and of its square over the program's rows."""
    channel = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = channel < CHANNELS
    center = tl.load(about + channel, mask=inside, other=0)
    first = tl.zeros((BLOCK, COLUMNS), tl.float64)
    second = tl.zeros((BLOCK, COLUMNS), tl.float64)
    start = tl.program_id(0).to(tl.int64) * span
    stop = tl.minimum(start + span, rows)
    for begin in range(start, stop, BLOCK):
        row = begin + tl.arange(0, BLOCK)
        mask = (row < stop)[:, None] & inside[None, :]
        value = tl.load(x + row[:, None] * CHANNELS + channel[None, :], mask=mask, other=0).to(tl.float64)
        value = tl.where(mask, value - center[None, :], 0)
        first += value
        second += value * value
    partial = partials + tl.program_id(0).to(tl.int64) * 2 * CHANNELS + channel
    tl.store(partial, tl.sum(first, axis=0), mask=inside)
    tl.store(partial + CHANNELS, tl.sum(second, axis=0), mask=inside)
