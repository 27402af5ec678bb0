"""The edge network on a tile of edges, in Triton: what the forward and the backward kernel share."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from ..triton_common import (
    activate_row,
    dot_row,
    find_slot,
    interval_and_product,
    keep,
    linear,
    load_row,
    load_vector,
    log1p,
    part_count,
    scale_rows,
    sigmoid,
)
from .spec import NORM_PLUS_ONE as _NORM_PLUS_ONE
from .spec import SENDER as _SENDER
from .spec import UNIT as _UNIT

UNIT, NORM_PLUS_ONE, SENDER = tl.constexpr(_UNIT), tl.constexpr(_NORM_PLUS_ONE), tl.constexpr(_SENDER)


class MessageSpec(NamedTuple):
    """What a kernel is compiled for. Widths of absent parts are 0."""

    kind: int
    width: int
    width2: int
    width3: int
    head: int
    attr: int
    out: int  # H'
    depth: int
    gate: bool
    dim: int
    metric: tuple[float, ...]
    interval: bool
    product: bool
    psi: bool
    activation: int
    slope: float
    head_tanh: bool
    direction: int
    clamp: float
    mean_messages: bool
    mean_coordinates: bool
    bfloat16: bool
    precision: str  # of tl.dot
    edges: int  # of a tile: receivers x slots
    slots: int

    @property
    def receivers(self) -> int:
        return self.edges // self.slots

    @property
    def invariants(self) -> int:
        return int(self.interval) + int(self.product)


@triton.constexpr_function
def invariant_count(spec):
    return spec.invariants


@triton.constexpr_function
def is_interval(spec, c):
    """Whether invariant c is the interval."""
    return spec.interval and c == 0


@triton.constexpr_function
def receiver_count(spec):
    return spec.receivers


@triton.constexpr_function
def has_norm(spec):
    return spec.direction in (_UNIT, _NORM_PLUS_ONE)


@triton.constexpr_function
def needs_products(spec):
    return spec.invariants > 0 or (spec.head > 0 and spec.direction in (_UNIT, _NORM_PLUS_ONE))


@triton.jit
def ends_of(
    table, row, slot, live, own, num_nodes, num_edges, spec: tl.constexpr, receiving: tl.constexpr, edges: tl.constexpr
):
    """Receiver, sender and edge of each lane of a tile."""
    other, edge = find_slot(table, row, slot, live, own, num_nodes, num_edges, spec.kind, receiving, edges)
    if receiving:
        return own, other, edge
    return other, own, edge


@triton.jit
def products_of(x, i, j, spec: tl.constexpr):
    """Interval and product of each edge in float64; 0 where neither is needed."""
    if needs_products(spec):
        interval, product = interval_and_product(x, i, j, spec.metric, spec.dim)
    else:
        interval = (i * 0).to(tl.float64)
        product = interval
    return interval, product


@triton.jit
def finish_invariant(z, x, dtype: tl.constexpr, psi: tl.constexpr):
    z = z.to(x.dtype.element_ty)
    if psi:
        size = log1p(tl.abs(z))
        z = tl.where(z < 0.0, -size, size)
    return z.to(dtype)


@triton.jit
def invariants_of(x, interval, product, dtype: tl.constexpr, spec: tl.constexpr):
    """s_ij: a tuple of those asked for, [E] each."""
    s = ()
    if spec.interval:
        s = s + (finish_invariant(interval, x, dtype, spec.psi),)
    if spec.product:
        s = s + (finish_invariant(product, x, dtype, spec.psi),)
    return s


@triton.jit
def first_layer(t, i, j, edge, live, s, anew, spec: tl.constexpr):
    """z_ij as a row; 0 where not live."""
    out = ()
    for k in tl.static_range(part_count(spec.width)):
        z = load_row(t.receiver, i, spec.width, k) + load_row(t.sender, j, spec.width, k)
        for c in tl.static_range(invariant_count(spec)):
            column = load_vector(t.invariant_weight + c + anew, spec.width, k, invariant_count(spec))
            z += s[c][:, None] * column[None, :]
        if spec.attr > 0:
            for q in range(spec.attr):
                a = tl.load(t.edge_attr + edge * spec.attr + q)
                z += a[:, None] * load_vector(t.edge_weight + q + anew, spec.width, k, spec.attr)[None, :]
        out = out + (tl.where(live[:, None], keep(z, spec.width, k), 0.0),)
    return out


@triton.jit
def edge_network(t, z, anew, spec: tl.constexpr):
    """What goes into the activation of each layer: a tuple of rows, z first."""
    rows = (z,)
    if spec.depth > 1:
        h = activate_row(z, spec.activation, spec.slope)
        z2 = linear(h, t.weight2, t.bias2, spec.width, spec.width2, 1, spec.width, spec.bfloat16, spec.precision, anew)
        rows = rows + (z2,)
        if spec.depth > 2:
            h2 = activate_row(z2, spec.activation, spec.slope)
            z3 = linear(
                h2, t.weight3, t.bias3, spec.width2, spec.width3, 1, spec.width2, spec.bfloat16, spec.precision, anew
            )
            rows = rows + (z3,)
    return rows


@triton.jit
def gate_of(t, h, anew, spec: tl.constexpr):
    """sigmoid(w_g . h + b_g), [E]."""
    logit = dot_row(h, t.gate_weight + anew, spec.out)
    if t.gate_bias is not None:
        logit += tl.load(t.gate_bias + anew)
    return sigmoid(logit)


@triton.jit
def gated(t, h, anew, spec: tl.constexpr):
    if spec.gate:
        return scale_rows(h, gate_of(t, h, anew, spec))
    return h


@triton.jit
def head_layer(t, m, anew, spec: tl.constexpr):
    return linear(m, t.head_weight, t.head_bias, spec.out, spec.head, 1, spec.out, spec.bfloat16, spec.precision, anew)


@triton.jit
def norm_of(interval, spec: tl.constexpr):
    """What x_i - x_j is divided by, where it is."""
    offset: tl.constexpr = 1e-8 if spec.direction == UNIT else 1.0
    return tl.sqrt(interval) + offset


@triton.jit
def direction_of(x, i, j, c: tl.constexpr, norm, spec: tl.constexpr):
    """Component c of d_ij, float64."""
    b = tl.load(x + j * spec.dim + c).to(tl.float64)
    if spec.direction == SENDER:
        return b
    d = tl.load(x + i * spec.dim + c).to(tl.float64) - b
    if has_norm(spec):
        d = d / norm
    return d


@triton.jit
def bounded(y, spec: tl.constexpr):
    if spec.clamp < float("inf"):
        y = tl.where(y > spec.clamp, spec.clamp, y)
        y = tl.where(y < -spec.clamp, -spec.clamp, y)
    return y


@triton.jit
def sum_slots(tile, spec: tl.constexpr):
    """[E, ...] -> [receivers, ...]: sums over the slots of each receiver."""
    slots: tl.constexpr = spec.slots
    if len(tile.shape) == 1:
        by_receiver = tl.reshape(tile, (receiver_count(spec), slots))
    else:
        by_receiver = tl.reshape(tile, (receiver_count(spec), slots, tile.shape[1]))
    return tl.sum(by_receiver, 1)
