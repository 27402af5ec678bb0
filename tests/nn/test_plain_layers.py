"""Tests that attachments to inner layers (hooks, adapters) take effect in ek.nn and ek.models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import equikernels as ek

from ..support.fuse_blocks import awake, numbers, random_edges

H, X3, X4, E = numbers(12, 6), numbers(12, 3, seed=2), 3 * numbers(12, 4, seed=2), numbers(40, 6, seed=3)
HITS = numbers(12, 3).abs() + 0.1


def graph() -> ek.Graph:
    return ek.Graph.from_edge_index(random_edges(), 12)


def jets() -> ek.Graph:
    return ek.Graph.complete(torch.tensor([0, 5, 12]))


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "LGEB": (lambda: ek.nn.LGEB(6, 6, 6), lambda: (H, X4, graph())),
    "EGCL": (lambda: ek.nn.EGCL(6, 6, 6, attention=True), lambda: (H, X3, graph())),
    "EGCLVelocity": (lambda: ek.nn.EGCLVelocity(6, 6, 6, edges_in_d=6), lambda: (H, X3, graph(), X3, E)),
    "RadialFieldLayer": (lambda: ek.nn.RadialFieldLayer(6), lambda: (X3, graph(), X3)),
    "EuclidBlock": (lambda: ek.nn.EuclidBlock(6, 2), lambda: (H, X3, E, graph())),
    "PaperEuclidBlock": (lambda: ek.nn.PaperEuclidBlock(6, 2), lambda: (H, X3, E, graph())),
    "EuclidPointsBlock": (lambda: ek.nn.EuclidPointsBlock(6), lambda: (X3, graph())),
    "InteractionBlock": (lambda: ek.nn.InteractionBlock(6, 6, 4, 6, 5), lambda: (H, graph(), E)),
    "FreeStream": (lambda: ek.nn.FreeStream(6, 4, 6, 5), lambda: (numbers(12, 5), H, X4, E, graph())),
    "LorentzNet": (lambda: ek.models.LorentzNet(2, 6, n_layers=2), lambda: (X4, numbers(12, 2), jets())),
    "EGNN": (lambda: ek.models.EGNN(6, 6, 2, n_layers=2), lambda: (H, X3, graph())),
    "InteractionNetwork": (lambda: ek.models.InteractionNetwork(6), lambda: (HITS, graph(), numbers(40, 4))),
    "EuclidNet": (lambda: ek.models.EuclidNet(6, 2, 2), lambda: (HITS, graph())),
    "EuclidNetSO3": (lambda: ek.models.EuclidNetSO3(6), lambda: (HITS, graph())),
    "VecNet": (
        lambda: ek.models.VecNet(2, 6, 4, n_free_input=1, n_layers=2),
        lambda: (X4, numbers(12, 2), jets(), numbers(12, 1)),
    ),
    "VecNetTracking": (
        lambda: ek.models.VecNetTracking(6, 4, n_free_input=1, n_layers=2),
        lambda: (HITS, graph(), numbers(12, 1)),
    ),
}


def made(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    make, call = MODULES[name]
    torch.manual_seed(0)
    return awake(make()), call()


def inside(module: nn.Module) -> list[str]:
    """Paths of all modules inside that are called."""
    return [path for path, m in module.named_modules() if path and not isinstance(m, nn.ModuleList)]


def watch(module: nn.Module) -> nn.Module:
    """Hooks on all layers: they are called one by one."""
    for path in inside(module):
        module.get_submodule(path).register_forward_hook(lambda m, args, out: None)
    return module


def twice(module: nn.Module, args: Any, out: Any) -> Any:
    return pytree.tree_map_only(Tensor, lambda t: 2 * t, out)


def results(module: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    """Outputs, gradients of inputs and parameters, and buffers."""
    floats = [isinstance(t, Tensor) and t.is_floating_point() for t in args]
    given = [t.clone().requires_grad_() if f else t for t, f in zip(args, floats, strict=True)]
    outputs = [t for t in pytree.tree_leaves(module(*given)) if isinstance(t, Tensor)]
    total = torch.stack([(t * numbers(*t.shape)).sum() for t in outputs]).sum()
    leaves = [*(t for t, f in zip(given, floats, strict=True) if f), *module.parameters()]
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    known = [torch.zeros_like(t) if g is None else g for t, g in zip(leaves, grads, strict=True)]
    return [*(t.detach() for t in outputs), *known, *module.buffers()]


@pytest.mark.filterwarnings("ignore:.*its layers run one by one")
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", list(MODULES))
def test_layer_by_layer_gives_the_fused_numbers(name: str, training: bool) -> None:
    module, args = made(name)
    fused, slow = (results(m.train(training), args) for m in (copy.deepcopy(module), watch(copy.deepcopy(module))))
    for ours, theirs in zip(fused, slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:.*its layers run one by one")
@pytest.mark.parametrize("name", list(MODULES))
def test_a_hook_on_any_layer_is_called_and_changes_what_it_changes(name: str) -> None:
    module, args = made(name)
    module.eval()
    reference = watch(copy.deepcopy(module))
    for path in inside(module):
        calls: list[int] = []
        handles = [
            module.get_submodule(path).register_forward_hook(lambda m, i, o, calls=calls: calls.append(1)),
            module.get_submodule(path).register_forward_hook(twice),
            reference.get_submodule(path).register_forward_hook(twice),
        ]
        found, expected = (pytree.tree_leaves(m(*args)) for m in (module, reference))
        assert calls, path
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        for handle in handles:
            handle.remove()


class Adapter(nn.Linear):
    """A linear layer with a trained addition."""

    extra: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.extra


@pytest.mark.filterwarnings("ignore:.*its layers run one by one")
@pytest.mark.parametrize("name", list(MODULES))
def test_adapters_get_gradients(name: str) -> None:
    module, args = made(name)
    adapters: list[nn.Module] = [m for m in module.modules() if isinstance(m, nn.Linear)]
    for layer in adapters:
        layer.extra = nn.Parameter(torch.zeros(layer.in_features, layer.out_features).double())
        layer.__class__ = Adapter
    results(module, args)
    out = [t for t in pytree.tree_leaves(module(*args)) if isinstance(t, Tensor) and t.requires_grad]
    torch.stack([t.square().sum() for t in out]).sum().backward()
    assert all(layer.extra.grad is not None for layer in adapters)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(MODULES))
def test_quantised_layers_are_called(name: str) -> None:
    module, args = made(name)
    single = [t.float() if isinstance(t, Tensor) and t.is_floating_point() else t for t in args]
    small = torch.ao.quantization.quantize_dynamic(module.float().eval(), {nn.Linear}, dtype=torch.qint8)
    found, expected = (pytree.tree_leaves(m(*single)) for m in (small, module))
    assert [t.shape for t in found if t is not None] == [t.shape for t in expected if t is not None]
    assert all(bool(t.isfinite().all()) for t in found if t is not None)
