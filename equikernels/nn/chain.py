"""Chains of linear layers, norms and activations with the published keys."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from ..checks import fail
from ..ops.message_passing import EdgeMLP
from .plain import Layers, kind_of


def chain(widths: Sequence[int], activation: nn.Module, norm: bool, end: nn.Module | None = None) -> nn.Sequential:
    """Linear layers from widths[0] to widths[-1]; between them (LayerNorm without affine and) the activation; after
    the last one the same with ``end``, if there is one."""
    modules: list[nn.Module] = []
    for k, (n_in, n_out) in enumerate(pairwise(widths)):
        modules.append(nn.Linear(n_in, n_out))
        after = activation if k < len(widths) - 2 else end
        if after is not None:
            modules += [*([nn.LayerNorm(n_out, elementwise_affine=False)] if norm else []), after]
    return nn.Sequential(*modules)


def chain_at(block: Any, path: str) -> Layers:
    """The paths and layers of the chain at ``path``, itself included, where a fused op may read them.

    Raises:
        ValueError: it is no Sequential, or :class:`equikernels.EdgeMLP` cannot read it.
    """
    modules = block
    for name in filter(None, path.split(".")):
        modules = getattr(modules, name, None)
    if not isinstance(modules, nn.Sequential) or type(modules).forward is not nn.Sequential.forward:
        fail(type(block).__name__, path or "modules", "an nn.Sequential", type(modules).__name__)
    for k, layer in enumerate(modules):
        if not getattr(kind_of(layer), "__module__", "").startswith("torch.nn.modules."):
            fail(type(block).__name__, f"{path}.{k}".lstrip("."), "a layer of PyTorch's own", type(layer).__name__)
    EdgeMLP.of(modules)
    return [(path, modules), *((f"{path}.{k}".lstrip("."), layer) for k, layer in enumerate(modules))]


def chain_itself(modules: Any) -> Layers:
    """:func:`chain_at` of the chain itself."""
    return chain_at(modules, "")
