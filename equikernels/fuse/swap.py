"""fuse_ and unfuse_."""

from __future__ import annotations

import functools
import inspect
from typing import TypeVar

from torch import nn

from .edges import GraphCache
from .egnn import EquivariantLayer
from .lorentznet import LorentzBlock
from .pelican import Aggregators, Alternating, Messages
from .pelican_hep import EdgeAggregators
from .recipe import NotRecognisedError, OtherNumbersError, Recipe, fused_forward
from .tracking import EuclidBlockRecipe, EuclidPointsRecipe, InteractionRecipe

RECIPES: tuple[type[Recipe], ...] = (
    LorentzBlock,
    EquivariantLayer,
    EuclidBlockRecipe,
    EuclidPointsRecipe,
    InteractionRecipe,
    Alternating,
    Messages,
    Aggregators,
    EdgeAggregators,
)

Model = TypeVar("Model", bound=nn.Module)


def fuse_(model: Model, verbose: bool = False) -> Model:
    """Makes the published blocks inside a model run on fused kernels, in place.

    The model may come from any repository: blocks are recognised by their layers, and each is proved before it is
    changed, by running its own forward beside the fused one on a few particles. Known are

    - the LorentzNet block (arXiv 2201.08187);
    - EGNN's E_GCL with its options and velocities (arXiv 2102.09844);
    - EuclidNet's released SO(2) and SO(3) blocks (arXiv 2304.05293), and the Interaction Network (arXiv 2103.16701);
    - PELICAN's layers (arXiv 2307.16506) on padded tensors: Eq2to2, Eq2to1, Eq2to0 and Eq1to2 with all their options,
      its message layers with masked BatchNorm, and stacks of both, which run on packed pairs from end to end;
    - the aggregators of ``pelican-hep``, edges in any order.

    Only ``forward`` of the recognised blocks is replaced. Parameters, buffers and hooks stay the very same objects:
    optimizers, state dicts, DDP and train/eval go on working. An edge list becomes a graph once per batch, a complete
    one where it joins all pairs of each event; a mask of pairs, and the order of ``pelican-hep``'s edges, are likewise
    read once. A LorentzNet block that returned its messages [E, H] as third value returns None there. In training,
    dropout inside a PELICAN stack draws numbers for real pairs only, so others than without ``fuse_``; and of several
    equal extrema the first gets the gradient that PyTorch's amax and amin divide among them.

    A call without a fused form runs the block's own forward: a PELICAN layer with IRC weights and max or min, or with
    a soft mask and activated aggregates; a stack without a mask of pairs, or with hooks on its layers; ``pelican-hep``
    with max or min and no self-loops. So do, inside ``torch.compile``, message layers, stacks and ``pelican-hep``,
    whose rows depend on values; PELICAN's aggregators are compiled as they are.

    Args:
        model: any module.
        verbose: print what was fused, and what looked alike but was left alone, and why.

    Returns:
        The same model.

    Raises:
        ValueError: nothing was recognised; the message says what was looked at. Later, from ``pelican-hep``'s
            aggregators: events whose edges are not all pairs, with all self-loops or none; the message names an edge.
    """
    cache = GraphCache()
    report: list[str] = []
    fused = 0
    for name, module in model.named_modules():
        if is_fused(module):
            fused += 1
            continue
        for kind in RECIPES:
            if all(getattr(module, attribute, None) is not None for attribute in kind.attributes):
                where = name or type(module).__name__
                try:
                    _fuse(module, kind, cache)
                except NotRecognisedError as reason:
                    report.append(f"left alone: {where} ({kind.name}?): {reason}")
                else:
                    fused += 1
                    report.append(f"fused: {where} ({kind.name})")
                    break
    if verbose:
        print("\n".join(report) or "nothing new to fuse")
    if fused == 0:
        known = ", ".join(kind.name for kind in RECIPES)
        looked = "; ".join(report) or "no module has the layers of one"
        raise ValueError(f"fuse_: model: expected a published block ({known}), got none: {looked}")
    return model


def unfuse_(model: Model) -> Model:
    """Gives every fused block of a model its own forward back, in place."""
    for module in model.modules():
        if is_fused(module):
            del module.forward, module.equikernels_recipe
    return model


def is_fused(module: nn.Module) -> bool:
    return getattr(module.__dict__.get("forward"), "func", None) is fused_forward


def _fuse(module: nn.Module, kind: type[Recipe], cache: GraphCache) -> None:
    if "forward" in module.__dict__:
        raise NotRecognisedError("its forward has been replaced already")
    reasons: list[NotRecognisedError] = []
    for recipe in kind.read(module, cache):
        recipe.signature = inspect.signature(module.forward)
        try:
            recipe.prove(module)
        except NotRecognisedError as error:
            reasons.append(error)
            continue
        # Not a submodule and not a buffer: state dicts do not see it. A partial, unlike a bound method, can be pickled.
        module.__dict__["equikernels_recipe"] = recipe
        module.__dict__["forward"] = functools.partial(fused_forward, module)
        return
    raise next((r for r in reasons if isinstance(r, OtherNumbersError)), reasons[0])
