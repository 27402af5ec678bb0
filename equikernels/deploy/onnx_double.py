"""Functions that ONNX Runtime has in float32 alone, in float64 by those that it has. Features of particles use them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def atan2(y: Tensor, x: Tensor) -> Any:
    """In float32, and what is missing by one step of Newton's method."""
    if x.dtype != torch.float64:
        return NotImplemented
    angle = torch.atan2(y.float(), x.float()).double()
    cosine, sine = cos(angle), angle.sin()
    return angle + (y * cosine - x * sine) / (x * cosine + y * sine).clamp(min=1e-300)


def cos(x: Tensor) -> Any:
    """ONNX Runtime 1.15 has the sine alone."""
    return (x + math.pi / 2).sin() if x.dtype == torch.float64 else NotImplemented


def asinh(x: Tensor) -> Any:
    return x.sign() * (x.abs() + (x * x + 1).sqrt()).log() if x.dtype == torch.float64 else NotImplemented


def cosh(x: Tensor) -> Any:
    return (x.exp() + (-x).exp()) / 2 if x.dtype == torch.float64 else NotImplemented


def sinh(x: Tensor) -> Any:
    return (x.exp() - (-x).exp()) / 2 if x.dtype == torch.float64 else NotImplemented


aten = torch.ops.aten
DECOMPOSITIONS: dict[Any, Any] = {
    aten.atan2.default: atan2,
    aten.cos.default: cos,
    aten.asinh.default: asinh,
    aten.cosh.default: cosh,
    aten.sinh.default: sinh,
}
