"""message_passing and row_mlp under torch.func, hooks of saved tensors, autocast and other backends, in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

import equikernels as ek

from ..support.cases import Case, select
from ..support.tools import require_grad

IDS = ("lorentz", "euclidnet", "norm and tables", "norms", "narrow")
CASES = [case for case in select("complete") if case.id in IDS]
over = pytest.mark.parametrize("case", CASES, ids=[str(case) for case in CASES])


def gradients(case: Case, leaves: dict[str, Tensor], out: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(out.sin().sum(), list(leaves.values())))


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@over
def test_backward_runs_on_the_backend_of_forward_and_needs_no_hooks(case: Case) -> None:
    graph, leaves = case.graph(), require_grad(case.inputs())
    expected = gradients(case, leaves, case.run(leaves, graph))
    out = case.run(leaves, graph)
    with ek.use_backend("reference"):
        same(gradients(case, leaves, out), expected)
        plain = case.run(leaves, graph)
    torch.testing.assert_close(gradients(case, leaves, plain), expected, rtol=1e-9, atol=1e-9)
    with torch.autograd.graph.disable_saved_tensors_hooks("none are needed"):
        same(gradients(case, leaves, case.run(leaves, graph)), expected)
    out = checkpoint(lambda: case.run(leaves, graph), use_reentrant=False)
    same(gradients(case, leaves, out), expected)


@over
def test_autocast_ends_before_backward(case: Case) -> None:
    graph, leaves = case.graph(), require_grad(case.inputs(torch.float32))
    expected = gradients(case, leaves, case.run(leaves, graph))
    with torch.autocast("cpu", torch.bfloat16):
        out = case.run(leaves, graph)
    same(gradients(case, leaves, out), expected)


@over
def test_batched_cotangents(case: Case) -> None:
    graph, leaves = case.graph(), require_grad(case.inputs())
    out = case.run(leaves, graph)
    many = torch.randn(3, *out.shape, dtype=out.dtype)
    values = list(leaves.values())
    together = torch.autograd.grad(out, values, many, is_grads_batched=True, retain_graph=True)
    for k in range(3):
        alone = torch.autograd.grad(out, values, many[k], retain_graph=True)
        for got, want in zip(together, alone, strict=True):
            torch.testing.assert_close(got[k], want, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def training() -> Any:
    """LorentzNet in training: (loss of parameters, them, their buffers)."""
    torch.manual_seed(0)
    model = ek.models.LorentzNet(2, 4, n_layers=2, c_weight=0.1).double().train()
    x, s = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    graph = ek.Graph.complete(torch.tensor([0, 4, 9]))

    def loss(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        return functional_call(model, (p, {k: v.clone() for k, v in b.items()}), (x, s, graph)).square().mean(0)

    return loss, {k: v.detach() for k, v in model.named_parameters()}, dict(model.named_buffers())


NAMES = ["embedding.weight", "LGEBs.0.phi_e.0.weight", "LGEBs.0.phi_e.1.weight", "LGEBs.0.phi_h.1.bias"]


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


def test_hessian_of_a_network_in_training(training: Any) -> None:
    loss, params, buffers = training
    name = NAMES[1]

    def of(v: Tensor) -> Tensor:
        return loss({**params, name: v}, buffers).sum()

    at = params[name]
    torch.testing.assert_close(hessian(of)(at), torch.autograd.functional.hessian(of, at), rtol=1e-8, atol=1e-10)
