"""Whether the layers inside a block are plain, so that a fused op may read their parameters instead of calling them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm

# A path inside a block, and the layer there.
Layers = Sequence[tuple[str, nn.Module]]

TENSORS = {Tensor, nn.Parameter, nn.Buffer, FakeTensor, FunctionalTensor}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# Users put other dictionaries in place of these; those of backward hooks and of parameters PyTorch only fills.
_BEFORE, _AFTER = itemgetter("_forward_pre_hooks"), itemgetter("_forward_hooks")
# What activations and dropout depend on.
_NUMBERS = ("negative_slope", "approximate", "alpha", "beta", "threshold", "p")
_FORWARD = attrgetter("forward")
_VALUES, _chained = dict.values, chain.from_iterable
_GLOBAL_HOOKS = tuple(getattr(torch_module, f"_global{name}") for name in _HOOKS)


class _Known:
    """The layers of a block as they were when they were last found plain."""

    __slots__ = (
        "after",
        "before",
        "children",
        "containers",
        "forwards",
        "hooks",
        "kinds",
        "layers",
        "named",
        "numbers",
        "parameters",
        "sizes",
        "states",
        "tensors",
        "types",
    )

    def __init__(self, block: nn.Module, layers: Layers) -> None:
        self.named = layers
        self.layers = [layer for _, layer in layers]
        self.types = [type(layer) for layer in self.layers]
        self.states = [layer.__dict__ for layer in self.layers]
        self.before, self.after = ([*map(get, self.states)] for get in (_BEFORE, _AFTER))
        self.hooks = [state[name] for name in _HOOKS for state in self.states]
        self.parameters = [state["_parameters"] for state in self.states if state["_parameters"]]
        self.tensors = [*map(type, _chained(map(_VALUES, self.parameters)))]
        self.sizes = [len(state) for state in self.states]
        self.kinds = [*{*self.types}]
        self.forwards = [*map(_FORWARD, self.kinds)]
        self.numbers = [(state, key, state[key]) for state in self.states for key in _NUMBERS if key in state]
        self.numbers += [
            (state, "training", state["training"])
            for layer, state in zip(self.layers, self.states, strict=True)
            if isinstance(layer, nn.modules.dropout._DropoutNd)
        ]
        self.containers = [m.__dict__["_modules"] for m in (block, *self.layers) if m.__dict__["_modules"]]
        self.children = [*_chained(map(_VALUES, self.containers))]

    def holds(self) -> bool:
        """Whether the same layers are still there, with nothing attached. A few microseconds for a block."""
        if [*map(type, self.layers)] != self.types or [*map(len, self.states)] != self.sizes or any(self.hooks):
            return False
        if [*map(_BEFORE, self.states)] != self.before or [*map(_AFTER, self.states)] != self.after:
            return False
        if [*map(_FORWARD, self.kinds)] != self.forwards or [
            *map(type, _chained(map(_VALUES, self.parameters)))
        ] != self.tensors:
            return False
        for state, key, value in self.numbers:
            if state.get(key) != value:
                return False
        return [*_chained(map(_VALUES, self.containers))] == self.children and not any(_GLOBAL_HOOKS)


_known: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def obstacle(
    block: nn.Module, read: Callable[[Any], Layers], refuse: Callable[[Layers], str | None] | None = None
) -> str | None:
    """Why the layers inside a block have to be called, or None where a fused op may read their parameters.

    A hook on a layer wants to be called, another class computes something else, and a parameter of another kind of
    tensor (quantised, distributed) is no table of numbers.

    Args:
        block: the module that holds the layers.
        read: gives the paths and layers of the block that would be read and not called. Raises ValueError where the
            block has not the layers that it should have.
        refuse: looks at them once, when they are new, and gives a reason or None. By default every layer has to be of
            a class whose forward is one of torch's own.
    """
    if not torch.compiler.is_compiling() and still_plain(block):
        return None
    try:
        layers = read(block)
    except ValueError as error:
        return str(error)
    reason = attached(layers) or (_foreign(layers) if refuse is None else refuse(layers))
    if not torch.compiler.is_compiling():
        if reason is None:
            _known[block] = _Known(block, layers)
        else:
            _known.pop(block, None)
    return reason


def still_plain(block: nn.Module) -> bool:
    """Whether :func:`obstacle` found none before, and nothing has changed. A compiler cannot follow it."""
    known = _known.get(block)
    return known is not None and known.holds()


def layers_of(block: nn.Module, read: Callable[[Any], Layers]) -> Layers:
    """The layers of a block in which :func:`obstacle` found none."""
    known = None if torch.compiler.is_compiling() else _known.get(block)
    return read(block) if known is None else known.named


def attached(layers: Layers) -> str | None:
    """The first hook, replaced forward or foreign parameter, in words."""
    if not torch.compiler.is_compiling() and any(_GLOBAL_HOOKS):
        return "there are hooks on all modules"
    for path, layer in layers:
        if layer._forward_pre_hooks or layer._forward_hooks:
            return f"{path} has forward hooks"
        if layer._backward_pre_hooks or layer._backward_hooks:
            return f"{path} has backward hooks"
        if "forward" in layer.__dict__:
            return f"the forward of {path} has been replaced"
        for name, p in layer._parameters.items():
            if p is not None and not torch.compiler.is_compiling() and type(p) not in TENSORS:
                return f"{path}.{name} is a {type(p).__name__}"
    return None


def kind_of(layer: nn.Module) -> Any:
    """The forward that a layer's class has, or its __call__ where it has one of its own. SyncBatchNorm counts as
    BatchNorm: fused norms know both; a fused block counts as what it was."""
    kind = type(layer)
    if kind.__call__ is not nn.Module.__call__:
        return kind.__call__
    forward = getattr(getattr(kind, "equikernels_own", kind), "forward", None)
    return _BatchNorm.forward if forward is nn.SyncBatchNorm.forward else forward


def numbers_of(layer: nn.Module) -> tuple[Any, ...]:
    """What an activation depends on beside its class."""
    return tuple(layer.__dict__[key] for key in _NUMBERS if key in layer.__dict__)


def _foreign(layers: Layers) -> str | None:
    for path, layer in layers:
        forward = kind_of(layer)
        if not getattr(forward, "__module__", "").startswith("torch.nn.modules."):
            return f"{path} is a {type(layer).__name__}, with a forward of its own"
    return None


def expect_layers(block: Any, path: str, kinds: tuple[type[nn.Module] | None, ...]) -> Layers:
    """The paths and layers of the nn.Sequential at ``path``, itself included.

    Args:
        block: the module that has it.
        path: its name.
        kinds: a class for each layer whose forward the layer must have, or None for any activation.

    Raises:
        ValueError: there is no nn.Sequential of such layers.
    """
    layers = getattr(block, path, None)
    if not isinstance(layers, nn.Sequential) or type(layers).forward is not nn.Sequential.forward:
        raise ValueError(f"{path} is no nn.Sequential")
    fits = len(layers) == len(kinds) and all(
        kind is None or kind_of(layer) is kind.forward for layer, kind in zip(layers, kinds, strict=True)
    )
    if not fits:
        found = ", ".join(type(layer).__name__ for layer in layers)
        raise ValueError(f"{path} has other layers than the published block: {found}")
    return [(path, layers), *((f"{path}.{k}", layer) for k, layer in enumerate(layers))]


def warn_once(owner: nn.Module, what: str, reason: str, instead: str = "its layers run one by one") -> None:
    """Says once for a module and a reason what runs in place of a fused op."""
    if torch.compiler.is_compiling():
        return
    told = _told.setdefault(owner, set())
    kind = _NUMBER.sub("", reason)  # sizes and values differ from batch to batch
    if kind not in told:
        told.add(kind)
        warnings.warn(f"{what}: {instead}: {reason}", stacklevel=4)


_NUMBER = re.compile(r"[-+]?\d[\d.e+-]*")
_told: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()
