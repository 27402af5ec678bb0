"""Networks already read from modules: the same modules with the same parameters give the same EdgeMLP again.

Reading a dozen modules takes longer than a small network's kernel; comparing them with what was read takes a few
microseconds.
"""

from __future__ import annotations

from itertools import chain
from operator import attrgetter, is_
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

# Modules of which nothing but parameters, buffers and what is compared below can change.
_PLAIN = {
    nn.Linear, nn.BatchNorm1d, nn.LayerNorm, nn.ReLU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Identity, nn.Dropout,
    nn.Sequential,
}  # fmt: skip
_VALUES: Any = dict.values
_chained = chain.from_iterable
_NORM, _DROPOUT = attrgetter("training", "eps"), attrgetter("training", "p")


class Known:
    """An EdgeMLP, and the modules that it was read from."""

    __slots__ = ("arguments", "children", "containers", "dropouts", "mlp", "norms", "parameters", "states", "tensors")

    def __init__(self, arguments: tuple[Any, ...], modules: list[nn.Module], mlp: Any) -> None:
        self.arguments, self.mlp = arguments, mlp
        sequences = [m for m in modules if isinstance(m, nn.Sequential)]
        self.containers = [m._modules for m in sequences]
        self.children = [*_chained(map(_VALUES, self.containers))]
        leaves = [*self.children, *(m for m in modules if not isinstance(m, nn.Sequential))]
        self.norms = [m for m in leaves if isinstance(m, nn.BatchNorm1d | nn.LayerNorm)]
        self.dropouts = [m for m in leaves if isinstance(m, nn.Dropout)]
        self.states = self._states()
        self.parameters = [d for m in leaves for d in (m._parameters, m._buffers) if d]
        self.tensors = [*_chained(map(_VALUES, self.parameters))]

    def _states(self) -> list[tuple[Any, ...]]:
        return [*map(_NORM, self.norms), *map(_DROPOUT, self.dropouts)]

    def holds(self) -> bool:
        """Whether reading the modules again would give the same."""
        if [*_chained(map(_VALUES, self.containers))] != self.children or self._states() != self.states:
            return False
        tensors = [*_chained(map(_VALUES, self.parameters))]
        return len(tensors) == len(self.tensors) and all(map(is_, tensors, self.tensors))


_known: WeakKeyDictionary[nn.Module, Known] = WeakKeyDictionary()


def recall(arguments: tuple[Any, ...]) -> Any:
    """The EdgeMLP that these arguments of :meth:`EdgeMLP.of` gave before, or None."""
    first = arguments[0]
    if not isinstance(first, nn.Module) or torch.compiler.is_compiling():
        return None
    known = _known.get(first)
    return known.mlp if known is not None and known.arguments == arguments and known.holds() else None


def remember(arguments: tuple[Any, ...], mlp: Any) -> None:
    """Keeps what :meth:`EdgeMLP.of` read, where nothing but what :class:`Known` compares can change it."""
    modules = [a for a in arguments if isinstance(a, nn.Module)]
    if torch.compiler.is_compiling() or not isinstance(arguments[0], nn.Module):
        return
    if any(not isinstance(a, nn.Module | str | tuple | int | None) for a in arguments):
        return
    leaves = [m for module in modules for m in module.modules()]
    plain = all(type(m) in _PLAIN and not m._forward_pre_hooks and not _reparametrised(m) for m in leaves)
    if plain and all(type(child) is not nn.Sequential for module in modules for child in module.children()):
        _known[arguments[0]] = Known(arguments, modules, mlp)


def _reparametrised(module: nn.Module) -> bool:
    """Whether a weight is made of others, as by torch.nn.utils.weight_norm."""
    return isinstance(module, nn.Linear) and set(module._parameters) != {"weight", "bias"}
