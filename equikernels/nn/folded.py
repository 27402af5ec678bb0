"""Linear layers with a batch norm that uses its running statistics, as layers of the fused ops."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..ops.message_passing import Layer


def folded(weight: Tensor, bias: Tensor | None, norm: Any, activation: str) -> Layer:
    """The layer activation(norm(W x + b)), the norm being part of the weights.

    Args:
        weight: W [out, in].
        bias: b [out] or None.
        norm: a batch norm over out channels, in evaluation.
        activation: a name, as :func:`equikernels.message_passing` lists them.
    """
    scale, shift = affine(norm)
    return Layer(weight * scale[:, None], shift if bias is None else shift + bias * scale, activation)


def affine(norm: Any) -> tuple[Tensor, Tensor]:
    """(scale, shift) [C] of a batch norm in evaluation."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale
