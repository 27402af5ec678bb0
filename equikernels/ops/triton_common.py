"""What Triton kernels share: edges of a node, widths that are no power of two, activations. Imports triton.

Kernels run in Triton's interpreter as well (TRITON_INTERPRET=1), so nothing here comes from libdevice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .._triton import INTERPRETED as _INTERPRETED
from ..graph import COMPLETE_WITH_SELF_LOOPS as _SELF_LOOPS
from ..graph import CSR as _CSR

# Kernels read globals only of this type.
INTERPRETED = tl.constexpr(_INTERPRETED)
CSR = tl.constexpr(_CSR)
SELF_LOOPS = tl.constexpr(_SELF_LOOPS)
IDENTITY, RELU, LEAKY_RELU, SILU, GELU, TANH = (tl.constexpr(k) for k in range(6))  # csrc/common/activation_kind.h


def dot_precision(dtype: torch.dtype) -> str:
    """How ``tl.dot`` multiplies: float32 by IEEE multiply-adds, in TF32 where PyTorch has been told it may."""
    tf32 = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if tf32 else "ieee"


@triton.jit
def read_anew(slot0):
    """0, unknown to the compiler, to be added to the pointers of what is the same for all tiles. Otherwise it would be
    loaded once, before the loop over tiles, into all registers there are, and more. The first level of cache has it."""
    if INTERPRETED:
        zero = 0
    else:
        zero = tl.multiple_of(slot0 >> 48, 16)  # 0 keeps what is aligned so
    return zero


# --- Widths ------------------------------------------------------------------------------------------------------
# A row of H channels is a tuple of tiles whose widths are powers of two, at least 16 for tl.dot: the largest power that
# fits, and the rest rounded up to one; 72 = 64 + 16 (of which 8 are used), where one tile would take 128.


@triton.constexpr_function
def parts(width):
    if width <= 16:
        return (16,)
    first = 1 << (width.bit_length() - 1)
    rest = width - first
    if rest == 0:
        return (first,)
    rest = max(16, 1 << (rest - 1).bit_length())
    return (2 * first,) if rest >= first else (first, rest)


def padded_width(width: int) -> int:
    """Channels that the tiles of a row of ``width`` take."""
    return sum(parts(width))


@triton.constexpr_function
def part_count(width):
    return len(parts(width))


@triton.constexpr_function
def part_width(width, k):
    return parts(width)[k]


@triton.constexpr_function
def part_start(width, k):
    return sum(parts(width)[:k])


@triton.constexpr_function
def is_padded(width, k):
    return part_start(width, k) + part_width(width, k) > width


@triton.constexpr_function
def entry(values, k):
    return values[k]


@triton.jit
def columns_of(width: tl.constexpr, k: tl.constexpr):
    """Channels of tile k of a row."""
    return part_start(width, k) + tl.arange(0, part_width(width, k))


@triton.jit
def load_row(table, node, width: tl.constexpr, k: tl.constexpr):
    """Tile k of rows of a table [n, width], one per node; 0 in channels past the width."""
    cols = columns_of(width, k)
    address = table + node[:, None] * width + cols[None, :]
    if is_padded(width, k):
        return tl.load(address, mask=cols[None, :] < width, other=0.0)
    return tl.load(address)


@triton.jit
def load_vector(p, width: tl.constexpr, k: tl.constexpr, step: tl.constexpr = 1):
    """Tile k of a vector, 0 past its width; element c is at p[c * step]."""
    cols = columns_of(width, k)
    if is_padded(width, k):
        return tl.load(p + cols * step, mask=cols < width, other=0.0)
    return tl.load(p + cols * step)


@triton.jit
def keep(tile, width: tl.constexpr, k: tl.constexpr):
    """0 in channels past the width, where 0 times infinity may have left a NaN."""
    if is_padded(width, k):
        return tl.where(columns_of(width, k)[None, :] < width, tile, 0.0)
    return tile


@triton.jit
def zero_row(rows: tl.constexpr, width: tl.constexpr, dtype: tl.constexpr):
    out = ()
    for k in tl.static_range(part_count(width)):
        out = out + (tl.zeros((rows, part_width(width, k)), dtype),)
    return out


@triton.jit
def dot_row(row, vector, width: tl.constexpr, step: tl.constexpr = 1):
    """vector . row for each row [E]; element c of the vector is at vector[c * step]."""
    total = tl.sum(row[0] * load_vector(vector, width, 0, step)[None, :], 1)
    for k in tl.static_range(1, part_count(width)):
        total += tl.sum(row[k] * load_vector(vector, width, k, step)[None, :], 1)
    return total


@triton.jit
def activate_row(row, kind: tl.constexpr, slope: tl.constexpr):
    out = ()
    for k in tl.static_range(len(row)):
        out = out + (activate(row[k], kind, slope),)
    return out


@triton.jit
def activation_gradient(g, row, kind: tl.constexpr, slope: tl.constexpr):
    """Gradients g of activate_row(row), passed on to row."""
    out = ()
    for k in tl.static_range(len(row)):
        out = out + (through_activation(g[k], row[k], kind, slope),)
    return out


@triton.jit
def add_rows(a, b):
    out = ()
    for k in tl.static_range(len(a)):
        out = out + (a[k] + b[k],)
    return out


@triton.jit
def scale_rows(row, factor):
    """Each row times its factor [E]."""
    out = ()
    for k in tl.static_range(len(row)):
        out = out + (row[k] * factor[:, None],)
    return out


@triton.jit
def round_to_bfloat16(v):
    """To bfloat16, for products. The interpreter has none: there the value stays in its type, rounded."""
    if INTERPRETED:
        bits = v.to(tl.float32).to(tl.uint32, bitcast=True)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).to(tl.uint32).to(tl.float32, bitcast=True)
        result = tl.where(v == v, rounded, v.to(tl.float32)).to(v.dtype)
    else:
        result = v.to(tl.float32).to(tl.bfloat16)
    return result


@triton.jit
def multiply(a, b, acc, bfloat16: tl.constexpr, precision: tl.constexpr):
    """acc + a @ b, summed in the type of acc."""
    if bfloat16:
        a = round_to_bfloat16(a)
        b = round_to_bfloat16(b)
        if acc.dtype == tl.float64:
            a = a.to(tl.float64)
            b = b.to(tl.float64)
    return tl.dot(a, b, acc, input_precision=precision, out_dtype=acc.dtype)


@triton.jit
def linear(
    row,
    weight,
    bias,
    inputs: tl.constexpr,
    outputs: tl.constexpr,
    input_step: tl.constexpr,
    output_step: tl.constexpr,
    bfloat16: tl.constexpr,
    precision: tl.constexpr,
    anew,
):
    """A linear layer on rows [E, inputs]; weight(o, i) is at weight[o * output_step + i * input_step]. bias may be
    None. anew: see read_anew."""
    out = ()
    for n in tl.static_range(part_count(outputs)):
        cols = columns_of(outputs, n)
        acc = tl.zeros((row[0].shape[0], part_width(outputs, n)), row[0].dtype)
        if bias is not None:
            acc += load_vector(bias + anew, outputs, n)[None, :]
        for k in tl.static_range(part_count(inputs)):
            ins = columns_of(inputs, k)
            address = weight + anew + ins[:, None] * input_step + cols[None, :] * output_step
            if is_padded(outputs, n) or is_padded(inputs, k):
                block = tl.load(address, mask=(ins[:, None] < inputs) & (cols[None, :] < outputs), other=0.0)
            else:
                block = tl.load(address)
            acc = multiply(row[k], block, acc, bfloat16, precision)
        out = out + (keep(acc, outputs, n),)
    return out


# --- Edges of a node -----------------------------------------------------------------------------------------------
# As csrc/common/graph.h: a node's edges are slots 0 .. count - 1. In tiles, `row` holds a node per lane.


@triton.jit
def last_not_after(table, value, low, count, halvings):
    """The last b with table[b] <= value, of low .. low + count - 1, as int64: empty events are stepped over."""
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
    """Node at the other end of a slot, and, if asked, its edge; where not live the node itself, and edge 0."""
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


@triton.jit
def degree_of(table, node, own_count, kind: tl.constexpr):
    """Edges each node receives; in a complete graph those of any node of the same event."""
    if kind == CSR:
        return tl.load(table + node + 1) - tl.load(table + node)
    return own_count


# --- Elementary functions -------------------------------------------------------------------------------------------


@triton.jit
def log1p(v):
    """ln(1 + v), v >= 0: the rounding of 1 + v is divided out (W. Kahan)."""
    u = 1.0 + v
    quotient = tl.log(u) * (v / (u - 1.0))
    return tl.where(u == 1.0, v, tl.where(u == float("inf"), v, quotient))


@triton.jit
def tanh(v):
    """With expm1(2 |v|) formed as log1p above: a small v keeps its digits."""
    y = 2.0 * tl.abs(v)
    y = tl.where(y > 44.0, 44.0, y)
    u = tl.exp(y)
    e = tl.where(u == 1.0, y, (u - 1.0) * (y / tl.log(u)))
    h = e / (e + 2.0)
    return tl.where(v < 0.0, -h, h)


@triton.jit
def sigmoid(v):
    return 1.0 / (1.0 + tl.exp(-v))


@triton.jit
def activate(v, kind: tl.constexpr, slope: tl.constexpr):
    if kind == RELU:
        return tl.where(v <= 0.0, 0.0, v)  # a NaN stays one
    if kind == LEAKY_RELU:
        return tl.where(v > 0.0, v, v * slope)
    if kind == SILU:
        return v / (1.0 + tl.exp(-v))
    if kind == GELU:
        return v * (0.5 + 0.5 * tl.erf(v * 0.7071067811865476))
    if kind == TANH:
        return tanh(v)
    return v


@triton.jit
def through_activation(g, v, kind: tl.constexpr, slope: tl.constexpr):
    """g times the derivative at v; where that is 0 nothing passes, not even infinity."""
    if kind == IDENTITY:
        return g
    if kind == RELU:
        return tl.where(v <= 0.0, 0.0, g)
    if kind == LEAKY_RELU:
        return tl.where(v > 0.0, g, g * slope)
    if kind == SILU:
        s = sigmoid(v)
        d = s + v * s * (1.0 - s)
    elif kind == GELU:
        d = 0.5 + 0.5 * tl.erf(v * 0.7071067811865476) + v * 0.3989422804014327 * tl.exp(-0.5 * v * v)
    else:
        h = tanh(v)
        d = 1.0 - h * h
    return tl.where(d == 0.0, 0.0, g * d)


@triton.jit
def add_product(value, error, a, b):
    """Adds a * b to a sum in twice the precision (Ogita, Rump, Oishi 2005)."""
    p = a * b
    error += tl.fma(a, b, -p)
    s = value + p
    t = s - value
    return s, error + ((value - (s - t)) + (p - t))


@triton.jit
def interval_and_product(x, i, j, metric: tl.constexpr, dim: tl.constexpr):
    """||x_i - x_j||^2 and <x_i, x_j> of nodes i and j [E], float64, as csrc/common/minkowski.h forms them. With float64
    coordinates the kernel is to be compiled with enable_fp_fusion=False."""
    square = (i * 0).to(tl.float64)
    square_error = square
    dot = square
    dot_error = square
    for c in tl.static_range(dim):
        a = tl.load(x + i * dim + c).to(tl.float64)
        b = tl.load(x + j * dim + c).to(tl.float64)
        d = a - b
        if x.dtype.element_ty == tl.float64:
            t = d - a
            e = (a - (d - t)) - (b + t)  # a - b = d + e exactly
            ed = d * entry(metric, c)
            square, square_error = add_product(square, square_error, ed, d)
            square_error += ed * e * 2.0
            dot, dot_error = add_product(dot, dot_error, a * entry(metric, c), b)
        else:
            square += d * d * entry(metric, c)
            dot += a * b * entry(metric, c)
    return square + square_error, dot + dot_error
