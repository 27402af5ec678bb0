"""The backward kernel of the message op, in Triton.

Run twice: over receivers and the edges they receive, for the gradients of receivers, weights and edge attributes; then
over senders and the edges they send, for those of senders. Each time a tile of edges is computed again and
differentiated, and a program owns the nodes it sums over: no atomics. A program adds its part of the gradients of
weights to memory of its own, tile by tile; those parts are summed in order afterwards.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..triton_common import (
    activate_row,
    activation_gradient,
    add_rows,
    columns_of,
    degree_of,
    dot_row,
    entry,
    find_row,
    linear,
    load_row,
    load_vector,
    multiply,
    part_count,
    part_width,
    read_anew,
    scale_rows,
    tanh,
    zero_row,
)
from .triton_network import (
    NORM_PLUS_ONE,
    SENDER,
    direction_of,
    edge_network,
    ends_of,
    first_layer,
    gate_of,
    has_norm,
    head_layer,
    invariant_count,
    invariants_of,
    is_interval,
    norm_of,
    products_of,
    receiver_count,
    sum_slots,
)


class Cotangents(NamedTuple):
    """None where zero."""

    messages: Any
    coordinates: Any
    edges: Any


class Gradients(NamedTuple):
    """Those of one pass: of its nodes, of x (to which the second pass adds), of edge attributes or None."""

    node: Any
    x: Any
    edge_attr: Any


@triton.jit
def add_to(p, value, mask):
    tl.store(p, tl.load(p, mask=mask, other=0.0) + value, mask=mask)


@triton.jit
def add_outer(p, g, row, outputs: tl.constexpr, inputs: tl.constexpr, precision: tl.constexpr):
    """p [outputs, inputs] += sum over edges of g_e row_e."""
    for n in tl.static_range(part_count(outputs)):
        outs = columns_of(outputs, n)
        transposed = tl.trans(g[n])
        for k in tl.static_range(part_count(inputs)):
            ins = columns_of(inputs, k)
            block = tl.zeros((part_width(outputs, n), part_width(inputs, k)), g[n].dtype)
            block = multiply(transposed, row[k], block, False, precision)
            mask = (outs[:, None] < outputs) & (ins[None, :] < inputs)
            add_to(p + outs[:, None] * inputs + ins[None, :], block, mask)


@triton.jit
def add_columns(p, row, width: tl.constexpr, step: tl.constexpr = 1):
    """p[c * step] += sum over edges of row_e[c]."""
    for k in tl.static_range(part_count(width)):
        cols = columns_of(width, k)
        add_to(p + cols * step, tl.sum(row[k], 0), cols < width)


@triton.jit
def seed(t, cotangents, table, i, edge, live, count, dtype: tl.constexpr, spec: tl.constexpr):
    """Gradient of m from the outputs M and m: a row."""
    edges: tl.constexpr = spec.edges
    out = ()
    for k in tl.static_range(part_count(spec.out)):
        g = tl.zeros((edges, part_width(spec.out, k)), dtype)
        if cotangents.messages is not None:
            g = load_row(cotangents.messages, i, spec.out, k)
            if spec.mean_messages:
                degree = tl.maximum(degree_of(table, i, count, spec.kind), 1)
                g = g / degree[:, None].to(dtype)
        if cotangents.edges is not None:
            g += load_row(cotangents.edges, edge, spec.out, k)
        out = out + (tl.where(live[:, None], g, 0.0),)
    return out


@triton.jit
def update_gradient(g, i, c: tl.constexpr, degree, t_ij, d, spec: tl.constexpr):
    """Gradient of t d before the clamp, component c, float64. g: that of X."""
    out = tl.load(g + i * spec.dim + c).to(tl.float64)
    if spec.mean_coordinates:
        out = out / degree
    if spec.clamp < float("inf"):
        out = tl.where(tl.abs(t_ij * d) <= spec.clamp, out, 0.0)
    return out


@triton.jit(do_not_specialize=["num_nodes", "num_edges", "num_events", "steps", "partial_stride"])
def backward_kernel(
    table,
    t,
    cotangents,
    out,
    sums,
    partial_stride,
    num_nodes,
    num_edges,
    num_events,
    steps,
    spec: tl.constexpr,
    receiving: tl.constexpr,
):
    """sums: the gradients of weights, a program's parts partial_stride apart. receiving: which pass."""
    dtype: tl.constexpr = t.receiver.dtype.element_ty
    dim: tl.constexpr = spec.dim
    edges: tl.constexpr = spec.edges
    slots: tl.constexpr = spec.slots
    receivers: tl.constexpr = receiver_count(spec)
    invariants: tl.constexpr = invariant_count(spec)
    last: tl.constexpr = spec.depth - 1
    side: tl.constexpr = 1 if receiving else -1
    part = tl.program_id(0).to(tl.int64) * partial_stride
    lane = tl.arange(0, edges)
    blocks = (num_nodes + receivers - 1) // receivers
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        first = tl.cast(block, tl.int64) * receivers
        node = first + lane // slots
        own = tl.minimum(node, num_nodes - 1)
        row = find_row(table, own, num_nodes, num_edges, num_events, steps, spec.kind, receiving)
        count = tl.where(node < num_nodes, row[0], 0)
        total = zero_row(receivers, spec.width, dtype)
        moved = ()
        if out.x is not None:
            for _c in tl.static_range(dim):
                moved = moved + (tl.zeros((edges,), tl.float64),)
        for slot0 in tl.range(0, tl.max(count), slots, num_stages=1, disable_licm=True):
            anew = read_anew(slot0)
            slot = slot0 + lane % slots
            live = slot < count
            need_edge: tl.constexpr = spec.attr > 0 or cotangents.edges is not None
            i, j, edge = ends_of(table, row, slot, live, own + anew, num_nodes, num_edges, spec, receiving, need_edge)
            interval, product = products_of(t.x, i, j, spec)
            s = invariants_of(t.x, interval, product, dtype, spec)
            rows = edge_network(t, first_layer(t, i, j, edge, live, s, anew, spec), anew, spec)
            h = activate_row(rows[last], spec.activation, spec.slope)
            m = h
            if spec.gate:
                gate = gate_of(t, h, anew, spec)
                m = scale_rows(h, gate)
            g = seed(t, cotangents, table, i, edge, live, row[0], dtype, spec)
            if spec.head > 0:
                z_x = head_layer(t, m, anew, spec)
                hidden = activate_row(z_x, spec.activation, spec.slope)
                weight = dot_row(hidden, t.head_out + anew, spec.head)
                if spec.head_tanh:
                    weight = tanh(weight)
                t_ij = weight.to(tl.float64)
                degree = tl.maximum(degree_of(table, i, row[0], spec.kind), 1).to(tl.float64)
                norm = norm_of(interval, spec)
                g_t = (i * 0).to(tl.float64)
                for c in tl.static_range(dim):
                    d = direction_of(t.x, i, j, c, norm, spec)
                    g_t += update_gradient(cotangents.coordinates, i, c, degree, t_ij, d, spec) * d
                along = g_t * 0.0
                if spec.direction == NORM_PLUS_ONE:  # what the norm itself passes on
                    along = tl.where(interval == 0.0, 0.0, g_t / (norm - 1.0))
                new = ()
                for c in tl.static_range(dim):
                    d = direction_of(t.x, i, j, c, norm, spec)
                    y = update_gradient(cotangents.coordinates, i, c, degree, t_ij, d, spec)
                    if spec.direction == SENDER:
                        y = y * t_ij
                        if receiving:
                            y = y * 0.0
                    else:
                        if has_norm(spec):
                            y = y / norm - along * entry(spec.metric, c) * d
                        # of a self-loop x_i - x_j is 0, whatever x: no gradient, even over 1e-8
                        y = tl.where(i == j, 0.0, y) * t_ij * side
                    new = new + (moved[c] + tl.where(live, y, 0.0),)
                moved = new
                factor = tl.where(live, g_t, 0.0).to(dtype)
                if spec.head_tanh:
                    factor = factor * (1.0 - weight * weight)
                g_x = ()
                for k in tl.static_range(part_count(spec.head)):
                    g_x = g_x + (factor[:, None] * load_vector(t.head_out + anew, spec.head, k)[None, :],)
                g_x = activation_gradient(g_x, z_x, spec.activation, spec.slope)
                if receiving:
                    add_columns(sums.head_out + part, scale_rows(hidden, factor), spec.head)
                    if sums.head_bias is not None:
                        add_columns(sums.head_bias + part, g_x, spec.head)
                    add_outer(sums.head_weight + part, g_x, m, spec.head, spec.out, spec.precision)
                g_m = linear(g_x, t.head_weight, None, spec.head, spec.out, spec.out, 1, False, spec.precision, anew)
                g = add_rows(g, g_m)
            if spec.gate:
                slope = tl.sum(g[0] * h[0], 1)
                for k in tl.static_range(1, part_count(spec.out)):
                    slope += tl.sum(g[k] * h[k], 1)
                slope = tl.where(live, slope * (gate * (1.0 - gate)), 0.0)
                if receiving:
                    add_columns(sums.gate_weight + part, scale_rows(h, slope), spec.out)
                    if sums.gate_bias is not None:
                        tl.store(sums.gate_bias + part, tl.load(sums.gate_bias + part) + tl.sum(slope, 0))
                new = ()
                for k in tl.static_range(part_count(spec.out)):
                    w = load_vector(t.gate_weight + anew, spec.out, k)
                    new = new + (g[k] * gate[:, None] + slope[:, None] * w[None, :],)
                g = new
            if spec.depth > 2:
                g = activation_gradient(g, rows[2], spec.activation, spec.slope)
                if receiving:
                    h2 = activate_row(rows[1], spec.activation, spec.slope)
                    add_outer(sums.weight3 + part, g, h2, spec.width3, spec.width2, spec.precision)
                    if sums.bias3 is not None:
                        add_columns(sums.bias3 + part, g, spec.width3)
                g = linear(g, t.weight3, None, spec.width3, spec.width2, spec.width2, 1, False, spec.precision, anew)
            if spec.depth > 1:
                g = activation_gradient(g, rows[1], spec.activation, spec.slope)
                if receiving:
                    h1 = activate_row(rows[0], spec.activation, spec.slope)
                    add_outer(sums.weight2 + part, g, h1, spec.width2, spec.width, spec.precision)
                    if sums.bias2 is not None:
                        add_columns(sums.bias2 + part, g, spec.width2)
                g = linear(g, t.weight2, None, spec.width2, spec.width, spec.width, 1, False, spec.precision, anew)
            g = activation_gradient(g, rows[0], spec.activation, spec.slope)
            new = ()
            for k in tl.static_range(part_count(spec.width)):
                g_k = tl.where(live[:, None], g[k], 0.0)
                new = new + (total[k] + sum_slots(g_k, spec),)
            total = new
            for c in tl.static_range(invariants):
                if receiving:
                    s_c = tl.where(live, s[c], 0.0)
                    add_columns(sums.invariant_weight + c + part, scale_rows(g, s_c), spec.width, invariants)
                g_s = dot_row(g, t.invariant_weight + c + anew, spec.width, invariants).to(tl.float64)
                if spec.psi:
                    g_s = g_s / (1.0 + tl.abs(interval if is_interval(spec, c) else product))
                new = ()
                for q in tl.static_range(dim):
                    x_i = tl.load(t.x + i * dim + q).to(tl.float64)
                    x_j = tl.load(t.x + j * dim + q).to(tl.float64)
                    if is_interval(spec, c):
                        y = 2.0 * g_s * entry(spec.metric, q) * (x_i - x_j) * side
                    else:
                        y = g_s * entry(spec.metric, q) * (x_j if receiving else x_i)
                    new = new + (moved[q] + tl.where(live, y, 0.0),)
                moved = new
            if spec.attr > 0 and receiving:
                for q in range(spec.attr):
                    a = tl.where(live, tl.load(t.edge_attr + edge * spec.attr + q), 0.0)
                    add_columns(sums.edge_weight + q + part, scale_rows(g, a), spec.width, spec.attr)
                    if out.edge_attr is not None:
                        g_a = dot_row(g, t.edge_weight + q + anew, spec.width, spec.attr)
                        tl.store(out.edge_attr + edge * spec.attr + q, g_a, mask=live)
            if receiving:
                tl.debug_barrier()  # what a thread adds to the program's part, another may read for the next tile
        owned = first + tl.arange(0, receivers)
        for k in tl.static_range(part_count(spec.width)):
            cols = columns_of(spec.width, k)
            mask = (owned[:, None] < num_nodes) & (cols[None, :] < spec.width)
            tl.store(out.node + owned[:, None] * spec.width + cols[None, :], total[k], mask=mask)
        if out.x is not None:
            for c in tl.static_range(dim):
                address = out.x + owned * dim + c
                inside = owned < num_nodes
                y = sum_slots(moved[c], spec)
                if not receiving:
                    y += tl.load(address, mask=inside, other=0.0).to(tl.float64)
                tl.store(address, y.to(out.x.dtype.element_ty), mask=inside)
