"""Defines encode_invariants."""

from __future__ import annotations

import torch
from torch import Tensor


def encode(z: Tensor, t: Tensor, angles: bool) -> Tensor:
    sign = torch.where(z < 0, -1.0, 1.0).to(z.dtype)
    size = z * sign  # its derivative at 0 is that of u, while the derivative of abs is 0
    if angles:
        return (t * (1e-5 + size).log()).expm1() / t
    return sign * (t * size.log1p()).expm1() / t
