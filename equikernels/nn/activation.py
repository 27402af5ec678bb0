"""Which of the fused ops' activations a module is."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..checks import fail

_NAMES: dict[type[nn.Module], str] = {
    nn.Identity: "identity",
    nn.ReLU: "relu",
    nn.LeakyReLU: "leaky_relu",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
}


def fused_activation(op: str, argument: str, module: Any, sigmoid: bool = False) -> tuple[str, float]:
    """(``activation``, ``negative_slope``) of :func:`equikernels.message_passing` that do what ``module`` does; with
    ``sigmoid`` of :func:`equikernels.edge_network`, which has that too.

    Raises:
        ValueError: the fused op has no such activation.
    """
    # A subclass may do anything: what it inherits counts. (torch.export traces through subclasses of its own.)
    names = (name for kind, name in _NAMES.items() if getattr(type(module), "forward", None) is kind.forward)
    name = next(names, None)
    known = name is not None and (sigmoid or name != "sigmoid")
    if not known or (name == "gelu" and module.approximate != "none"):
        more = ", Sigmoid" if sigmoid else ""
        fail(op, argument, f"one of SiLU, ReLU, LeakyReLU, GELU (not approximated), Tanh, Identity{more}", repr(module))
    assert name is not None
    return name, getattr(module, "negative_slope", 0.0)
