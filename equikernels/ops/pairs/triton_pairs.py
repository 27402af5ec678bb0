"""What the rank-2 Triton kernels share: where a pair is, and what a gradient loses in an activation.

Tables of offsets are searched on the device: nothing is read back. Offsets are 64-bit.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..triton_common import last_not_after

# mypy: disable-error-code="no-untyped-def"


@triton.jit
def particles(graph, row, events, low, count, halvings):
    """Of pairs, given by their rows and of events low .. low + count - 1: first particle and first pair of the event,
    n, i and j."""
    event = last_not_after(graph + events + 1, row, low, count, halvings)
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
