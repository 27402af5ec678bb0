"""The forward kernel of the message op, in Triton."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..triton_common import activate_row, columns_of, dot_row, find_row, part_count, read_anew, tanh, zero_row
from .triton_network import (
    bounded,
    direction_of,
    edge_network,
    ends_of,
    first_layer,
    gated,
    head_layer,
    invariants_of,
    norm_of,
    products_of,
    receiver_count,
    sum_slots,
)

SIZES = ["num_nodes", "num_edges", "num_events", "steps"]  # one kernel for all of them


class Outputs(NamedTuple):
    """None where not wanted."""

    messages: Any
    coordinates: Any
    edges: Any


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(table, t, out, num_nodes, num_edges, num_events, steps, spec: tl.constexpr):
    dtype: tl.constexpr = t.receiver.dtype.element_ty
    dim: tl.constexpr = spec.dim
    edges: tl.constexpr = spec.edges
    slots: tl.constexpr = spec.slots
    lane = tl.arange(0, edges)
    first = tl.program_id(0).to(tl.int64) * receiver_count(spec)
    node = first + lane // slots
    own = tl.minimum(node, num_nodes - 1)
    row = find_row(table, own, num_nodes, num_edges, num_events, steps, spec.kind, True)
    count = tl.where(node < num_nodes, row[0], 0)
    total = zero_row(receiver_count(spec), spec.out, dtype)
    moved = ()
    if spec.head > 0:
        for _c in tl.static_range(dim):
            moved = moved + (tl.zeros((edges,), tl.float64),)
    for slot0 in tl.range(0, tl.max(count), slots, num_stages=1, disable_licm=True):
        anew = read_anew(slot0)
        slot = slot0 + lane % slots
        live = slot < count
        need_edge: tl.constexpr = spec.attr > 0 or out.edges is not None
        i, j, edge = ends_of(table, row, slot, live, own + anew, num_nodes, num_edges, spec, True, need_edge)
        interval, product = products_of(t.x, i, j, spec)
        s = invariants_of(t.x, interval, product, dtype, spec)
        rows = edge_network(t, first_layer(t, i, j, edge, live, s, anew, spec), anew, spec)
        m = gated(t, activate_row(rows[spec.depth - 1], spec.activation, spec.slope), anew, spec)
        added = ()
        for k in tl.static_range(part_count(spec.out)):
            added = added + (total[k] + sum_slots(tl.where(live[:, None], m[k], 0.0), spec),)
            if out.edges is not None:
                cols = columns_of(spec.out, k)
                where = live[:, None] & (cols[None, :] < spec.out)
                tl.store(out.edges + edge[:, None] * spec.out + cols[None, :], m[k], mask=where)
        total = added
        if spec.head > 0:
            hidden = activate_row(head_layer(t, m, anew, spec), spec.activation, spec.slope)
            weight = dot_row(hidden, t.head_out + anew, spec.head)
            if spec.head_tanh:
                weight = tanh(weight)
            norm = norm_of(interval, spec)
            steps_on = ()
            for c in tl.static_range(dim):
                y = bounded(weight.to(tl.float64) * direction_of(t.x, i, j, c, norm, spec), spec)
                steps_on = steps_on + (moved[c] + tl.where(live, y, 0.0),)
            moved = steps_on
    owned = first + tl.arange(0, receiver_count(spec))
    degree = tl.max(tl.reshape(count, (receiver_count(spec), slots)), 1)
    degree = tl.where(degree > 0, degree, 1)
    for k in tl.static_range(part_count(spec.out)):
        result = total[k]
        if spec.mean_messages:
            result = result / degree[:, None].to(dtype)
        cols = columns_of(spec.out, k)
        where = (owned[:, None] < num_nodes) & (cols[None, :] < spec.out)
        tl.store(out.messages + owned[:, None] * spec.out + cols[None, :], result, mask=where)
    if spec.head > 0:
        for c in tl.static_range(dim):
            step = sum_slots(moved[c], spec)
            if spec.mean_coordinates:
                step = step / degree.to(tl.float64)
            step = step.to(out.coordinates.dtype.element_ty)
            tl.store(out.coordinates + owned * spec.dim + c, step, mask=owned < num_nodes)
