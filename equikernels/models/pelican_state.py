"""What a published PELICAN state dict tells of its network: the widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

State = Mapping[str, Tensor]


def trunk_sizes(state: State, message: str, layer: str, perceptron: str) -> tuple[dict[str, Any], list[int]]:
    """Keywords of :class:`PELICANClassifier` and :class:`PELICANRegressor` that the tensors determine.

    Keys that are missing are guessed around, for whoever compares keys to say so.

    Args:
        state: has at least linear.weight.
        message, layer, perceptron: names of the modules behind the last 2 -> 2 layer, such as "msg_2to0", "agg_2to0",
            "mlp_out".

    Returns:
        (widths, ``factorize`` and ``batchnorm``, which is "b" where there are norms with parameters, else None;
        the widths of the perceptron, its result last).
    """
    of_scalars = _width(state, "eq1to2.bias", 0)
    width = state["linear.weight"].shape[0] + of_scalars
    messages = []
    for k in range(_count(state, "net2to2.eq_layers.")):
        messages.append(_chain(state, f"net2to2.message_layers.{k}.", width))
        width = _width(state, f"net2to2.eq_layers.{k}.bias", messages[-1][-1])
    last = _chain(state, f"{message}.", width)
    out = _chain(state, f"{perceptron}.", _width(state, f"{layer}.bias", last[-1]))
    sizes = {
        "num_channels_scalar": of_scalars,
        "num_channels_m": [m[:-1] for m in messages],
        "num_channels_2to2": [m[-1] for m in messages],
        "num_channels_m_out": last,
        "num_channels_out": out[:-1],
        "factorize": factorized(state),
        "batchnorm": batchnorm(state),
    }
    return sizes, out


def factorized(state: State) -> bool:
    return "net2to2.eq_layers.0.coefs00" in state


def batchnorm(state: State) -> str | None:
    return "b" if any(".normlayer." in key for key in state) else None


def _count(state: State, prefix: str) -> int:
    return len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)})


def _width(state: State, key: str, otherwise: int) -> int:
    return state[key].shape[-1] if key in state and state[key].dim() > 0 else otherwise


def _chain(state: State, prefix: str, width: int) -> list[int]:
    """Widths of linear layers in a chain, input first; without layers, ``width`` alone."""
    widths = [width]
    for k in range(_count(state, f"{prefix}linear.")):
        widths.append(_width(state, f"{prefix}linear.{k}.bias", widths[-1]))
    return widths
