"""What the fused op takes of a linear layer."""

from __future__ import annotations

from typing import Any

from torch import nn


def weight_and_bias(layer: nn.Module) -> tuple[Any, Any]:
    """(weight [out, in], bias [out] or None) of an nn.Linear, or of what stands for one."""
    return layer.weight, layer.bias
