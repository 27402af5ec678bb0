"""Compares a whole fused model with its own forward, on a batch of the user's."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .probe import Probe
from .proof import Outcome, call, compare_buffers, differences, double_copy
from .recipe import NotRecognisedError, is_fused, own_class

# Whole networks lose digits that single blocks keep: their own forward forms masses of light particles in float64.
TOLERANCE = 1e-7


def compare_with_sample(model: nn.Module, sample: Sequence[Any]) -> dict[nn.Module, str]:
    """Fused blocks of a model that give other numbers on a sample than their own forward, with the difference.

    The model runs on float64 copies: once with own forwards only, once fused, in evaluation and in training with the
    same random state. Where it differs, each block is compared on the inputs that it had; and where no single one
    differs by itself, all are named.

    Raises:
        ValueError: the model's own forward fails on the sample, or the model cannot be copied.
    """
    probe = Probe([_double(value) for value in _arguments(model, sample)], "sample")
    try:
        own, fused = (_without_dropout(double_copy(model, fused)) for fused in (False, True))
        inputs, theirs = _own_outcomes(own, probe, [name for name, m in fused.named_modules() if is_fused(m)])
    except Exception as error:
        raise ValueError(f"fuse_: sample: expected a call of the model, got {type(error).__name__}: {error}") from error
    wrong: dict[nn.Module, str] = {}
    while reason := _difference(fused, probe, theirs):
        blocks = {name: m for name, m in fused.named_modules() if is_fused(m)}
        found = {name: why for name, m in blocks.items() if (why := _block_difference(m, inputs[name]))}
        for name, why in (found or dict.fromkeys(blocks, f"with it the whole model differs: {reason}")).items():
            wrong[model.get_submodule(name)] = why
            blocks[name].__class__ = own_class(blocks[name])
        if not blocks:
            break
    return wrong


def _arguments(model: nn.Module, sample: Any) -> list[Any]:
    """A sample as positional arguments. A dictionary whose keys are names of arguments gives those."""
    if isinstance(sample, dict):
        try:
            bound = inspect.signature(model.forward).bind(**sample)
        except TypeError:
            return [sample]
        return [sample] if bound.kwargs else list(bound.args)
    return list(sample) if isinstance(sample, tuple | list) else [sample]


Outcomes = list[tuple[Outcome, nn.Module]]


def _own_outcomes(own: nn.Module, probe: Probe, names: list[str]) -> tuple[dict[str, list[Probe]], Outcomes]:
    """Inputs of the named blocks, and outcomes in evaluation and in training with the model as it is afterwards."""
    inputs: dict[str, list[Probe]] = {name: [] for name in names}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            inputs[name].append(Probe([list(args), dict(kwargs)], "on the inputs that the sample gives it"))

        return hook

    outcomes: Outcomes = []
    for training in (False, True):
        module = copy.deepcopy(own).train(training)
        hooks = [module.get_submodule(n).register_forward_pre_hook(keep(n), with_kwargs=True) for n in names]
        outcomes.append((_run(module, probe), module))
        for hook in hooks:
            hook.remove()
    return inputs, outcomes


def _run(module: nn.Module, probe: Probe) -> Outcome:
    with torch.random.fork_rng(devices=[]), torch.autocast(_device(module).type, enabled=False):
        torch.manual_seed(0)
        return call(module, probe, lambda arguments: module(*arguments))


def _difference(fused: nn.Module, probe: Probe, theirs: Outcomes) -> str | None:
    for training, (outcome, after) in zip((False, True), theirs, strict=True):
        module = copy.deepcopy(fused).train(training)
        label = "training" if training else "evaluation"
        try:
            differences(_run(module, probe), outcome, f"{label}, on the sample", TOLERANCE)
            compare_buffers(module, after, TOLERANCE)
        except NotRecognisedError as error:
            return str(error)
        except Exception as error:  # what the user's model does with a value that it did not expect
            return f"it fails in {label} ({type(error).__name__}: {error})"
    return None


def _block_difference(block: nn.Module, probes: list[Probe]) -> str | None:
    """How a fused block differs from its own forward on these inputs."""
    own = copy.deepcopy(block)
    own.__class__ = own_class(own)
    for training in (False, True):
        for probe in probes:
            outcomes = []
            for module in (own, block):
                one = copy.deepcopy(module).train(training)
                outcomes.append(call(one, probe, lambda values, one=one: one(*values[0], **values[1])))
            try:
                differences(outcomes[1], outcomes[0], probe.label, TOLERANCE)
            except NotRecognisedError as error:
                return str(error)
    return None


def _double(value: Any) -> Any:
    """The same with float64 for every floating tensor, in containers and PyTorch Geometric's batches too."""
    if not isinstance(value, Tensor) and callable(getattr(value, "apply", None)):
        return copy.copy(value).apply(_double)
    return pytree.tree_map_only(Tensor, lambda t: t.detach().double() if t.is_floating_point() else t, value)


def _without_dropout(model: nn.Module) -> nn.Module:
    """Dropout draws for real pairs only where a stack is fused: its numbers are not compared."""
    for m in model.modules():
        if isinstance(m, nn.modules.dropout._DropoutNd):
            m.p = 0.0
    return model


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
