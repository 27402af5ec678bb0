"""What fusing one kind of published block takes."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .edges import GraphCache


class NotRecognisedError(Exception):
    """Why a module that looks like a published block is not one."""


class OtherNumbersError(NotRecognisedError):
    """It takes what a published block takes, and gives something else."""


@dataclass
class Recipe(ABC):
    """A block that runs fused: what its forward does instead, on the module's own parameters and buffers.

    A recipe is made by :meth:`read` from the module's structure and proved by :meth:`prove`, which runs the module's
    own forward beside the fused one on a few particles.
    """

    name: ClassVar[str]
    attributes: ClassVar[tuple[str, ...]]  # a module with these is looked at

    returns: int  # how many values the module's own forward gives
    cache: GraphCache
    signature: inspect.Signature = field(init=False, repr=False)  # of the module's own forward

    @classmethod
    @abstractmethod
    def read(cls, module: nn.Module, cache: GraphCache) -> list[Recipe]:
        """Recipes the structure allows, likeliest first. Raises NotRecognisedError with the reason."""

    @abstractmethod
    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        """The fused forward; arguments in the order of the module's own forward, defaults filled in.

        NotImplemented where a call is one for the module's own forward."""

    @abstractmethod
    def probes(self, module: nn.Module) -> list[list[Any]]:
        """Arguments on which both forwards must agree."""

    @torch.no_grad()
    def prove(self, module: nn.Module) -> None:
        """Raises NotRecognisedError where the module's own forward gives other numbers."""
        training = {m: m.training for m in module.modules()}
        module.eval()  # running statistics stay as they are
        try:
            self.agree(module, module)
        finally:
            for m, mode in training.items():
                m.training = mode

    def agree(self, module: nn.Module, own: nn.Module) -> None:
        """Runs the fused forward of one module beside the own forward of another, on all probes."""
        try:
            with torch.autocast(parameter_like(module).device.type, enabled=False):
                for probe in self.probes(module):
                    self._agree_on(probe, module, own)
        except NotRecognisedError:
            raise
        except Exception as error:  # the module's forward is anybody's code, and may fail in any way
            raise NotRecognisedError(f"its forward does not take the published arguments ({error})") from error

    def _agree_on(self, probe: list[Any], module: nn.Module, own: nn.Module) -> None:
        expected = own.forward(*_copied(probe))
        expected = expected if isinstance(expected, tuple) else (expected,)
        self.returns = len(expected)
        result = self.run(module, self.bind(_copied(probe), {}))
        if result is NotImplemented:
            return
        for ours, theirs in zip(result, expected, strict=True):
            if isinstance(theirs, Tensor) and isinstance(ours, Tensor):
                _compare(ours, theirs)

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """What a call hands to :meth:`run`."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return list(bound.arguments.values())

    def named(self, arguments: list[Any]) -> dict[str, Any]:
        """The arguments of a call by name."""
        return dict(zip(self.signature.parameters, arguments, strict=True))


class RecipeOnCopies(Recipe):
    """A recipe proved on copies of the module: with no parameter at a 0 or 1 that would hide what it does, without
    dropout, and in training too."""

    @torch.no_grad()
    def prove(self, module: nn.Module) -> None:
        fused, own = _stirred(module), _stirred(module)
        for training in (False, True):
            self.agree(fused.train(training), own.train(training))
        for ours, theirs in zip(fused.buffers(), own.buffers(), strict=True):
            _compare(ours, theirs)


def _stirred(module: nn.Module) -> nn.Module:
    try:
        twin = copy.deepcopy(module)
    except Exception as error:  # anybody's code again
        raise NotRecognisedError(f"it cannot be copied ({error})") from error
    for parameter in twin.parameters():
        parameter.add_(0.3 * probe_values(1, parameter.numel(), parameter).view_as(parameter))
    for m in twin.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    return twin


def _copied(arguments: list[Any]) -> list[Any]:
    return [a.clone() if isinstance(a, Tensor) else a for a in arguments]


def _compare(ours: Tensor, theirs: Tensor) -> None:
    tolerance = 1e-3 if theirs.dtype == torch.float32 else 1e-9
    scale = theirs.abs().amax().clamp(min=1e-30) if theirs.is_floating_point() else 1
    if ours.shape != theirs.shape or not ((ours - theirs).abs().max() <= tolerance * scale):
        raise OtherNumbersError("its forward computes something else than the published block")


def fused_forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Stands in for the forward of a fused module."""
    recipe: Recipe = self.equikernels_recipe  # type: ignore[assignment]
    result = recipe.run(self, recipe.bind(args, kwargs))
    if result is NotImplemented:
        return type(self).forward(self, *args, **kwargs)
    return result if recipe.returns > 1 else result[0]


def expect_layers(module: nn.Module, path: str, kinds: tuple[type | tuple[type, ...], ...]) -> nn.Sequential:
    """The nn.Sequential at ``path``, made of layers of these kinds."""
    layers = getattr(module, path, None)
    if not isinstance(layers, nn.Sequential):
        raise NotRecognisedError(f"{path} is no nn.Sequential")
    if len(layers) != len(kinds) or not all(isinstance(m, kind) for m, kind in zip(layers, kinds, strict=True)):
        found = ", ".join(type(m).__name__ for m in layers)
        raise NotRecognisedError(f"{path} has other layers than the published block: {found}")
    return layers


def parameter_like(module: nn.Module) -> Tensor:
    return next(module.parameters())


def probe_edges(device: torch.device) -> tuple[Tensor, Tensor]:
    """All pairs of four particles but one edge, and a fifth particle that hears nobody: (receiver, sender)."""
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j][:-1]
    receiver, sender = torch.tensor(pairs, device=device).t()
    return receiver.contiguous(), sender.contiguous()


def probe_values(rows: int, columns: int, like: Tensor, scale: float = 1.0) -> Tensor:
    """Fixed numbers without a pattern: no random state is touched."""
    k = torch.arange(rows * columns, dtype=torch.float64).reshape(rows, columns)
    return (scale * torch.sin(1.3 * k + 0.7 * k * k)).to(like)
