"""Compares a block's own forward with a fused form, on float64 copies of the block."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from .lazy import LazyTensor
from .probe import Numbers, Probe
from .recipe import NotRecognisedError, OtherNumbersError, OwnForward, Recipe, is_fused, own_class
from .state import attributes, random_states

TOLERANCE = 1e-9
SINGLE_TOLERANCE = 1e-2  # in float32: sees other dtypes and formulas, not roundings
# A gradient that is small beside the others, such as that of a bias before a norm, is compared on their scale.
SMALL_GRADIENT = 1e-3


class Outcome(NamedTuple):
    """What a call gave, by name."""

    outputs: dict[str, Any]  # also what was added to an input
    gradients: dict[str, Tensor]
    structure: str = ""  # of containers


class Proof:
    """One block's copies, on which every candidate is tried. Parameters on them are moved away from 0 and 1."""

    def __init__(self, module: nn.Module, kind: type[Recipe]) -> None:
        self.kind = kind
        try:
            self.own = twin(module, kind)
            self.device = next(self.own.parameters()).device
            self.fused = copy.deepcopy(self.own)
        except Exception as error:  # the module is the user's, and may fail in any way
            raise NotRecognisedError(f"it cannot be copied to float64 ({_short(error)})") from error
        self.known: dict[Any, Outcome | Exception] = {}  # what its own forward gave in evaluation

    def prove(self, recipe: Recipe) -> bool:
        """Fills in which calls the recipe may serve. Returns whether these are all that its forward takes.

        Raises:
            NotRecognisedError: in none it gives the numbers of the module's own forward.
        """
        recipe.describe(self.own)
        probes: dict[tuple[bool, ...], list[tuple[int, Probe]]] = {}
        try:
            for k, probe in enumerate(recipe.probes(self.own)):
                probes.setdefault(recipe.pattern(probe.arguments), []).append((k, probe))
        except NotRecognisedError:
            raise
        except Exception as error:
            raise NotRecognisedError(f"it has other inputs than the published block ({_short(error)})") from error
        proved: set[tuple[bool, ...]] = set()
        reasons: list[NotRecognisedError] = []
        for pattern, cases in probes.items():
            try:
                self._compare(recipe, cases)
                proved.add(pattern)
            except NotRecognisedError as reason:
                reasons.append(reason)
                if isinstance(reason, OtherNumbersError) and not proved:
                    break  # it is another formula: rarer calls tell nothing more
        if not proved:
            raise min(reasons, key=lambda r: r.distance)
        recipe.proved = frozenset(proved)
        return not reasons

    def _compare(self, recipe: Recipe, cases: list[tuple[int, Probe]]) -> None:
        with torch.random.fork_rng(devices=[]), torch.autocast(self.device.type, enabled=False):
            fused = self.fused
            for training in (False, True):
                own = self.own.train(training)
                if training:  # statistics go on from call to call
                    own, fused = copy.deepcopy(own), copy.deepcopy(fused)
                fused.train(training)
                if not training:  # most candidates fail here, at little cost
                    theirs = self._own(recipe, own, *cases[0], training)
                    ours = self._fused(recipe, fused, cases[0][1], theirs, differentiate=False)
                    differences(ours, theirs._replace(gradients={}), f"evaluation, {cases[0][1].label}")
                for k, probe in cases:
                    label = f"{'training' if training else 'evaluation'}, {probe.label}"
                    theirs = self._own(recipe, own, k, probe, training)
                    ours = self._fused(recipe, fused, probe, theirs)
                    differences(ours, theirs, label)
                if training:
                    compare_buffers(fused, own)
            self._compare_single(recipe, cases[0][1])

    def _compare_single(self, recipe: Recipe, probe: Probe) -> None:
        """In float32 both give the same dtypes, and about the same numbers."""
        single = Probe([_float(value) for value in probe.arguments], probe.label, probe.constant)
        own, fused = (copy.deepcopy(m).eval().float() for m in (self.own, self.fused))
        try:
            theirs = call(own, single, lambda arguments: recipe.call_own(own, arguments), False)
        except Exception as error:
            raise NotRecognisedError(f"its forward does not run in float32 ({_short(error)})") from error
        ours = self._fused(recipe, fused, single, theirs, differentiate=False)
        differences(ours, theirs, f"float32, {probe.label}", SINGLE_TOLERANCE)

    def _own(self, recipe: Recipe, own: nn.Module, k: int, probe: Probe, training: bool) -> Outcome:
        """The own forward's outcome; in evaluation, where nothing changes, it is computed once for all candidates."""
        # Candidates may have probes of their own.
        shapes = [tuple(t.shape) for t in pytree.tree_leaves(probe.arguments) if isinstance(t, Tensor)]
        key = (k, probe.label, tuple(shapes), recipe.pattern(probe.arguments))
        if not training and key in self.known:
            found = self.known[key]
            if isinstance(found, Exception):
                raise found
            return found
        try:
            outcome = self._watched(recipe, own, probe, again=not training or k == 0)
        except NotRecognisedError as error:
            if not training:
                self.known[key] = error
            raise
        except Exception as error:
            reason = NotRecognisedError(f"its forward does not take the published arguments ({_short(error)})")
            if not training:
                self.known[key] = reason
            raise reason from error
        if not training:
            self.known[key] = outcome
        return outcome

    def _watched(self, recipe: Recipe, own: nn.Module, probe: Probe, again: bool) -> Outcome:
        second = copy.deepcopy(own) if again else None
        before, states = attributes(own), random_states()
        outcome = call(own, probe, lambda arguments: recipe.call_own(own, arguments))
        if random_states() != states:
            raise NotRecognisedError("its forward draws random numbers")
        after = attributes(own)
        if changed := [name for name in before.keys() | after.keys() if before.get(name, own) != after.get(name, own)]:
            raise NotRecognisedError(f"its forward changes {min(changed)} of the module")
        if second is None:
            return outcome
        tables = {**dict(second.named_parameters()), **({} if own.training else dict(second.named_buffers()))}
        for name, t in (*own.named_parameters(), *own.named_buffers()):
            if name in tables and _distance(t.detach(), tables[name].detach(), 0.0) > 0:
                raise NotRecognisedError(f"its forward changes {name}")
        torch.rand(1)  # the second call finds another random state, and in evaluation no gradients
        repeated = call(second, probe, lambda arguments: recipe.call_own(second, arguments), own.training)
        try:
            first = outcome if own.training else outcome._replace(gradients={})
            differences(repeated, first, "", tolerance=1e-13)
        except OtherNumbersError as error:
            raise NotRecognisedError("two calls of its forward differ") from error
        return outcome

    def _fused(
        self, recipe: Recipe, fused: nn.Module, probe: Probe, theirs: Outcome, differentiate: bool = True
    ) -> Outcome:
        recipe.returns = int(theirs.outputs["number"])
        if theirs.structure not in ("*", str(("*",) * max(recipe.returns, 2))):
            raise NotRecognisedError(f"its forward gives {theirs.structure}, no tensor or tuple of them")
        written = [name.split()[1] for name in theirs.outputs if name.endswith("afterwards")]
        recipe.writes = frozenset(int(place) for place in written if place.isdigit())
        try:
            outcome = call(fused, probe, lambda arguments: recipe.run(fused, arguments), differentiate)
        except OwnForward as error:
            raise NotRecognisedError(f"it has no fused form: {error}") from error
        except Exception as error:  # an error in a recipe leaves the block alone
            raise NotRecognisedError(f"its fused form fails ({_short(error)})") from error
        return outcome


def double_copy(module: nn.Module, fused: bool = False) -> nn.Module:
    """A float64 copy without hooks; its blocks have their own forward, unless ``fused``."""
    memo: dict[int, Any] = {}
    for m in module.modules():
        for name, value in vars(m).items():
            if name.endswith("_hooks") and isinstance(value, dict):
                memo[id(value)] = type(value)()
            elif isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()  # PyTorch copies leaves only
    made = copy.deepcopy(module, memo)
    for m in made.modules():
        if is_fused(m) and not fused:
            m.__class__ = own_class(m)
        if isinstance(m, nn.SyncBatchNorm):  # alone in its process it is this
            m.__class__ = nn.BatchNorm1d  # type: ignore[assignment]
    return made.double()


def twin(module: nn.Module, kind: type[Recipe]) -> nn.Module:
    """A float64 copy whose parameters, norms and factors hide nothing."""
    made = double_copy(module)
    numbers = Numbers(torch.device("cpu"), seed=5)
    with torch.no_grad():
        for p in made.parameters():
            if p.is_floating_point() and p.numel() > 0:
                size = 0.3 if p.dim() < 2 else 1 / max(p[0].numel(), 1) ** 0.5
                p.add_(numbers.table(*p.shape, scale=size).to(p))
        for m in made.modules():
            if isinstance(m, nn.PReLU):  # a fused op reads the slope, and gives no gradient of it
                m.weight.abs_().add_(0.05).requires_grad_(False)
            if isinstance(m, _BatchNorm) and m.running_mean is not None and m.running_var is not None:
                m.running_mean.add_(numbers.table(*m.running_mean.shape, scale=0.3).to(m.running_mean))
                m.running_var.mul_(numbers.table(*m.running_var.shape, scale=0.3).exp().to(m.running_var))
    for name in kind.live:
        value = getattr(made, name, None)
        if isinstance(value, float | int) and not isinstance(value, bool):
            setattr(made, name, 0.61 + 0.87 * value)
    return made


def call(module: nn.Module, probe: Probe, run: Any, differentiate: bool = True) -> Outcome:
    """Runs a forward on copies of the arguments, and differentiates a fixed weighted sum of what it gives."""
    leaves: dict[str, Tensor] = {}
    given: dict[str, tuple[Tensor, Tensor]] = {}

    def copied(path: tuple[Any, ...], value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        name = "input " + ".".join(str(getattr(part, "idx", getattr(part, "key", part))) for part in path)
        if not value.is_floating_point() or getattr(path[0], "idx", None) in probe.constant:
            given[name] = value.clone(), value
            return given[name][0]
        leaves[name] = value.detach().clone().requires_grad_()
        given[name] = leaves[name] * 1, value  # a forward may write to it
        return given[name][0]

    arguments = pytree.tree_map_with_path(copied, probe.arguments)
    with torch.set_grad_enabled(differentiate):
        result = run(list(arguments))
    structure = _structure(result)
    result = pytree.tree_leaves(result, is_leaf=lambda value: value is None)
    result = [value.tensor() if isinstance(value, LazyTensor) else value for value in result]
    outputs: dict[str, Any] = {"number": len(result)}
    for k, value in enumerate(result):
        outputs[f"output {k}"] = value.detach() if isinstance(value, Tensor) else value
        for name, leaf in leaves.items():
            if _floats(value) and value.shape == leaf.shape and value.dtype == leaf.dtype:
                outputs[f"output {k} less {name}"] = (value - leaf).detach()
    for name, (copied_value, was) in given.items():
        if not torch.equal(copied_value.detach(), was):
            outputs[f"{name} afterwards"] = copied_value.detach()
    if not differentiate:
        return Outcome(outputs, {}, structure)
    numbers = Numbers(torch.device("cpu"), seed=7)
    terms = []
    for value in result:
        if isinstance(value, Tensor):
            weight = numbers.table(*value.shape)
            if value.requires_grad:
                terms.append((value * weight.to(value)).sum())
    named = {**leaves, **{n: p for n, p in module.named_parameters() if p.requires_grad}}
    grads = (
        torch.autograd.grad(torch.stack(terms).sum(), list(named.values()), allow_unused=True)
        if terms
        else [None] * len(named)
    )
    gradients = {
        name: torch.zeros_like(t) if g is None else g for (name, t), g in zip(named.items(), grads, strict=True)
    }
    return Outcome(outputs, gradients, structure)


def _structure(result: Any) -> str:
    """How a result holds its tensors."""
    return str(pytree.tree_map_only(Tensor | type(None), lambda _: "*", result, is_leaf=lambda v: v is None))


def _float(value: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: t.float() if t.is_floating_point() else t, value)


def _floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def differences(ours: Outcome, theirs: Outcome, label: str, tolerance: float = TOLERANCE) -> None:
    """Raises OtherNumbersError with the largest difference. Outputs are compared by their own scale."""
    worst: tuple[float, str] = (0.0, "")
    if extra := ours.outputs.keys() - theirs.outputs.keys():
        worst = (math.inf, min(extra))
    for name, value in theirs.outputs.items():
        mine = ours.outputs.get(name)
        worst = max(worst, (_distance(mine, value, 0.0), name))
    sizes = [float(g.abs().max()) for g in theirs.gradients.values() if g.numel() > 0]
    largest = max(sizes, default=0.0)
    if all(map(math.isfinite, sizes)):  # a published formula that divides by a norm has no gradient at self-loops
        for name, value in theirs.gradients.items():
            distance = _distance(ours.gradients[name], value, SMALL_GRADIENT * largest)
            worst = max(worst, (distance, f"the gradient of {name}"))
    if not worst[0] <= tolerance:
        size = f"by {worst[0]:.1e} of its largest value" if worst[0] < float("inf") else "in shape, dtype or kind"
        raise OtherNumbersError(
            f"its forward computes something else than the published block: {worst[1]} differs {size} ({label})",
            worst[0],
        )


def _distance(ours: Any, theirs: Any, least: float) -> float:
    """The largest difference over the largest value, which is taken as ``least`` if it is smaller."""
    if not isinstance(theirs, Tensor):
        return 0.0 if ours is theirs or (not isinstance(ours, Tensor) and ours == theirs) else float("inf")
    if not isinstance(ours, Tensor) or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return float("inf")
    if theirs.numel() == 0 or torch.equal(ours, theirs):
        return 0.0
    if not theirs.is_floating_point():
        return float("inf")
    if not torch.equal(ours.isnan(), theirs.isnan()):
        return float("inf")
    difference = (ours - theirs).nan_to_num(0.0).abs().max()
    scale = max(float(theirs.nan_to_num(0.0).abs().max()), least, 1e-300)
    return float(difference) / scale


def compare_buffers(fused: nn.Module, own: nn.Module, tolerance: float = TOLERANCE) -> None:
    if dict(fused.named_buffers()).keys() != dict(own.named_buffers()).keys():
        raise NotRecognisedError("its forward registers buffers")
    for (name, ours), theirs in zip(fused.named_buffers(), own.buffers(), strict=True):
        if (distance := _distance(ours, theirs, 0.0)) > tolerance:
            raise OtherNumbersError(f"its forward updates {name} otherwise than the published block", distance)


def _short(error: Exception) -> str:
    text = str(error).split("\n")[0]
    return f"{type(error).__name__}: {text}" if len(text) < 120 else f"{type(error).__name__}: {text[:117]}..."


def best(module: nn.Module, kind: type[Recipe], candidates: list[Recipe]) -> Recipe:
    """The first candidate that serves all calls it was tried on, or else the one that serves most.

    Raises:
        NotRecognisedError: there is none; with the reason of the nearest one.
    """
    proof = Proof(module, kind)
    found: list[Recipe] = []
    reasons: list[NotRecognisedError] = []
    left = list(candidates)
    while left:
        recipe = left.pop(0)
        try:
            complete = proof.prove(recipe)
        except NotRecognisedError as reason:
            reasons.append(reason)
            continue
        if not found and not complete:
            left = recipe.variants() + left
        found.append(recipe)
        if complete or len(found) > 1 + len(found[0].variants()):
            break
    if not found:
        if not reasons:
            raise NotRecognisedError("its layers' widths are those of no published block")
        raise min(reasons, key=lambda r: r.distance)
    chosen = max(found, key=lambda r: len(r.proved))
    chosen.describe(module)
    return chosen
