"""Device functions shared by Triton kernels: precision, events. Imports triton.

Kernels also run in Triton's interpreter (TRITON_INTERPRET=1), so nothing here uses libdevice.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .common import tf32_for


def dot_precision(dtype: torch.dtype) -> str:
    """The precision of ``tl.dot``: IEEE multiply-adds for float32, or TF32 if PyTorch's settings allow it."""
    return "tf32" if tf32_for(dtype) else "ieee"


@triton.jit
def last_not_after(table, value, low, count, halvings):
    """The last b with table[b] <= value, of low .. low + count - 1, as int64: empty events are skipped."""
    lo = value * 0 + low
    hi = lo + count
    for _ in range(halvings):
        mid = lo + ((hi - lo) >> 1)
        reached = tl.load(table + mid) <= value
        lo = tl.where(reached, mid, lo)
        hi = tl.where(reached, hi, mid)
    return lo
