"""The arguments of the fused message op, in the order of its schema."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

ACTIVATIONS = ("identity", "relu", "leaky_relu", "silu", "gelu", "tanh")  # as csrc/common/activation_kind.h
DIRECTIONS = ("difference", "unit", "norm_plus_one", "sender")  # as Direction in csrc/message/message.h
PRECISIONS = ("full", "bfloat16")
DIFFERENCE, UNIT, NORM_PLUS_ONE, SENDER = range(4)


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
    clamp: float
    mean_messages: bool
    mean_coordinates: bool
    bfloat16: bool

    def encoded(self) -> tuple[object, ...]:
        """As the schema takes them: the activation is a number there."""
        return (*self[:4], ACTIVATIONS.index(self.activation), *self[5:])

    @classmethod
    def decoded(cls, values: tuple[object, ...]) -> MessageOptions:
        return cls(*values[:4], ACTIVATIONS[values[4]], *values[5:])  # type: ignore[arg-type,call-arg,call-overload]


MAX_TRITON_WIDTH = 256  # a tile of edges has to fit in registers


def triton_limit(t: MessageTensors) -> str | None:
    """Why the Triton kernels cannot do a call, or None where they can."""
    for weight, dim in ((t.receiver, 1), (t.weight2, 0), (t.weight3, 0), (t.head_weight, 0)):
        if weight is not None and weight.shape[dim] > MAX_TRITON_WIDTH:
            return f"a layer of {weight.shape[dim]} channels: at most {MAX_TRITON_WIDTH}"
    return None
