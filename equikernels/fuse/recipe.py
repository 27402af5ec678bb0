"""The fused form of one kind of published block, and the class of a block that runs it."""

from __future__ import annotations

import functools
import inspect
import pickle
import types
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ..nn.plain import TENSORS, Layers, kind_of, layers_of, numbers_of, obstacle, still_plain, warn_once
from .edges import GraphCache
from .probe import Probe
from .state import Kept, kept_by


class NotRecognisedError(Exception):
    """Why a module that looks like a published block is left alone."""

    distance = float("inf")  # how far the nearest fused form is from its own


class OtherNumbersError(NotRecognisedError):
    """The module takes what a published block takes, and gives something else."""

    def __init__(self, text: str, distance: float) -> None:
        super().__init__(text)
        self.distance = distance


class OwnForward(Exception):
    """A call that the fused form does not know: the module's own forward has to run."""


# What a call may fail with. PyTorch's activation checkpointing stops a forward by an exception of another class.
ERRORS = (OwnForward, TypeError, ValueError, RuntimeError, AttributeError, LookupError, ArithmeticError, AssertionError)


@dataclass
class Recipe(ABC):
    """What the forward of a fused block does, on the module's own parameters and buffers.

    :meth:`read` makes recipes from a module's structure, and :class:`equikernels.fuse.proof.Proof` compares each with
    the module's own forward. The fused form runs only in calls like those that were compared.
    """

    name: ClassVar[str]
    attributes: ClassVar[tuple[str, ...]]  # a module that has these is looked at
    live: ClassVar[tuple[str, ...]] = ()  # numbers of the module that are read at every call; the proof changes them

    cache: GraphCache
    returns: int = field(default=1, init=False)  # values that the module's own forward gives
    parameters: tuple[inspect.Parameter, ...] = field(default=(), init=False, repr=False)  # of its forward
    proved: frozenset[tuple[bool, ...]] = field(default=frozenset(), init=False, repr=False)  # see pattern
    kinds: tuple[tuple[Any, ...], ...] = field(default=(), init=False, repr=False)  # classes of the layers it reads
    kept: list[Kept] = field(default_factory=list, init=False, repr=False)  # the module's numbers, flags, tables, code
    writes: frozenset[int] = field(default=frozenset(), init=False, repr=False)  # arguments that its forward changes
    fixed: dict[int, Any] = field(default_factory=dict, init=False, repr=False)  # arguments that have to be these

    @classmethod
    @abstractmethod
    def read(cls, module: nn.Module, cache: GraphCache) -> list[Recipe]:
        """Recipes that the structure allows, likeliest first. Raises NotRecognisedError with the reason."""

    def called(self, module: Any) -> tuple[str, ...]:
        """Paths of the modules inside that the fused form calls, as the module's own forward does."""
        return ()

    def layers(self, module: Any) -> Layers:
        """The layers that the fused form does not call: it reads their parameters, or leaves them out."""
        called = self.called(module)
        # A layer that stands in two places is listed twice: while torch.export traces, its places are two objects.
        return [
            (path, layer)
            for path, layer in module.named_modules(remove_duplicate=False)
            if path and not any(path == c or path.startswith(f"{c}.") for c in called)
        ]

    @abstractmethod
    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        """The fused forward; arguments in the order of the module's own forward, defaults filled in.

        Raises OwnForward where there is no fused form of the call."""

    @abstractmethod
    def probes(self, module: nn.Module) -> Iterator[Probe]:
        """Calls on which both forwards are compared, in float64."""

    def variants(self) -> list[Recipe]:
        """Recipes that may serve more calls, where this one does not serve all."""
        return []

    def known(self) -> set[int]:
        """Arguments, by place, that the fused form reads. Others have to be what they are by default."""
        return set(range(4))

    def describe(self, module: nn.Module) -> None:
        """Keeps what the module is like now; another module, or the same later, has to be like it."""
        parameters = inspect.signature(module.forward).parameters.values()
        named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        self.parameters = tuple(p.replace(annotation=inspect.Parameter.empty) for p in named)
        known = self.known()
        self.fixed = {k: p.default for k, p in enumerate(self.parameters) if k not in known}
        if unknown := [self.parameters[k].name for k, v in self.fixed.items() if v is inspect.Parameter.empty]:
            raise NotRecognisedError(f"its forward takes {', '.join(unknown)}, which the published block does not")
        layers = self.layers(module)
        self.kinds = self._kinds(layers)
        self.kept = kept_by(module, layers, self.live)

    def obstacle(self, module: nn.Module) -> str | None:
        """Why the module is no longer what was proved."""
        compiling = torch.compiler.is_compiling()
        reason = None
        if compiling or not still_plain(module):
            reason = obstacle(module, self.layers, self._changed)
        if reason is None:
            reason = self.kept[0].changed(module, compiling)
        if reason is None and len(self.kept) > 1:
            layers = layers_of(module, self.layers)
            for kept in self.kept[1:]:
                path, inside = layers[kept.place]
                if (change := kept.changed(inside, compiling)) is not None:
                    return f"{path}: {change}"
        return reason

    def _changed(self, layers: Layers) -> str | None:
        now = self._kinds(layers)
        if now == self.kinds:
            return None
        for (path, *kind), (_, *was) in zip(now, self.kinds, strict=False):
            if kind != was:
                return f"{path} is another layer than when it was fused"
        return "it has other layers than when it was fused"

    @staticmethod
    def _kinds(layers: Layers) -> tuple[tuple[Any, ...], ...]:
        return tuple((path, kind_of(layer), *numbers_of(layer)) for path, layer in layers)

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """The arguments of a call in the order of the module's own forward, defaults filled in.

        Raises OwnForward where they do not fit: the module's own error is the better one."""
        if len(args) > len(self.parameters) or any(p.kind is p.KEYWORD_ONLY for p in self.parameters[: len(args)]):
            raise OwnForward
        values, left = list(args), dict(kwargs)
        for parameter in self.parameters[len(args) :]:
            value = left.pop(parameter.name, parameter.default)
            if value is inspect.Parameter.empty:
                raise OwnForward
            values.append(value)
        if left:
            raise OwnForward
        for k, value in self.fixed.items():
            if values[k] is not value and (isinstance(value, Tensor) or bool(values[k] != value)):
                raise OwnForward(f"{self.parameters[k].name} is given")
        return values

    def call_own(self, module: nn.Module, arguments: list[Any]) -> Any:
        """The module's own forward on such arguments; hooks on the module itself are not part of it."""
        by_name = {p.name: v for p, v in zip(self.parameters, arguments, strict=True) if p.kind is p.KEYWORD_ONLY}
        kind = type(module)
        own: Any = getattr(kind, "equikernels_own", kind).forward
        return own(module, *arguments[: len(arguments) - len(by_name)], **by_name)

    def named(self, arguments: list[Any]) -> dict[str, Any]:
        """The arguments of a call by name."""
        return {p.name: value for p, value in zip(self.parameters, arguments, strict=True)}

    def unproved(self, arguments: list[Any]) -> str:
        """Which arguments a call has that was not compared."""
        given = [p.name for p, value in zip(self.parameters, arguments, strict=True) if value is not None]
        return f"a call with {', '.join(given)} has no fused form"

    def pattern(self, arguments: list[Any]) -> tuple[bool, ...]:
        """Which arguments were given. Only patterns that were compared run fused."""
        return tuple([value is not None for value in arguments])


def _is_plain(value: Any) -> bool:
    """Whether a value is no tensor of a class that overrides PyTorch's functions."""
    return not isinstance(value, Tensor) or type(value) in TENSORS or torch.compiler.is_compiling()


def plain_tensor(value: Any, columns: int | None = None, rows: int | None = None) -> bool:
    """Whether a value is a matrix of these sizes, and no tensor of another kind."""
    return (
        isinstance(value, Tensor)
        and _is_plain(value)
        and value.dim() == 2
        and (columns is None or value.shape[1] == columns)
        and (rows is None or value.shape[0] == rows)
    )


def expect(condition: bool, reason: str = "") -> None:
    """Leaves the call to the module's own forward where the condition does not hold."""
    if not condition:
        raise OwnForward(reason)


def run_fused(module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The forward of a fused block."""
    recipe: Recipe | None = module.__dict__.get("equikernels_recipe")
    own: Any = own_class(module).forward
    if recipe is None:  # a copy made by a method of the user's class
        return own(module, *args, **kwargs)
    reason = "" if _transformed() else recipe.obstacle(module)
    if reason is None:
        try:
            arguments = recipe.bind(args, kwargs)
            if recipe.pattern(arguments) not in recipe.proved:
                raise OwnForward(recipe.unproved(arguments))
            expect(all(map(_is_plain, arguments)), "a tensor of another class")
            result = recipe.run(module, arguments)
            return result if recipe.returns > 1 else result[0]
        except ERRORS as error:
            # Its own forward may well take what ours refuses; if not, it raises an error of its own.
            reason = str(error)
    if reason:
        warn_once(module, f"fuse_: {type(module).__name__}", reason, "its own forward runs")
    return own(module, *args, **kwargs)


def _transformed() -> bool:
    """Whether torch.func or forward-mode AD is at work, where fused ops run on the reference; or whether the call is
    written down, by torch.jit.trace or make_fx, where a graph that was read from values would become a constant."""
    if torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0:
        return True
    if torch.compiler.is_compiling():
        return False
    return torch.jit.is_tracing() or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def own_class(module: nn.Module) -> type[nn.Module]:
    """The class that a fused module has had before."""
    own: type[nn.Module] = type(module).equikernels_own  # type: ignore[attr-defined]
    return own


def is_fused(module: nn.Module) -> bool:
    return hasattr(type(module), "equikernels_own") and "equikernels_recipe" in module.__dict__


@functools.cache
def fused_class(own: Any) -> type[nn.Module]:
    """A subclass, of the same name, that runs fused. Being a class, it serves copies, replicas and pickles alike."""

    @functools.wraps(own.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return run_fused(self, args, kwargs)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        make, arguments, *state = own.__reduce_ex__(self, protocol)
        if make is not _NEW:
            return make, arguments, *state
        try:
            pickle.dumps(self.__dict__.get("equikernels_recipe"))
        except Exception:  # such as a default argument that is a lambda: the copy has its own forward
            kept = [_without_recipe(part) for part in state]
            return _make_own, (own, *arguments[1:]), *kept
        # pickle would look for this class by its name, and find the other
        return _make, (own, *arguments[1:]), *state

    names = {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}
    body = {**names, "forward": forward, "__reduce_ex__": reduce, "equikernels_own": own}
    kind: type[nn.Module] = types.new_class(own.__name__, (own,), exec_body=lambda space: space.update(body))
    return kind


_NEW = object().__reduce_ex__(2)[0]


def _without_recipe(state: Any) -> Any:
    return {k: v for k, v in state.items() if k != "equikernels_recipe"} if isinstance(state, dict) else state


def _make_own(own: type[nn.Module], *arguments: Any) -> nn.Module:
    kind: Any = own
    made: nn.Module = kind.__new__(kind, *arguments)
    return made


def _make(own: type[nn.Module], *arguments: Any) -> nn.Module:
    kind: Any = own
    made: nn.Module = own.__new__(fused_class(kind), *arguments)
    return made
