"""The activations of the fused ops, and which of them a module is."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ...checks import fail

# In the order of csrc's Activation.
ACTIVATIONS = (
    "identity", "relu", "leaky_relu", "silu", "gelu", "tanh", "sigmoid", "elu", "softplus", "mish", "hardswish",
    "gelu_tanh",
)  # fmt: skip

_NAMES: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "leaky_relu",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.ELU: "elu",
    nn.CELU: "elu",
    nn.Softplus: "softplus",
    nn.Mish: "mish",
    nn.Hardswish: "hardswish",
}

# Settings that a fused activation is of; other settings have no fused form.
_SETTINGS: dict[type[nn.Module], dict[str, float]] = {
    nn.ELU: {"alpha": 1.0},
    nn.CELU: {"alpha": 1.0},
    nn.Softplus: {"beta": 1.0, "threshold": 20.0},
}


def fused_activation(op: str, argument: str, module: Any, sigmoid: bool = True) -> tuple[str, float]:
    """(``activation``, ``negative_slope``) of :class:`equikernels.EdgeMLP` that do what ``module`` does.

    A PReLU is a leaky ReLU of the slope it has now, where that is one number on the CPU of which no gradient is wanted:
    the fused op gives none. So the answer for a PReLU holds for one call; ask again before the next.

    Args:
        op, argument: who asks, and what for: for the error message.
        module: the activation.
        sigmoid: whether Sigmoid counts as one.

    Raises:
        ValueError: the fused ops have no such activation, or a gradient of a PReLU's slope is wanted.
    """
    # A subclass may do anything: what it inherits counts. (torch.export traces through subclasses of its own.)
    kinds = (kind for kind in _NAMES if getattr(type(module), "forward", None) is kind.forward)
    kind = next(kinds, None)
    name = None if kind is None else _name(kind, module)
    if name is None or (name == "sigmoid" and not sigmoid):
        more = ", Sigmoid" if sigmoid else ""
        expected = (
            "one of SiLU, ReLU, LeakyReLU, GELU, Tanh, ELU (alpha 1), Softplus (beta 1, threshold 20), Mish, "
            f"Hardswish, Identity{more}, or a PReLU of one slope that needs no gradient"
        )
        fail(op, argument, expected, repr(module))
    if kind is nn.PReLU:
        return name, float(module.weight.detach())
    return name, getattr(module, "negative_slope", 0.0)


def _name(kind: type[nn.Module], module: Any) -> str | None:
    """The fused form's name, or None where these settings have none."""
    if kind is nn.PReLU:
        slope = module.weight
        # a traced program would keep the number that the slope is now
        now = slope.numel() == 1 and slope.device.type == "cpu" and not torch.compiler.is_compiling()
        wanted = slope.requires_grad and torch.is_grad_enabled()
        return _NAMES[kind] if now and not wanted else None
    if kind is nn.GELU:
        return {"none": "gelu", "tanh": "gelu_tanh"}.get(module.approximate)
    settings = _SETTINGS.get(kind, {})
    return _NAMES[kind] if all(getattr(module, k) == v for k, v in settings.items()) else None
