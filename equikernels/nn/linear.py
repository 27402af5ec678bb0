"""What the fused op takes of a linear layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of an nn.Linear, or of what stands for one, to ask for its dtype and device."""
    weight: Tensor = weight_and_bias(layer)[0]
    return weight


def weight_and_bias(layer: nn.Module) -> tuple[Any, Any]:
    """(weight [out, in], bias [out] or None) of an nn.Linear, or of what stands for one. A quantised layer, which is
    called and not read, gives its weight as numbers, so that their dtype can be asked for."""
    if callable(layer.weight):
        return layer.weight().dequantize(), layer.bias()
    return layer.weight, layer.bias
