"""fuse_ and unfuse_: published blocks in any model run on fused kernels, or keep their own forward."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from .edges import GraphCache
from .egnn import EquivariantLayer
from .lorentznet import LorentzBlock
from .pelican import Aggregators, Alternating, Messages
from .pelican_hep import EdgeAggregators
from .proof import best
from .recipe import NotRecognisedError, Recipe, fused_class, is_fused, own_class
from .sample import compare_with_sample
from .state import INTERNAL
from .tracking import EuclidBlockRecipe, EuclidPoints, InteractionRecipe

RECIPES: tuple[type[Recipe], ...] = (
    LorentzBlock,
    EquivariantLayer,
    EuclidBlockRecipe,
    InteractionRecipe,
    Alternating,
    Messages,
    Aggregators,
    EdgeAggregators,
)

Model = TypeVar("Model", bound=nn.Module)


@dataclass
class Report:
    """What became of the blocks of a model: lines of one kind, with the blocks they are about."""

    lines: dict[str, list[str]] = field(default_factory=dict)
    left_alone: list[str] = field(default_factory=list)

    def fused(self, block: str, name: str) -> None:
        self.lines.setdefault(f"fused: {{}} ({name})", []).append(block)

    def take_back(self, block: str) -> None:
        """A block that was fused is so no more."""
        self.lines = {line: left for line, blocks in self.lines.items() if (left := [b for b in blocks if b != block])}

    def left(self, block: str, name: str, reason: object) -> None:
        self.lines.setdefault(f"left alone: {{}} ({name}?): {reason}", []).append(block)
        self.left_alone.append(f"left alone: {block} ({name}?): {reason}")

    def __str__(self) -> str:
        return "\n".join(line.replace("{}", _several(blocks), 1) for line, blocks in self.lines.items())


def _several(blocks: list[str]) -> str:
    return ", ".join(blocks) if len(blocks) < 4 else f"{blocks[0]}, {blocks[1]}, ..., {blocks[-1]} [{len(blocks)}]"


def fuse_(model: Model, verbose: bool = False, *, sample: Any = None, strict: bool = False) -> Model:
    """Makes the published blocks inside a model run on fused kernels, in place.

    The model may come from any repository: blocks are recognised by their layers, and each is proved before it is
    changed. Known are

    - the LorentzNet block (arXiv 2201.08187);
    - EGNN's E_GCL (arXiv 2102.09844) with its options and velocities, and its forks: masks of nodes and edges, ranges
      of the step, sums over a factor, other norms;
    - EuclidNet's released SO(2) block (arXiv 2304.05293), and the Interaction Network (arXiv 2103.16701);
    - PELICAN's layers (arXiv 2307.16506) on padded tensors: Eq2to2, Eq2to1, Eq2to0 and Eq1to2 with all their options,
      its message layers with masked BatchNorm, and stacks of both, which run on packed pairs from end to end;
    - the aggregators of ``pelican-hep``, edges in any order.

    **What is proved.** Copies of the block in float64, with parameters, norms and factors moved away from 0 and 1, run
    its own forward and the fused one: in evaluation and in training, on graphs with unequal degrees, isolated nodes,
    self-loops and double edges, at small and large coordinates, with optional arguments given and left out. Outputs,
    what is added to an input, gradients of all inputs and parameters, and running statistics agree to 1e-9 of their
    largest value, or the block keeps its own forward. A forward that draws random numbers or sets attributes is left
    alone, and so is a block with hooks, adapters or subclasses of PyTorch's layers inside.

    **Every call** checks that the block still holds those layers with nothing attached to them (hooks, adapters,
    quantised or distributed weights), that its attributes are as they were, and that its arguments are of a kind that
    was proved. Otherwise its own forward runs, and a warning says so once.

    Parameters, buffers and hooks stay the very same objects: optimizers, state dicts, DDP and train/eval go on working.
    An edge list becomes a graph once per batch, a complete one where it joins all pairs of each event; a mask of pairs,
    and the order of ``pelican-hep``'s edges, are likewise read once. A LorentzNet block that returned its messages
    [E, H] as third value gives an object that makes them if they are used (None where it is compiled). In training,
    dropout inside a PELICAN stack draws numbers for real pairs only, so others than without ``fuse_``; and of several
    equal extrema the first gets the gradient that PyTorch's amax and amin divide among them.

    Inside ``torch.compile``, message layers, stacks and ``pelican-hep``, whose rows depend on values, run their own
    forward; the other blocks are compiled as they are.

    Args:
        model: any module.
        verbose: print what was fused, and what looked alike but was left alone, and why: which output differs from the
            nearest fused form, and by how much.
        sample: arguments of a call of the whole model: a tuple or list, a dictionary by name, or a single one. The
            model is run before and after on float64 copies, in evaluation and in training; blocks whose outputs or
            gradients differ get their own forward back, and the report names them.
        strict: raise where anything that looks like a known block is left alone.

    Returns:
        The same model.

    Raises:
        ValueError: nothing was recognised, or with ``strict`` something was left alone; the message says what was
            looked at and why, and the model is as it was.
    """
    cache, report, known = GraphCache(), Report(), _Known()
    new: list[nn.Module] = []
    fused = 0
    for name, module in list(model.named_modules()):
        if is_fused(module):
            fused += 1
            continue
        where = name or type(module).__name__
        left: list[tuple[str, NotRecognisedError]] = []
        for kind in _kinds(module):
            try:
                _fuse(module, known.recipe(module, kind, cache))
            except NotRecognisedError as reason:
                left.append((kind.name, reason))
            else:
                new.append(module)
                report.fused(where, kind.name)
                left.clear()
                break
        for kind_name, why in left:
            report.left(where, kind_name, why)
    if sample is not None and new:
        try:
            wrong = compare_with_sample(model, sample)
        except ValueError:
            _unfuse(new)
            raise
        for module, difference in wrong.items():
            name = next(n for n, m in model.named_modules() if m is module)
            report.take_back(name or type(model).__name__)
            report.left(name or type(model).__name__, module.__dict__["equikernels_recipe"].name, difference)
            unfuse_(module, deep=False)
            new.remove(module)
    if verbose:
        print(report if report.lines else "nothing new to fuse")
    if strict and report.left_alone:
        _unfuse(new)
        raise ValueError(f"fuse_: strict: expected only blocks that can be fused, got {'; '.join(report.left_alone)}")
    if fused + len(new) == 0:
        names = ", ".join(kind.name for kind in RECIPES)
        looked = "; ".join(report.left_alone) or "no module has the layers of one"
        raise ValueError(f"fuse_: model: expected a published block ({names}), got none: {looked}")
    return model


def unfuse_(model: Model, deep: bool = True) -> Model:
    """Gives every fused block of a model its own forward back, in place; with ``deep=False`` the model itself only."""
    for module in model.modules() if deep else (model,):
        if is_fused(module):
            module.__class__ = own_class(module)
            del module.__dict__["equikernels_recipe"]
    return model


def _kinds(module: nn.Module) -> list[type[Recipe]]:
    """Recipes whose attributes a module has."""

    def has(*names: str) -> bool:
        try:
            return all(getattr(module, name, None) is not None for name in names)
        except Exception:  # a property of the user's
            return False

    kinds = [kind for kind in RECIPES if has(*kind.attributes)]
    if has(*EuclidPoints.attributes) and not (has("phi_h") or has("phi_s")):
        kinds.append(EuclidPoints)
    return kinds


def _unfuse(modules: Sequence[nn.Module]) -> None:
    for module in modules:
        unfuse_(module, deep=False)


class _Known:
    """Recipes, and reasons against them, of blocks that were compared: blocks alike are compared once."""

    def __init__(self) -> None:
        self._found: dict[Any, Recipe | NotRecognisedError] = {}

    def recipe(self, module: nn.Module, kind: type[Recipe], cache: GraphCache) -> Recipe:
        if "forward" in module.__dict__:
            raise NotRecognisedError("its forward has been replaced already")
        if parametrize.is_parametrized(module):
            raise NotRecognisedError("it has parametrizations of its own")
        try:
            candidates = kind.read(module, cache)
            key = _key(module, kind)
        except NotRecognisedError:
            raise
        except Exception as error:  # a module of the user's, which may lack anything
            raise NotRecognisedError(f"{type(error).__name__}: {error}") from error
        if key is None or key not in self._found:
            try:
                found: Recipe | NotRecognisedError = best(module, kind, candidates)
            except NotRecognisedError as reason:
                found = reason
            except Exception as error:  # nothing that a module does may stop the others
                found = NotRecognisedError(f"{type(error).__name__}: {error}")
            if key is None:
                return _or_raise(found)
            self._found[key] = found
        return copy.copy(_or_raise(self._found[key]))  # the cache of graphs stays the model's


def _or_raise(found: Recipe | NotRecognisedError) -> Recipe:
    if isinstance(found, NotRecognisedError):
        raise found
    return found


def _key(module: nn.Module, kind: type[Recipe]) -> Any:
    """What a comparison depends on; None where a module holds what cannot be compared."""
    parts: list[Any] = [kind]
    for path, m in module.named_modules():
        parts.append((path, type(m)))
        for name, value in vars(m).items():
            if name in INTERNAL:
                continue
            if isinstance(value, bool | int | float | str | None | tuple | set | frozenset):
                parts.append((path, name, repr(value)))
            else:
                return None
    for name, t in (*module.named_parameters(), *module.named_buffers()):
        parts.append((name, tuple(t.shape), t.dtype, t.device, isinstance(t, nn.Parameter) and t.requires_grad))
    return tuple(parts)


def _fuse(module: nn.Module, recipe: Recipe) -> None:
    if reason := recipe.obstacle(module):
        raise NotRecognisedError(reason)
    own: Any = type(module)
    try:
        module.__class__ = fused_class(own)
    except TypeError as error:
        raise NotRecognisedError(f"its class cannot be derived from ({error})") from error
    module.__dict__["equikernels_recipe"] = recipe
