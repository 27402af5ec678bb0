"""What Triton kernels share: precision, events. Imports triton.

Kernels run in Triton's interpreter as well (TRITON_INTERPRET=1), so nothing here comes from libdevice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .common import tf32_for


def dot_precision(dtype: torch.dtype) -> str:
    """How ``tl.dot`` multiplies: float32 by IEEE multiply-adds, in TF32 where PyTorch has been told it may."""
    return "tf32" if tf32_for(dtype) else "ieee"


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
