"""Tests BatchNorm over the edges of large graphs: backward recomputes statistics in every kind of derivative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

import equikernels as ek
from equikernels.nn import edge_norm
from equikernels.nn.edge_norm import EdgeInput, fold_batch_norm

from ..support.cases import GRAPHS

H = 4


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for large graphs."""
    monkeypatch.setattr(edge_norm, "SMALL", 0)


def tables(name: str, dtype: torch.dtype = torch.float64) -> tuple[ek.Graph, dict[str, Tensor]]:
    graph, generator = GRAPHS[name](), torch.Generator().manual_seed(2)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()

    n = graph.num_nodes
    given = {"a": random(n, H), "b": random(n, H), "w": random(H, 2), "x": random(n, 4), "gamma": random(H)}
    if not graph.is_complete:
        given |= {"q": random(H, 3), "attr": random(graph.num_edges, 3)}
    return graph, given


def normalised(graph: ek.Graph, t: dict[str, Tensor]) -> tuple[Tensor, ...]:
    norm = nn.BatchNorm1d(H, dtype=t["a"].dtype)
    norm.weight = None  # type: ignore[assignment]
    z = EdgeInput(t["a"], t["b"], t["w"], t.get("q"))
    out = fold_batch_norm(norm, z, t["x"], graph, edge_attr=t.get("attr"))
    return *(o * t["gamma"].reshape(-1, *[1] * (o.shape[0] == H)) for o in out if o is not None), norm.running_var


def total(out: tuple[Tensor, ...]) -> Tensor:
    return sum((o * torch.linspace(1, 2, o.numel(), dtype=o.dtype).view_as(o)).square().sum() for o in out[:-1])


def values(graph: ek.Graph, t: dict[str, Tensor]) -> list[Tensor]:
    out = normalised(graph, t)
    return [*out, *torch.autograd.grad(total(out), list(t.values()))]


def same(found: Any, expected: Any) -> None:
    """Bits; in float64, where a table is used as it is, its gradient has other terms added first."""
    for got, want in zip(found, expected, strict=True):
        rounding = {"rtol": 1e-13, "atol": 1e-13} if want.dtype == torch.float64 else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(got, want, **rounding)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["complete", "self_loops", "sparse"])
def test_results_are_the_same_bits(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, t = tables(name, dtype)
    expected = values(graph, t)
    monkeypatch.setattr(edge_norm, "SMALL", 0)
    same(values(graph, t), expected)


@pytest.mark.parametrize("wanted", [["a"], ["w"], ["x", "gamma"]])
def test_some_inputs_only(wanted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    graph, t = tables("complete")
    given = {name: v if name in wanted else v.detach() for name, v in t.items()}

    def some() -> tuple[Tensor, ...]:
        return torch.autograd.grad(total(normalised(graph, given)), [given[name] for name in wanted])

    expected = some()
    monkeypatch.setattr(edge_norm, "SMALL", 0)
    same(some(), expected)


def test_autocast_ends_before_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, t = tables("complete", torch.float32)

    def under_autocast() -> list[Tensor]:
        low = {name: v.bfloat16() if name in "ab" else v for name, v in t.items()}
        with torch.autocast("cpu", torch.bfloat16):
            out = normalised(graph, low)
        return [*out, *torch.autograd.grad(total(out), list(t.values()))]

    expected = under_autocast()
    monkeypatch.setattr(edge_norm, "SMALL", 0)
    same(under_autocast(), expected)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", ["complete", "sparse"])
def test_derivatives_of_both_orders(name: str) -> None:
    graph, t = tables(name)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return normalised(graph, dict(zip(t, tensors, strict=True)))[:-1]

    assert torch.autograd.gradcheck(function, tuple(t.values()))
    assert torch.autograd.gradgradcheck(function, tuple(t.values()))


def test_only_what_was_given_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = ek.Graph.complete(torch.arange(0, 8201, 2))
    a, b, x = (torch.randn(8200, width).requires_grad_() for width in (H, H, 4))
    w = torch.randn(H, 2).requires_grad_()
    inputs = {t.data_ptr() for t in (a, b, x, w)}

    def kept() -> int:
        rows: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            if t.data_ptr() not in inputs:
                rows[t.data_ptr()] = t.numel() * t.element_size()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            normalised(graph, {"a": a, "b": b, "w": w, "x": x, "gamma": torch.ones(H)})
        return sum(rows.values())

    assert a.numel() > edge_norm.SMALL
    again = kept()
    monkeypatch.setattr(edge_norm, "SMALL", a.numel())
    assert again + 5 * a.numel() * 8 < kept()


@pytest.mark.usefixtures("always")
def test_other_backends_and_hooks() -> None:
    """Backward recomputes forward on the backend of forward, without hooks of saved tensors."""
    graph, t = tables("complete")
    expected = values(graph, t)
    with ek.use_backend("reference"):
        out = normalised(graph, t)
    for got, want in zip(torch.autograd.grad(total(out), list(t.values())), expected[len(out) :], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    with torch.autograd.graph.disable_saved_tensors_hooks("none are needed"):
        for got, want in zip(values(graph, t), expected, strict=True):
            assert torch.equal(got, want)
    out = checkpoint(lambda *v: normalised(graph, dict(zip(t, v, strict=True))), *t.values(), use_reentrant=False)
    for got, want in zip(torch.autograd.grad(total(out), list(t.values())), expected[len(out) :], strict=True):
        assert torch.equal(got, want)


@pytest.mark.usefixtures("always")
def test_batched_cotangents() -> None:
    graph, t = tables("complete")
    out = normalised(graph, t)[0]
    many = torch.randn(3, *out.shape, dtype=out.dtype)
    together = torch.autograd.grad(
        out, list(t.values()), many, is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    for k in range(3):
        alone = torch.autograd.grad(out, list(t.values()), many[k], retain_graph=True, allow_unused=True)
        for got, want in zip(together, alone, strict=True):
            assert (got is None) == (want is None)
            if want is not None:
                torch.testing.assert_close(got[k], want, rtol=1e-9, atol=1e-9)


N = 8200  # events of two, so that edges are few


@pytest.fixture(scope="module")
def training() -> tuple[Callable[..., Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """LorentzNet in training on more than 32768 numbers a table: (loss of parameters, them, their buffers)."""
    torch.manual_seed(0)
    model = ek.models.LorentzNet(2, H, n_layers=2, c_weight=0.1).double().train()
    x, s = torch.randn(N, 4, dtype=torch.float64), torch.randn(N, 2, dtype=torch.float64)
    graph = ek.Graph.complete(torch.arange(0, N + 1, 2))
    assert N * H > edge_norm.SMALL

    def loss(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        return functional_call(model, (p, {k: v.clone() for k, v in b.items()}), (x, s, graph)).square().mean(0)

    return loss, {k: v.detach() for k, v in model.named_parameters()}, dict(model.named_buffers())


NAMES = ["embedding.weight", "LGEBs.0.phi_e.0.weight", "LGEBs.0.phi_e.1.weight", "graph_dec.3.bias"]


def test_functional_transforms_of_a_network_in_training(training: Any) -> None:
    loss, params, buffers = training

    def of(some: dict[str, Tensor]) -> Tensor:
        return loss({**params, **some}, buffers)

    some = {name: params[name] for name in NAMES}
    leaves = {name: v.clone().requires_grad_() for name, v in some.items()}
    out = of(leaves)
    rows = [torch.autograd.grad(o, list(leaves.values()), retain_graph=True) for o in out]
    once, every = grad(lambda p: of(p).sum())(some), jacrev(of)(some)
    tangent = {name: torch.randn_like(v) for name, v in some.items()}
    _, along = jvp(of, (some,), (tangent,))
    expected = torch.zeros(2, dtype=torch.float64)
    for k, name in enumerate(NAMES):
        torch.testing.assert_close(once[name], rows[0][k] + rows[1][k], rtol=1e-8, atol=1e-12)
        for c in range(2):
            torch.testing.assert_close(every[name][c], rows[c][k], rtol=1e-8, atol=1e-12)
            expected[c] += (rows[c][k] * tangent[name]).sum()
    torch.testing.assert_close(along, expected, rtol=1e-8, atol=1e-12)


def test_ensembles_in_training(training: Any) -> None:
    loss, params, buffers = training
    models = {k: torch.stack([v, 1.1 * v]) for k, v in params.items()}
    states = {k: torch.stack([v, v]) for k, v in buffers.items()}
    found = vmap(grad(lambda p, b: loss(p, b).sum()))(models, states)
    for k in range(2):
        alone = grad(lambda p: loss(p, buffers).sum())({name: v[k] for name, v in models.items()})
        for name in NAMES:
            torch.testing.assert_close(found[name][k], alone[name], rtol=1e-8, atol=1e-12)


@pytest.mark.usefixtures("always")
def test_hessian_of_a_network_in_training() -> None:
    model = ek.models.LorentzNet(2, H, n_layers=1, c_weight=0.1).double().train()
    x, s = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)
    graph = ek.Graph.complete(torch.tensor([0, 3, 5]))
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    name = "LGEBs.0.phi_e.0.weight"

    def loss(v: Tensor) -> Tensor:
        fresh = {k: t.detach().clone() for k, t in state.items()}
        return functional_call(model, {**fresh, name: v}, (x, s, graph)).square().sum()

    at = state[name].detach()
    torch.testing.assert_close(hessian(loss)(at), torch.autograd.functional.hessian(loss, at), rtol=1e-8, atol=1e-10)
