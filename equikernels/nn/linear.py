"""What the fused op takes of a linear layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_tensor


def check_dtype(op: str, argument: str, value: Tensor, modules: nn.Module) -> None:
    """``value`` must be of the dtype of the linear layer that ``modules`` begins with; under autocast, and where there
    is another layer, it may be of any."""
    first: Any = modules._modules.get("0") if isinstance(modules, nn.Sequential) else None
    weight = first._parameters.get("weight") if isinstance(first, nn.Linear) else None
    if weight is not None and not torch.is_autocast_enabled(value.device.type):
        check_tensor(op, argument, value, dtypes=[weight.dtype])


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of an nn.Linear, or of what stands for one, to ask for its dtype and device."""
    weight: Tensor = weight_and_bias(layer)[0]
    return weight


def weight_and_bias(layer: nn.Module) -> tuple[Any, Any]:
    """(weight [out, in], bias [out] or None) of an nn.Linear, or of what stands for one. A quantised layer, which is
    called and not read, gives its weight as numbers, so that their dtype can be asked for."""
    weight: Any = layer.weight
    if callable(weight):
        bias: Any = layer.bias
        return weight().dequantize(), bias()
    return weight, layer.bias
