"""Tests message_passing at precision "medium": rounded values, accuracy, and unchanged results elsewhere."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels import _native
from equikernels.ops.message_passing import reference as plain

from ..support.cases import LARGE, TYPICAL, Case, select
from ..support.mlp_cases import Spec, call, edge_inputs
from ..support.tools import (
    RecordOps,
    assert_as_good_as_eager,
    cotangent_for,
    fresh,
    reference,
    require_grad,
    value_and_grads,
)


@pytest.fixture(autouse=True, params=[True], ids=[""])
def pays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 products on every machine: without AVX512-BF16, kernels round the factors of float32 products."""
    monkeypatch.setattr(_native, "bfloat16_pays", request.param)
    monkeypatch.setattr(_native, "_check_bfloat16", lambda: request.param)  # for another instruction set


IDS = ("lorentz", "relu", "wide", "shallow", "edges", "attributes", "sender", "coordinates")
SMOOTH = ("lorentz", "shallow")


def with_precision(case: Case, precision: str = "medium") -> Case:
    return Case(**{**vars(case), "options": {**case.options, "precision": precision}})


def bfloat16_cases(*graph_names: str) -> list[Case]:
    return [with_precision(c) for c in select(*graph_names, op="message_passing") if c.id in IDS]


def over(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[str(c) for c in cases])


@pytest.mark.parametrize("widths", [(1, 7, 3), (3, 8, 5), (4, 20, 9), (2, 35, 72), (2, 60, 17)], ids=str)
def test_operands_are_rounded_to_nearest_even_and_sums_are_not(widths: tuple[int, ...], backend: str) -> None:
    # Integers of 9 bits and more: rounding them to 8 meets every case, ties often, and all sums are exact in float32.
    graph = ek.Graph.complete(torch.tensor([0, 7, 9, 60]))
    generator, ends = torch.Generator().manual_seed(3), ("receiver", "sender")
    layers = tuple(Spec(width, "relu") for width in widths)
    made = edge_inputs(*layers, order=ends, points=None, h=widths[0])(generator, graph)
    bounds = {"h": 200, "weight2": 300, "bias2": 500, "weight3": 1, "bias3": 9}
    t = {n: torch.randint(-b, b + 1, made[n].shape, generator=generator).float() for n, b in bounds.items()}
    t |= {"weight1": torch.eye(widths[0]).repeat(1, 2), "bias1": torch.zeros(widths[0])}
    options: dict[str, Any] = {"layers": layers, "order": ends, "messages": "none", "edges": True, "wanted": "edges"}

    def run(precision: str) -> Tensor:
        return call(t, graph, {**options, "precision": precision})

    result = run("medium")
    with ek.use_backend("reference"):
        assert torch.equal(result, run("medium"))
    assert not torch.equal(result, run("highest"))


@pytest.mark.parametrize("norm", ["given", "given affine"])
def test_a_norm_of_rounded_products_is_not_folded_into_them(norm: str) -> None:
    layers = Spec(5, "relu"), Spec(4, "relu", norm), Spec(3, "relu")
    graph = ek.Graph.complete(torch.tensor([0, 7, 9]))
    made = edge_inputs(*layers)(torch.Generator().manual_seed(3), graph)
    options = {"layers": layers, "precision": "medium"}
    result = call(made, graph, options)
    with ek.use_backend("reference"):
        torch.testing.assert_close(result, call(made, graph, options), rtol=1e-12, atol=1e-12)


@over(bfloat16_cases(*TYPICAL, *LARGE))
def test_as_accurate_as_the_reference_of_this_precision(case: Case, backend: str) -> None:
    graph = case.graph()
    inputs = case.inputs(torch.float32)
    oracle = reference(with_precision(case, "highest"), {n: t.double() for n, t in inputs.items()}, graph)
    result, eager = case.run(inputs, graph), reference(case, inputs, graph)
    assert_as_good_as_eager([result], [eager], [oracle])
    # Sums that differ by one rounding may differ in bfloat16: this is rare, and far below the sum of all roundings.
    scale = oracle.abs().max()
    assert (result - eager).norm() <= 0.2 * (eager - oracle).norm() + 1e-5 * scale


@over(bfloat16_cases(*TYPICAL, *LARGE))
def test_float64_numbers_are_not_rounded(case: Case, backend: str) -> None:
    graph, inputs = case.graph(), case.inputs()
    assert torch.equal(case.run(inputs, graph), with_precision(case, "highest").run(inputs, graph))


@over(bfloat16_cases("complete"))
@pytest.mark.parametrize("pays", [False], indirect=True)
def test_float32_where_bfloat16_is_not_faster(case: Case) -> None:
    graph, inputs = case.graph(), case.inputs(torch.float32)
    assert torch.equal(case.run(inputs, graph), with_precision(case, "highest").run(inputs, graph))


@over(bfloat16_cases("complete"))
def test_high_is_float32_on_cpus_but_for_tiles(case: Case) -> None:
    graph, inputs = case.graph(), case.inputs(torch.float32)
    highest = with_precision(case, "highest").run(inputs, graph)
    high = with_precision(case, "high").run(inputs, graph)
    if not _native.two_parts_pay:
        assert torch.equal(high, highest)
        return
    assert (high - highest).abs().max() <= 2.0**-13 * highest.abs().max()


def test_a_network_without_such_a_kernel_runs_its_float32_kernel() -> None:
    layers = Spec(5, "relu"), Spec(4, "silu"), Spec(3, "tanh")  # lanes across edges: activations differ
    graph = ek.Graph.complete(torch.tensor([0, 7, 9]))
    made = edge_inputs(*layers)(torch.Generator().manual_seed(3), graph)
    t = {name: value.float() for name, value in made.items()}
    with ek.use_backend("cpu"):
        found = [call(t, graph, {"layers": layers, "precision": p}) for p in ("medium", "highest")]
    assert torch.equal(*found)


def test_the_rate_is_measured_once_and_reported() -> None:
    if "avx512bf16" not in _native.cpu_features().split():
        assert _native.bfloat16_rate == 0
        assert "float32 (it has no bfloat16 products)" in str(ek.backends())
    else:
        assert 0.1 < _native.bfloat16_rate < (40 if _native.bfloat16_unit == "tiles" else 4)
        assert f"bfloat16 products at {_native.bfloat16_rate:.1f} times" in str(ek.backends())


class RoundedLinear(torch.autograd.Function):
    """A layer without bias of which every product, backward too, takes factors rounded to bfloat16."""

    @staticmethod
    def forward(ctx: Any, m: Tensor, weight: Tensor) -> Tensor:
        m, weight = (v.to(torch.bfloat16).to(v.dtype) for v in (m, weight))
        ctx.save_for_backward(m, weight)
        return m @ weight.T

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        m, weight = ctx.saved_tensors
        grad = grad.to(torch.bfloat16).to(grad.dtype)
        return grad @ weight, grad.T @ m


def formula_with_rounded_gradients(case: Case, inputs: dict[str, Tensor], cotangent: Tensor) -> list[Tensor]:
    """Output and gradients of the plain formula in which RoundedLinear stands for the layers of rounded factors."""
    evaluate, linear = plain._evaluate, plain.linear

    def rounded(m: Tensor, weight: Tensor, bias: Tensor | None, bfloat16: bool) -> Tensor:
        if not bfloat16:
            return linear(m, weight, bias, bfloat16)
        return RoundedLinear.apply(m, weight) + (0 if bias is None else bias)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain, "linear", rounded)
        patch.setattr(plain, "_evaluate", lambda t, graph, options: evaluate(t, graph, options._replace(bfloat16=True)))
        return value_and_grads(lambda i: reference(case, i, case.graph()), inputs, cotangent)


@over(bfloat16_cases(*TYPICAL, *LARGE))
def test_gradients_are_of_rounded_products_as_the_output(case: Case, backend: str) -> None:
    graph, inputs = case.graph(), case.inputs(torch.float32)
    cotangent = cotangent_for(case.run(inputs, graph))
    found = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    rounded = formula_with_rounded_gradients(case, inputs, cotangent)
    exact = value_and_grads(lambda i: reference(with_precision(case, "highest"), i, graph), inputs, cotangent)
    scale = max((e.norm() for e in exact[1:]), default=0.0)
    for name, gradient, formula, unrounded in zip(inputs, found[1:], rounded[1:], exact[1:], strict=True):
        # Sums that differ by one rounding may differ in bfloat16, rarely: as the outputs above.
        assert (gradient - formula).norm() <= 0.2 * (formula - unrounded).norm() + 1e-5 * scale, name


@over(bfloat16_cases(*TYPICAL))
def test_gradients_of_the_reference_and_of_float64_are_those_of_the_formula_without_rounding(case: Case) -> None:
    graph, full = case.graph(), with_precision(case, "highest")
    double = case.inputs()
    cotangent = cotangent_for(full.run(double, graph))

    def gradients(which: Case, run: Any) -> list[Tensor]:
        return value_and_grads(lambda i: run(which, i, graph), double, cotangent)[1:]

    torch.testing.assert_close(gradients(case, reference), gradients(full, reference))
    found, expected = (gradients(c, lambda c, i, graph: c.run(i, graph)) for c in (case, full))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@over([with_precision(c) for c in select(*TYPICAL, op="message_passing", smooth=True) if c.id in SMOOTH])
def test_derivatives_of_other_kinds(case: Case) -> None:
    graph, full = case.graph(), with_precision(case, "highest")
    inputs = case.inputs()
    names, values = list(inputs), tuple(inputs.values())

    def second(which: Case) -> tuple[Tensor, ...]:
        leaves = require_grad(inputs)
        out = which.run(leaves, graph)
        first = torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out), create_graph=True)
        return torch.autograd.grad(sum((g * g).sum() for g in first), list(leaves.values()), allow_unused=True)

    torch.testing.assert_close(second(case), second(full))
    tangents = tuple(torch.randn_like(v) for v in values)
    results = [
        torch.func.jvp(lambda *v, c=c: c.run(dict(zip(names, v, strict=True)), graph), values, tangents)
        for c in (case, full)
    ]
    torch.testing.assert_close(results[0][0], case.run(inputs, graph))
    torch.testing.assert_close(results[0][1], results[1][1])


@over(bfloat16_cases(*LARGE))
def test_bitwise_determinism_over_threads(case: Case, backend: str) -> None:
    graph, inputs = case.graph(), case.inputs(torch.float32)
    cotangent, threads = cotangent_for(case.run(inputs, graph)), torch.get_num_threads()

    def all_of(given: dict[str, Tensor]) -> Tensor:
        return case.run(given, graph)

    first = value_and_grads(all_of, inputs, cotangent)
    try:
        for run in range(6):
            torch.set_num_threads(1 + run % 2)
            found = value_and_grads(all_of, inputs, cotangent)
            assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True))
    finally:
        torch.set_num_threads(threads)


@over(bfloat16_cases(*TYPICAL, "large_event"))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_values_stay_where_the_reference_has_them(case: Case, bad: float, backend: str) -> None:
    if case.uses("gelu") and math.isinf(bad):
        pytest.skip("PyTorch's float32 gelu(inf) is NaN in its vector loop and inf in its scalar one")
    graph = case.graph()
    for name in case.inputs():
        if name in case.folded:
            continue  # more is NaN
        inputs = case.inputs(torch.float32)
        inputs[name][0] = bad
        result, expected = case.run(inputs, graph), reference(case, inputs, graph)
        assert torch.equal(result.isnan(), expected.isnan()), name
        assert torch.equal(result.isinf(), expected.isinf()), name


@over(bfloat16_cases("complete")[:1])
def test_opcheck(case: Case) -> None:
    graph = case.graph()
    assert graph.num_edges > 0  # known from here on: a traced second derivative needs it
    inputs = require_grad(case.inputs())
    with RecordOps() as record:
        case.run(inputs, graph).sum().backward()
    for op, args in record.calls:
        torch.library.opcheck(op, fresh(args))


def test_compiles_without_a_graph_break() -> None:
    case = bfloat16_cases("complete")[0]
    graph, inputs = case.graph(), case.inputs(torch.float32)
    compiled = torch.compile(lambda given: case.run(given, graph), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(inputs), case.run(inputs, graph))


def test_lorentznet_gives_nearly_the_same_logits(backend: str) -> None:
    jets = ek.data.load_sample_jets()[:20]
    x, ptr, is_beam = ek.data.with_beams(jets.p4, jets.ptr)
    scalars = ek.data.top_tagging_scalars(x, is_beam)
    logits = {}
    for precision in ("highest", "medium"):
        torch.manual_seed(0)
        model = ek.models.LorentzNet(2, 24, n_layers=3, precision=precision).eval()
        with torch.inference_mode():
            logits[precision] = model(x, scalars, ptr)
    difference = (logits["medium"] - logits["highest"]).abs().max() / logits["highest"].abs().max()
    assert 0 < difference < 0.01


def test_an_unknown_precision_is_refused_by_name() -> None:
    for make in (lambda: ek.nn.LGEB(4, 4, 4, precision="half"), lambda: ek.nn.EGCL(4, 4, 4, precision="half")):
        with pytest.raises(ValueError, match="precision: expected one of highest, high, medium, got 'half'"):
            make()
