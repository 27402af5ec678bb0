"""The arguments of the fused message op, in the order of its schema."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Of both edge networks, in the order of csrc/simd/activation_kind.h.
ACTIVATIONS = (
    "identity", "relu", "leaky_relu", "silu", "gelu", "tanh", "sigmoid", "elu", "softplus", "mish", "hardswish",
    "gelu_tanh",
)  # fmt: skip
PRECISIONS = ("full", "bfloat16")


class MessageTensors(NamedTuple):
    """Node tables, edge attributes and weights; None where a part is absent. Shapes are in message_passing."""

    receiver: Tensor
    sender: Tensor
    x: Tensor | None = None
    invariant_weight: Tensor | None = None
    edge_attr: Tensor | None = None
    edge_weight: Tensor | None = None
    weight2: Tensor | None = None
    bias2: Tensor | None = None
    weight3: Tensor | None = None
    bias3: Tensor | None = None
    gate_weight: Tensor | None = None
    gate_bias: Tensor | None = None
    head_weight: Tensor | None = None
    head_bias: Tensor | None = None
    head_out: Tensor | None = None


class MessageOptions(NamedTuple):
    metric: list[float]
    interval: bool
    product: bool
    psi: bool
    activation: str
    slope: float
    head_tanh: bool
    direction: int
    norm_inside: float
    norm_offset: float
    clamp: float | None
    mean_messages: bool
    mean_coordinates: bool
    bfloat16: bool
    tf32: bool = False

    def encoded(self) -> tuple[object, ...]:
        """As the schema takes them: the activation is a number there."""
        return (*self[:4], ACTIVATIONS.index(self.activation), *self[5:])

    @classmethod
    def decoded(cls, values: tuple[object, ...]) -> MessageOptions:
        return cls(*values[:4], ACTIVATIONS[values[4]], *values[5:])  # type: ignore[arg-type,call-arg,call-overload]


# Of the CUDA kernel, as in csrc/message/message_cuda.h: a tile of edges has to fit in registers, weights in a block.
MAX_CUDA_WIDTH, MAX_CUDA_EDGE_WIDTH = 72, 32


def cuda_limit(t: MessageTensors) -> str | None:
    """Why the CUDA kernel cannot do a call, or None where it can."""
    if t.receiver.dtype != torch.float32:
        return f"features of {t.receiver.dtype}: only torch.float32"
    for weight, dim in ((t.receiver, 1), (t.weight2, 0), (t.weight3, 0), (t.head_weight, 0)):
        if weight is not None and weight.shape[dim] > MAX_CUDA_WIDTH:
            return f"a layer of {weight.shape[dim]} channels: at most {MAX_CUDA_WIDTH}"
    if t.edge_attr is not None and t.edge_attr.shape[1] > MAX_CUDA_EDGE_WIDTH:
        return f"edge_attr of {t.edge_attr.shape[1]} columns: at most {MAX_CUDA_EDGE_WIDTH}"
    return None
