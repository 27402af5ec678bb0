"""Tests fuse_: calls without a fused form, copies, transformations, and later attachments to layers."""

from __future__ import annotations

import copy
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.modules import module as torch_module
from torch.nn.utils import parametrizations, prune
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

import equikernels as ek
from equikernels.published import E_GCL
from equikernels.published.lorentznet import LGEB

from ..support.fuse_blocks import (
    Layer,
    Lorentz,
    assert_same,
    awake,
    fuses,
    layer_call,
    lorentz_call,
    published,
    random_edges,
    runs_fused,
)

NAMES = list(published())


def pair(name: str) -> tuple[nn.Module, nn.Module, list[Any]]:
    """A block, the same fused, and a call."""
    make, call = published()[name]
    torch.manual_seed(0)
    own = awake(make())
    fused = copy.deepcopy(own)
    assert fuses(fused)
    return own, fused, call()


def mapped(args: Any, floats: Any = None, indices: Any = None) -> Any:
    def change(t: Tensor) -> Tensor:
        function = floats if t.is_floating_point() else indices
        return t if function is None else function(t)

    return pytree.tree_map_only(Tensor, change, args)


class Subclass(torch.Tensor):
    pass


CALLS: dict[str, Callable[[list[Any]], Any]] = {
    "no edges": lambda a: mapped(a, lambda t: t[: len(t) % 40], lambda t: t[..., :0]),
    "one edge": lambda a: mapped(a, lambda t: t[: len(t) % 39], lambda t: t[..., :1]),
    "no nodes": lambda a: mapped(a, lambda t: t[:0], lambda t: t[..., :0]),
    "one node": lambda a: mapped(a, lambda t: t[: len(t) % 11 or 40], lambda t: 0 * t),
    "not contiguous": lambda a: mapped(a, lambda t: t.t().contiguous().t(), lambda t: torch.stack([t, t], -1)[..., 0]),
    "expanded": lambda a: mapped(a, lambda t: t[:1].expand_as(t)),
    "int32": lambda a: mapped(a, None, lambda t: t.int()),
    "out of range": lambda a: mapped(a, None, lambda t: t + 5),
    "below 0": lambda a: mapped(a, None, lambda t: t - 5),
    "a class of tensors": lambda a: mapped(a, lambda t: t.as_subclass(Subclass)),
    "a class of indices": lambda a: mapped(a, None, lambda t: t.as_subclass(Subclass)),
    "too many": lambda a: [*a, 1, 2, 3, 4],
    "float32 beside float64": lambda a: [a[0].float(), *a[1:]],
    **{f"None at {k}": lambda a, k=k: [None if i == k else v for i, v in enumerate(a)] for k in range(4)},
    **{f"a row less at {k}": lambda a, k=k: [v[:-1] if i == k else v for i, v in enumerate(a)] for k in range(4)},
}


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_every_call_gives_what_the_own_forward_gives(name: str, training: bool) -> None:
    own, fused, args = pair(name)
    for label, change in CALLS.items():
        given = change(args)
        results: list[Any] = []
        for module in (copy.deepcopy(own).train(training), copy.deepcopy(fused).train(training)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    results.append(pytree.tree_leaves(module(*given)))
                except Exception as error:
                    results.append(error)
        if isinstance(results[0], Exception):
            assert isinstance(results[1], Exception), label
        else:
            assert not isinstance(results[1], Exception), (label, results[1])
            for ours, theirs in zip(results[1], results[0], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9, msg=lambda m, n=label: f"{n}: {m}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_models_in_sixteen_bits_run_their_own_forward(name: str, dtype: torch.dtype) -> None:
    own, fused, args = pair(name)
    args = mapped(args, lambda t: t.to(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours, theirs = (pytree.tree_leaves(m.to(dtype).eval()(*args)) for m in (fused, own))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, Tensor))


@pytest.mark.parametrize("dim", [1, 2, 8, 9])
def test_dimensions(dim: int) -> None:
    own = awake(Layer())
    fused = copy.deepcopy(own)
    ek.fuse_(fused)
    assert runs_fused(fused.eval(), layer_call(dim=dim)) == (2 <= dim <= 8)
    assert_same(own, fused, layer_call(dim=dim))


def test_a_reason_is_told_once_whatever_the_sizes_are() -> None:
    block = awake(Layer())
    ek.fuse_(block)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for dim in (9, 10, 11, 9):
            block(*layer_call(dim=dim))
    assert ["coordinates of 9 dimensions" in str(w.message) for w in told] == [True]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_activation_checkpointing(name: str, reentrant: bool) -> None:
    results = []
    own, fused, args = pair(name)
    for module in (own, fused):
        given = mapped(args, lambda t: t.clone().requires_grad_())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # not because the own forward has run
            out = checkpoint(module, *given, use_reentrant=reentrant)
        sum(t.square().sum() for t in pytree.tree_leaves(out) if isinstance(t, Tensor)).backward()
        results.append([p.grad for p in module.parameters()])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_traced_holds_for_other_graphs(name: str) -> None:
    own, fused, args = (part.eval() if isinstance(part, nn.Module) else part for part in pair(name))
    other = mapped(args, None, lambda t: (t + 3) % 11)
    theirs = pytree.tree_leaves(own(*other))
    traced: list[Any] = [make_fx(lambda *values: fused(*values))(*args), torch.compile(fused, backend="aot_eager")]
    if all(isinstance(t, Tensor) for t in theirs):
        traced.append(torch.jit.trace(fused, tuple(args), check_trace=False))
    for function in traced:
        for ours, value in zip(pytree.tree_leaves(function(*other)), theirs, strict=True):
            torch.testing.assert_close(ours, value, rtol=1e-9, atol=1e-9)


def replica(module: nn.Module) -> Any:
    """A replica as in DataParallel, with other tensors as parameters."""
    copies = {id(m): m._replicate_for_data_parallel() for m in module.modules()}
    for m in module.modules():
        made = copies[id(m)]
        made._modules.update({name: None if c is None else copies[id(c)] for name, c in m._modules.items()})
        made._buffers.update({name: None if b is None else b.clone() for name, b in m._buffers.items()})
        for name, p in m._parameters.items():
            if p is None:
                made._parameters[name] = None
            else:
                setattr(made, name, 2 * p)
    return copies[id(module)]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", NAMES)
def test_replicas_copies_and_pickles_run_their_own_parameters(name: str, training: bool) -> None:
    own, fused, args = pair(name)
    own.train(training), fused.train(training)
    saved = io.BytesIO()
    torch.save(fused, saved)
    saved.seek(0)
    copies = [copy.deepcopy(fused), copy.copy(fused), torch.load(saved, weights_only=False)]  # ours, of a line above
    pairs = [(replica(own), replica(fused)), *((own, c) for c in copies)]
    for theirs, ours in pairs:
        assert runs_fused(ours, args)
        expected = pytree.tree_leaves(copy.deepcopy(theirs)(*args) if theirs is own else theirs(*args))
        for a, b in zip(pytree.tree_leaves(ours(*args)), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


class WithLambda(Lorentz):
    def forward(self, h: Any, x: Any, edges: Any, scalars: Any, act: Any = lambda t: t) -> Any:  # type: ignore[override]
        return super().forward(act(h), x, edges, scalars)


def test_a_recipe_that_cannot_be_pickled_is_left_out() -> None:
    block = awake(WithLambda()).eval()
    ek.fuse_(block)
    assert runs_fused(block, lorentz_call())
    saved = io.BytesIO()
    torch.save(block, saved)
    saved.seek(0)
    loaded = torch.load(saved, weights_only=False)  # ours, of a line above
    torch.testing.assert_close(loaded(*lorentz_call()), block(*lorentz_call()), rtol=1e-9, atol=1e-9)


def attach_hook(method: str, function: Callable[..., Any], **options: Any) -> Callable[[nn.Module], Any]:
    return lambda layer: getattr(layer, method)(function, **options)


def twice(*values: Any) -> Any:
    return tuple(None if t is None else 2 * t for t in values[1])


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": attach_hook("register_forward_hook", lambda m, args, out: 2 * out),
    "forward with keywords": attach_hook("register_forward_hook", lambda m, a, k, out: 2 * out, with_kwargs=True),
    "forward, always": attach_hook("register_forward_hook", lambda m, args, out: 2 * out, always_call=True),
    "before": attach_hook("register_forward_pre_hook", twice),
    "backward": attach_hook("register_full_backward_hook", twice),
    "before backward": attach_hook("register_full_backward_pre_hook", twice),
}


@pytest.mark.parametrize("name", NAMES)
def test_hooks_on_any_layer_are_called(name: str) -> None:
    own, fused, args = pair(name)
    paths = [path for path, _ in own.named_modules() if path]
    for k, path in enumerate(paths):  # each with another hook; every hook on some layer
        for label in [*HOOKS][k % 2 :: 2]:
            handles = [HOOKS[label](m.get_submodule(path)) for m in (own, fused)]
            assert_same(own, fused, args)
            for handle in handles:
                handle.remove()
    assert runs_fused(fused, args)
    for m in (own, fused):  # hooks of the block itself do not matter
        m.register_forward_pre_hook(lambda module, given: (2 * given[0], *given[1:]))
    assert_same(own, fused, args)
    assert runs_fused(fused, args)


def test_hooks_on_all_modules_are_called() -> None:
    own, fused, args = pair("LorentzNet")
    handle = torch_module.register_module_forward_hook(lambda m, i, o: 2 * o if isinstance(m, nn.Linear) else None)
    try:
        assert_same(own, fused, args)
    finally:
        handle.remove()
    assert_same(own, fused, args)
    assert runs_fused(fused, args)


class Adapter(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Caller(nn.Linear):
    def __call__(self, x: Tensor) -> Tensor:
        return 2 * super().__call__(x)


class Tagged(nn.Parameter):
    pass


def wake(layer: nn.Module, name: str) -> None:
    with torch.no_grad():
        layer.get_parameter(name).mul_(2)


ATTACHMENTS: dict[str, Callable[[Any], Any]] = {
    "subclass": lambda m: setattr(m, "__class__", Adapter),
    "subclass with a call": lambda m: setattr(m, "__class__", Caller),
    "replaced forward": lambda m: setattr(m, "forward", lambda x: 2 * nn.Linear.forward(m, x)),
    "old weight_norm": lambda m: (nn.utils.weight_norm(m), wake(m, "weight_g")),
    "weight_norm": lambda m: (parametrizations.weight_norm(m), wake(m, "parametrizations.weight.original0")),
    "old spectral_norm": lambda m: nn.utils.spectral_norm(m),
    "spectral_norm": lambda m: parametrizations.spectral_norm(m),
    "pruning": lambda m: prune.l1_unstructured(m, "weight", 0.5),
    "frozen": lambda m: m.weight.requires_grad_(False),
    "other parameter": lambda m: setattr(m, "weight", nn.Parameter(2 * m.weight.detach())),
    "class of parameters": lambda m: setattr(m, "weight", Tagged(2 * m.weight.detach())),
    "hooks replaced": lambda m: (
        setattr(m, "_forward_hooks", OrderedDict()),
        m.register_forward_hook(lambda m, i, o: 2 * o),
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("attachment", list(ATTACHMENTS))
def test_what_is_attached_to_a_layer_has_its_effect(attachment: str) -> None:
    for name in NAMES:
        own, fused, args = pair(name)
        path = [path for path, layer in own.named_modules() if isinstance(layer, nn.Linear)][1]
        for m in (own, fused):
            torch.manual_seed(4)
            ATTACHMENTS[attachment](m.get_submodule(path))
        for training in (False, True):
            assert_same(own.train(training), fused.train(training), args)


def test_a_forward_of_pytorchs_that_is_replaced_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    own, fused, args = pair("E_GCL")
    assert runs_fused(fused, args)
    forward = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: 2 * forward(self, x))
    assert_same(own, fused, args)


NORMS: dict[str, Callable[[Any], Any]] = {
    "momentum": lambda m: setattr(m, "momentum", 0.5),
    "average": lambda m: setattr(m, "momentum", None),
    "eps": lambda m: setattr(m, "eps", 0.1),
    "statistics not tracked": lambda m: setattr(m, "track_running_stats", False),
    "frozen": lambda m: m.train(not m.training),
    "without affine": lambda m: (setattr(m, "weight", None), setattr(m, "bias", None)),
}


@pytest.mark.parametrize("change", list(NORMS))
def test_a_norm_that_is_changed(change: str) -> None:
    own, fused, args = pair("LorentzNet")
    for training in (False, True):
        for m in (own.train(training), fused.train(training)):
            NORMS[change](m.phi_e[1])
        assert_same(own, fused, args)


def test_another_norm() -> None:
    own, fused, args = pair("LorentzNet")
    for m in (own, fused):
        m.phi_e[1] = nn.LayerNorm(6).double()
    assert_same(own, fused, args)


def test_graphs_that_change_under_the_same_tensors() -> None:
    block: Any = awake(LGEB(6, 2, 0.3, last_layer=False)).eval()
    own = copy.deepcopy(block)
    ek.fuse_(block)
    h, x, _, scalars = lorentz_call()
    edges = random_edges()
    memory = edges.numpy()
    for k, change in enumerate((lambda: edges[0].add_(1).remainder_(11), lambda: edges.data[1].sub_(1).abs_())):
        for _ in range(2):
            torch.testing.assert_close(block(h, x, edges, scalars), own(h, x, edges, scalars), rtol=1e-9, atol=1e-9)
            memory[1, k] = (memory[1, k] + 1) % 11
        change()
    for seed in range(8):
        edges.copy_(random_edges(seed=seed))
        torch.testing.assert_close(block(h, x, edges, scalars), own(h, x, edges, scalars), rtol=1e-9, atol=1e-9)
    assert len(block.equikernels_recipe.cache._made) <= 4


def test_exports_take_the_fused_form_and_any_size() -> None:
    """Also where activations are one object in several places, as in the published layer."""
    auto = torch.export.Dim.AUTO
    block = E_GCL(4, 4, 8).eval()
    assert block.edge_mlp[1] is block.coord_mlp[1]
    wanted = copy.deepcopy(block)
    ek.fuse_(block)

    def inputs(n: int, edges: int) -> tuple[Tensor, ...]:
        return torch.randn(n, 4), torch.randint(0, n, (2, edges)), torch.randn(n, 3)

    shapes = ({0: auto}, {1: auto}, {0: auto})
    with torch.no_grad():
        program = torch.export.export(block, inputs(7, 20), dynamic_shapes=shapes, strict=False)
        assert any(node.target is torch.ops.equikernels.message_passing.default for node in program.graph.nodes)
        for n, edges in ((7, 20), (30, 200)):
            given = inputs(n, edges)
            torch.testing.assert_close(program.module()(*given), wanted(*given))
