"""Tests the registration of derivatives: equal to torch.library.register_autograd, with less overhead."""

from __future__ import annotations

import pytest
import torch

import equikernels as ek

FUSED = ("message_passing", "row_mlp", "linear_2to2", "linear_2to0", "linear_1to2", "rows_network")
GRAPH = ek.Graph.complete(torch.tensor([0, 3, 5]))
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def _invariants(x: torch.Tensor) -> torch.Tensor:
    metric = [1.0, -1.0, -1.0, -1.0]
    return torch.ops.equikernels.invariants.default(x, GRAPH.table, GRAPH.num_edges, GRAPH._kind, metric, True)


def test_schemas_are_what_the_registration_takes() -> None:
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("equikernels::")}
    assert len(names) > 20
    for name in names:
        schema = torch._C._get_schema(name, "")
        for argument in schema.arguments:
            assert not argument.has_default_value(), f"{name}: {argument.name}: the dispatcher would leave it out"
            assert not argument.kwarg_only, f"{name}: {argument.name}"
        if name.removesuffix("_backward").removeprefix("equikernels::") in FUSED:
            continue  # which register themselves
        for part in (*schema.arguments, *schema.returns):
            assert str(part.type) not in ("List[Tensor]", "List[Optional[Tensor]]"), f"{name}: {part.name}"


@pytest.mark.parametrize("run", [_invariants, lambda x: ek.pairwise_invariants(x, GRAPH)], ids=["op", "function"])
def test_what_is_differentiated(run) -> None:
    leaf = X.clone().requires_grad_()
    assert run(leaf).requires_grad
    assert not run(X).requires_grad
    with torch.no_grad():
        assert not run(leaf).requires_grad
    with torch.inference_mode():
        assert run(leaf).is_inference()
    out = run(leaf)
    with torch.no_grad():
        leaf.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_bare_op_refuses_transforms() -> None:
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda x: _invariants(x).sum())(X)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X.clone().requires_grad_(), X)
        with pytest.raises(NotImplementedError, match="jvp"):
            _invariants(dual)
