"""Runs every generic check over every case of cases.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek

from ..support.cases import CASES, LARGE, OPS, SMALL, TYPICAL, Case, Inputs, select
from ..support.checks import check_bad_values, check_non_contiguous
from ..support.tools import (
    RecordOps,
    assert_as_good_as_eager,
    boost,
    cotangent_for,
    fresh,
    reference,
    require_grad,
    rotation,
    value_and_grads,
)

DTYPES = [torch.float32, torch.float64]


def case_ids(cases: list[Case]) -> list[str]:
    return [str(case) for case in cases]


def over(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=case_ids(cases))


def first_per_op(cases: list[Case]) -> list[Case]:
    return [next(case for case in cases if case.op == op) for op in OPS if any(c.op == op for c in cases)]


@over(CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_and_gradients(case: Case, dtype: torch.dtype, backend: str, poisoned: None) -> None:
    graph = case.graph()
    exact = case.inputs(dtype)  # the oracle takes the rounded inputs
    oracle_inputs = {name: t.double() for name, t in exact.items()}
    cotangent = cotangent_for(reference(case, oracle_inputs, graph)).to(dtype)
    oracle = value_and_grads(lambda i: reference(case, i, graph), oracle_inputs, cotangent.double())
    eager = value_and_grads(lambda i: reference(case, i, graph), exact, cotangent)
    result = value_and_grads(lambda i: case.run(i, graph), exact, cotangent)
    assert_as_good_as_eager(result, eager, oracle, ["out", *exact], case.weights)


def _as_function(case: Case, graph: ek.Graph, inputs: Inputs):
    names = list(inputs)
    return lambda *tensors: case.run(dict(zip(names, tensors, strict=True)), graph)


@over(select(*SMALL, smooth=True))
@pytest.mark.parametrize("layout", ["contiguous", "strided", "expanded"])
def test_gradcheck_and_gradgradcheck(case: Case, layout: str) -> None:
    graph = case.graph()
    inputs = require_grad(case.inputs())
    function = _as_function(case, graph, inputs)

    def laid_out(*tensors: Tensor) -> Tensor:
        out = function(*tensors)
        if layout == "strided" and out.dim() > 1:
            return out.transpose(0, 1).sin()  # the cotangent that reaches the op is transposed
        if layout == "expanded":
            return out.sum(0)  # the cotangent is broadcast, stride 0
        return out

    # Of many numbers, and where only cotangents lie otherwise, finite differences are taken along random directions.
    many = layout != "contiguous" or bool(case.weights) or sum(t.numel() for t in inputs.values()) > 150
    assert torch.autograd.gradcheck(laid_out, tuple(inputs.values()), fast_mode=many)
    assert torch.autograd.gradgradcheck(laid_out, tuple(inputs.values()), fast_mode=many)


def _form(value: Any) -> Any:
    """What tracing tells one call from another by: a tensor's dimensions and dtype, what is left out, flags."""
    if isinstance(value, Tensor):
        return value.dim(), value.dtype
    if isinstance(value, list | tuple):  # options among them: numbers, of which 0 is no
        return tuple(v != 0 if isinstance(v, int | float) else _form(v) for v in value)
    return value if isinstance(value, bool) else type(value)


traced: set[Any] = set()  # forms of calls; tracing is nearly all of the time, and sees nothing else


@over(select(*TYPICAL, kernel=True))
def test_opcheck(case: Case) -> None:
    graph = case.graph()
    assert graph.num_edges > 0  # known from here on: a traced second derivative needs it
    inputs = require_grad(case.inputs())
    with RecordOps() as record:
        out = case.run(inputs, graph)
        torch.autograd.grad(out.sum(), list(inputs.values()), allow_unused=True)
    assert record.calls, "no op was called"
    for op, args in record.calls:
        checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
        if (form := (op, _form(args))) not in traced:
            checks.append("test_aot_dispatch_dynamic")
        torch.library.opcheck(op, fresh(args), test_utils=checks)
        traced.add(form)


def _check_compiled(case: Case, sizes: tuple[int, ...], **options: Any) -> None:
    torch._dynamo.reset()
    names = list(case.inputs())

    def step(graph: ek.Graph, *tensors: Tensor) -> Tensor:
        return case.run(dict(zip(names, (2 * t for t in tensors), strict=True)), graph).sin().sum()

    compiled = torch.compile(step, fullgraph=True, **options)
    for n in sizes:
        if case.graph_name == "complete":
            graph = ek.Graph.complete(torch.tensor([0, 2, n]))
        else:
            graph = ek.Graph.from_edge_index(torch.randint(0, n, (2, 3 * n)), n)
        inputs = case.inputs(torch.float64, graph)
        eager_leaves, leaves = require_grad(inputs), require_grad(inputs)
        expected = step(graph, *eager_leaves.values())
        result = compiled(graph, *leaves.values())
        torch.testing.assert_close(result, expected)
        expected.backward()
        result.backward()
        for name in names:
            torch.testing.assert_close(leaves[name].grad, eager_leaves[name].grad)


@over(first_per_op(select("complete", smooth=True)) + first_per_op(select("sparse", smooth=True)))
def test_compile_fullgraph_over_changing_sizes(case: Case) -> None:
    _check_compiled(case, (5, 6, 9), backend="aot_eager")


# To Inductor an op is a call between its own loops, the same for every case and every kind of graph. These cases call
# every op of the dispatcher.
FIRST = first_per_op(select("complete", "sparse", smooth=True))
INDUCTOR = [
    *(c for c in FIRST if not c.op.startswith("aggregate_")),
    *first_per_op([c for c in select("complete") if c.op.endswith("_reduce") and c.options.get("reduce") == "max"]),
]


@pytest.mark.slow
@over(INDUCTOR)
def test_compile_with_inductor(case: Case) -> None:
    _check_compiled(case, (5, 9), backend="inductor", dynamic=True)


def test_what_inductor_is_not_given_is_made_of_the_same_ops() -> None:
    def called(cases: list[Case]) -> set[str]:
        with RecordOps() as record:
            for case in cases:
                inputs = require_grad(case.inputs())
                torch.autograd.grad(case.run(inputs, case.graph()).sum(), list(inputs.values()), allow_unused=True)
        return {str(op) for op, _ in record.calls}

    assert called(FIRST) <= called(INDUCTOR)


@over(first_per_op(select("complete")) + first_per_op(select("sparse")))
def test_export(case: Case) -> None:
    graph = case.graph()
    inputs = case.inputs(torch.float32)
    names = list(inputs)

    class Module(torch.nn.Module):
        def forward(self, graph: ek.Graph, *tensors: Tensor) -> Tensor:
            return case.run(dict(zip(names, tensors, strict=True)), graph)

    args = (graph, *inputs.values())
    program = torch.export.export(Module(), args)
    assert any("equikernels" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*args), case.run(inputs, graph))


@over(first_per_op(select("complete", smooth=True)) + first_per_op(select("sparse", smooth=True)))
def test_torch_func(case: Case) -> None:
    graph = case.graph()
    inputs = case.inputs()
    function = _as_function(case, graph, inputs)
    values = tuple(inputs.values())
    tangents = tuple(torch.randn_like(v) for v in values)

    out, tangent = torch.func.jvp(function, values, tangents)
    torch.testing.assert_close(out, function(*values))
    _, expected = torch.autograd.functional.jvp(function, values, tangents)
    torch.testing.assert_close(tangent, expected)
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(v, t) for v, t in zip(values, tangents, strict=True)]
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(function(*duals)).tangent, expected)

    torch._dynamo.reset()
    compiled = torch.compile(lambda *v: torch.func.jvp(function, v, tangents)[1], backend="aot_eager")
    torch.testing.assert_close(compiled(*values), expected)  # an error, not a silent zero

    gradient = torch.func.grad(lambda *v: function(*v).sin().sum(), argnums=tuple(range(len(values))))(*values)
    leaves = require_grad(inputs)
    expected_grads = torch.autograd.grad(case.run(leaves, graph).sin().sum(), list(leaves.values()))
    torch.testing.assert_close(gradient, expected_grads)

    batched = tuple(torch.stack([v, 2 * v, v + 1]) for v in values)
    rows = torch.stack([function(*(b[k] for b in batched)) for k in range(3)])
    torch.testing.assert_close(torch.func.vmap(function)(*batched), rows)


@over(first_per_op(select(*TYPICAL)))
def test_autocast(case: Case) -> None:
    graph = case.graph()
    inputs = case.inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        kept = case.run(inputs, graph)
        low = {name: t if name in case.weights else t.bfloat16() for name, t in inputs.items()}  # parameters are not
        lowered = case.run(low, graph)
    torch.testing.assert_close(kept, case.run(inputs, graph))
    if case.vectors:  # coordinates never stay in 16 bits
        assert lowered.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(lowered.to(kept.dtype), kept, rtol=0.1, atol=0.1)


@over(select(*TYPICAL))
def test_non_contiguous_inputs(case: Case) -> None:
    check_non_contiguous(case)


@over(select(*TYPICAL, *LARGE, kernel=True))
def test_bitwise_determinism(case: Case, backend: str) -> None:
    graph = case.graph()
    inputs = case.inputs(torch.float32)
    cotangent = cotangent_for(case.run(inputs, graph))
    threads = torch.get_num_threads()
    first = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    try:
        for run in range(20):
            torch.set_num_threads(1 + run % 2)
            again = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), f"run {run} differs"
    finally:
        torch.set_num_threads(threads)


@over(select(*TYPICAL, "large_event"))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_values_stay_where_the_reference_has_them(case: Case, bad: float, backend: str) -> None:
    if case.uses("gelu") and math.isinf(bad):
        pytest.skip("PyTorch's float32 gelu(inf) is NaN in its vector loop and inf in its scalar one")
    check_bad_values(case, bad)


@over(select("random_sparse", "sparse"))
def test_permutation(case: Case) -> None:
    graph = case.graph()
    inputs = case.inputs()
    nodes, edges = torch.randperm(graph.num_nodes), torch.randperm(graph.num_edges)
    place = torch.empty_like(nodes)
    place[nodes] = torch.arange(len(nodes))
    moved_graph = ek.Graph.from_edge_index(place[graph.edge_index][:, edges], graph.num_nodes)
    moved = {n: t if n in case.weights else t[edges if n in case.per_edge else nodes] for n, t in inputs.items()}
    expected = case.run(inputs, graph)
    if "out" not in case.weights:
        expected = expected[edges if "out" in case.per_edge else nodes]
    torch.testing.assert_close(case.run(moved, moved_graph), expected)


@over([c for c in select(*TYPICAL, equivariant=True) if c.vectors])
@pytest.mark.parametrize("rapidity", [0.0, 0.5, 2.0, 4.0])
def test_equivariance(case: Case, rapidity: float) -> None:
    graph = case.graph()
    inputs = case.inputs()
    dim = inputs[case.vectors[0]].shape[-1]
    matrix = rotation(dim, case.metric)
    if case.metric == "minkowski":
        matrix = boost(rapidity, dim) @ matrix
    moved = {n: t @ matrix.T if n in case.vectors else t for n, t in inputs.items()}
    expected = case.run(inputs, graph)
    if "out" in case.vectors:
        expected = expected @ matrix.T
    # float64 inputs are rounded after the boost, at the scale of gamma^2
    tolerance = 1e-12 * torch.tensor(2 * rapidity).cosh().item()
    torch.testing.assert_close(case.run(moved, graph), expected, rtol=tolerance, atol=tolerance)
