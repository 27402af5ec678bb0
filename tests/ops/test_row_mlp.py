"""row_mlp beyond the generic checks: plans, frozen parameters, its own layers kept, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.ops.fused_op import planned
from equikernels.ops.message_passing.options import layer_options
from equikernels.ops.message_passing.rows import RowOptions

from ..support.cases import select
from ..support.mlp_cases import Spec, network, parameters

CASES = [case for case in select("complete", op="row_mlp") if case.kernel]
over = pytest.mark.parametrize("case", CASES, ids=[str(case) for case in CASES])


@pytest.mark.skipif(ek._native.cpu_reason is not None, reason=str(ek._native.cpu_reason))
@pytest.mark.parametrize(
    ("columns", "layers", "plan"),
    [
        (96, (Spec(48, "relu"), Spec(48)), "1"),
        (97, (Spec(48, "relu"),), "0"),
        (3, (Spec(49, "relu"),), "0"),
        (3, (Spec(2, "relu", "batch"),), "0"),
        (3, (Spec(2, "relu", "given"),), "1"),
        (97, (Spec(60, "relu", "layer"),), "1"),
        (3, (Spec(600, "relu"),), "0"),
        (3, (Spec(2, "leaky_relu"), Spec(2, "leaky_relu", slope=0.3)), "0"),
        (3, tuple(Spec(2, "relu") for _ in range(33)), "0"),
        (3, (Spec(2, "relu", "layer affine"),), "a LayerNorm with an affine map"),
        (3, (Spec(2, "relu", "layer"), Spec(2, "relu", "batch")), "statistics of a batch norm"),
        (3, (Spec(600, "relu", "layer"),), "a layer of other than 1 to 512 channels"),
    ],
)
def test_plans(columns: int, layers: tuple[Spec, ...], plan: str, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    mlp = network(parameters(layers, columns, generator), layers)
    options = RowOptions(0, False, 0, layer_options(mlp))
    assert planned("row_mlp_plan", options, mlp.shape(), mlp.layers[0].weight).startswith(plan)
    rows = torch.randn(5, columns, dtype=torch.float64, generator=generator)
    with ek.use_backend("reference"):
        expected = ek.row_mlp(mlp, rows)
    torch.testing.assert_close(ek.row_mlp(mlp, rows), expected, rtol=1e-9, atol=1e-11)
    if not plan.isdigit():
        with (
            ek.use_backend("cpu"),
            pytest.raises(RuntimeError, match=f"row_mlp: backend 'cpu' was requested: .*{plan}"),
        ):
            ek.row_mlp(mlp, rows)


@over
def test_one_gradient_alone(case: Any) -> None:
    """Gradients are the same, whichever of them are wanted."""
    graph, inputs = case.graph(), case.inputs()

    def gradients(wanted: list[str]) -> dict[str, Tensor]:
        leaves = {name: t.clone().requires_grad_(name in wanted) for name, t in inputs.items()}
        case.run(leaves, graph).square().sum().backward()
        return {name: t.grad for name, t in leaves.items() if t.grad is not None}

    together = gradients(list(inputs))
    assert set(together) == set(inputs)
    for name in inputs:
        alone = gradients([name])
        assert set(alone) == {name}
        assert torch.equal(alone[name], together[name]), name


@over
def test_what_is_kept_for_backward_may_not_change(case: Any) -> None:
    graph = case.graph()
    for name in case.inputs():
        if name == "residual" or name.startswith("bias"):
            continue  # a sum's terms
        leaves = {n: t.requires_grad_() for n, t in case.inputs().items()}
        out = case.run(leaves, graph)
        with torch.no_grad():
            leaves[name].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


def test_outputs_may_be_changed_in_place() -> None:
    """The activations kept for backward are not the output."""
    rows = torch.randn(7, 60, dtype=torch.float64, requires_grad=True)
    for modules in ([nn.Linear(60, 60), nn.ReLU()], [nn.Linear(60, 60), nn.Tanh()], [nn.Linear(60, 3)]):
        mlp = ek.EdgeMLP.of([m.double() for m in modules])
        expected = torch.autograd.grad((2 * ek.row_mlp(mlp, rows)).square().sum(), rows)
        found = torch.autograd.grad(ek.row_mlp(mlp, rows).mul_(2).square().sum(), rows)
        torch.testing.assert_close(found, expected)


TABLE, MLP = torch.zeros(4, 3), ek.EdgeMLP.of([nn.Linear(3, 2)])


@pytest.mark.parametrize(
    ("tables", "options", "error", "message"),
    [
        ((), {}, ValueError, "tables: expected 1 to 3, got 0"),
        ((TABLE[:, :1],) * 4, {}, ValueError, "tables: expected 1 to 3, got 4"),
        ((TABLE[0],), {}, ValueError, r"tables\[0\]: expected shape \[n, C\], got \[3\]"),
        ((TABLE[:, :1], TABLE[1:, :2]), {}, ValueError, r"tables\[1\]: expected shape \[4, C\], got \[3, 2\]"),
        ((TABLE.double(),), {}, TypeError, r"tables\[0\]: expected dtype float32, got float64"),
        ((TABLE[:, :2],), {}, ValueError, "mlp: expected a first layer of 2 columns, for the tables, got 3 columns"),
        (("t",), {}, TypeError, r"tables\[0\]: expected a tensor, got str"),
        ((TABLE,), {"residual": TABLE}, ValueError, r"residual: expected shape \[4, 2\], got \[4, 3\]"),
        ((TABLE,), {"residual": TABLE[:, :2].double()}, TypeError, "residual: expected dtype float32, got float64"),
    ],
)
def test_errors_name_the_argument(tables: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^row_mlp: {message}"):
        ek.row_mlp(MLP, *tables, **options)
    with pytest.raises(TypeError, match=r"^row_mlp: mlp: expected an EdgeMLP, got Linear"):
        ek.row_mlp(nn.Linear(3, 2), TABLE)  # type: ignore[arg-type]
