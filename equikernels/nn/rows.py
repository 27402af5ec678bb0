"""Layers on rows: one call of row_mlp where they are plain, each by itself where something is attached to them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import REAL
from ..ops.message_passing import EdgeMLP
from ..ops.message_passing.rows import TABLES, row_mlp
from .plain import Layers, kind_of, obstacle


def apply_linear(layer: Any, rows: Tensor) -> Tensor:
    """A linear layer on rows [n, K]; on a CPU, where it is plain, the same numbers on any number of threads."""
    if _fits(layer, (rows,)) and obstacle(layer, _itself) is None:
        return row_mlp(EdgeMLP.of(layer), rows)
    out: Tensor = layer(rows)
    return out


def apply_layers(modules: Any, *tables: Tensor, residual: Tensor | None = None) -> Tensor:
    """An nn.Sequential of linear layers, norms and activations on the rows of tables [n, K] side by side, on top of a
    residual."""
    first = next((m for m in modules if isinstance(m, nn.Linear)), None)
    if first is not None and _fits(first, tables) and obstacle(modules, _sequence, _unknown) is None:
        return row_mlp(EdgeMLP.of(modules), *tables, residual=residual)
    out: Tensor = modules(tables[0] if len(tables) == 1 else torch.cat(tables, dim=1))
    return out if residual is None else residual + out


def _fits(layer: Any, tables: tuple[Tensor, ...]) -> bool:
    """Whether the op takes such rows. Under autocast the layers are PyTorch's own, in 16 bits."""
    rows, weight = tables[0], getattr(layer, "weight", None)
    return (
        isinstance(weight, Tensor)
        and len(tables) <= TABLES
        and rows.dim() == 2
        and rows.dtype in REAL
        and weight.dtype == rows.dtype
        and not torch.is_autocast_enabled(rows.device.type)
    )


def _itself(layer: Any) -> Layers:
    return [("the layer", layer)]


def _sequence(modules: Any) -> Layers:
    EdgeMLP.of(modules)
    return [("the layers", modules), *((str(k), layer) for k, layer in enumerate(modules))]


def _unknown(layers: Layers) -> str | None:
    for path, layer in layers:
        if not kind_of(layer).__module__.startswith("torch.nn.modules."):
            return f"{path} is a {type(layer).__name__}"
    return None
