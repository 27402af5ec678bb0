"""message_passing and row_mlp a tile of edges or rows at a time, as CUDA runs wide layers, here on the CPU."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import equikernels as ek
from equikernels import _native
from equikernels.ops import fused_op
from equikernels.ops.message_passing import op as message_op

from ..support.cases import CASES, GRAPHS, Case, select
from ..support.emulator import check, forget_plans
from ..support.mlp_cases import TYPICAL, Spec, call, edge_inputs
from ..support.tools import RecordOps, cotangent_for, fresh, reference, require_grad, value_and_grads
from ..support.wide_cases import everything
from .test_fuzz import different, graphs
from .test_message_passing import events, peak_bytes

PLANS = {"message_passing_plan": "3", "row_mlp_plan": "2"}
pytestmark = pytest.mark.skipif(ek._native.cpu_reason is not None, reason=str(ek._native.cpu_reason))
LISTED = [case for case in CASES if case.op in ("message_passing", "row_mlp")]
BAD = ("relu", "norm and tables", "norms")  # cases with values that are not finite
SMALL = "20000"  # bytes that cut the edges of a receiver


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every call runs on tiles."""
    monkeypatch.setattr(fused_op, "_answer", lambda query, *_: PLANS[query.removesuffix("_cuda")])
    forget_plans()
    yield
    forget_plans()


@pytest.mark.parametrize("workspace", ["", SMALL])
@pytest.mark.parametrize("case", [*LISTED, everything(), everything("self_loops")], ids=str)
def test_values_and_gradients(case: Case, workspace: str, poisoned: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIKERNELS_WORKSPACE", workspace)
    for dtype in (torch.float32, torch.float64):
        check(case, case.graph(), case.inputs(dtype))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    graph=graphs(),
    which=st.integers(0, 10**6),
    seed=st.integers(0, 1000),
    workspace=st.sampled_from(["1", "3000", "40000", ""]),
)
def test_any_graph_and_workspace(graph: ek.Graph, which: int, seed: int, workspace: str) -> None:
    case = [*LISTED, everything()][which % (len(LISTED) + 1)]
    assume(not case.measures or different(graph, case.op) > 2)
    geometry = case.options.get("geometry")
    assume(geometry is None or geometry.direction != "unit" or not (graph.receiver == graph.sender).any())
    inputs = case.inputs(torch.float64, graph, seed)
    cotangent = cotangent_for(reference(case, inputs, graph))
    expected = value_and_grads(lambda i: reference(case, i, graph), inputs, cotangent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQUIKERNELS_WORKSPACE", workspace)
        found = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("case", [c for c in LISTED if c.id in BAD and c.graph_name in TYPICAL], ids=str)
def test_bad_values_stay_where_the_reference_has_them(case: Case, bad: float) -> None:
    graph = case.graph()
    for name in case.inputs():
        inputs = case.inputs(torch.float32)
        inputs[name][0] = bad
        found, expected = case.run(inputs, graph), reference(case, inputs, graph)
        if name in case.folded and math.isinf(bad):
            known = ~found.isnan()
            assert torch.equal(found[known].isfinite(), expected[known].isfinite()), name
        else:
            assert torch.equal(found.isnan(), expected.isnan()), name


def test_float64_coordinates_beside_float32_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIKERNELS_WORKSPACE", SMALL)
    case = next(case for case in LISTED if case.id == "coordinates")
    exact = case.inputs(torch.float32)
    check(case, case.graph(), exact | {"x": case.inputs(torch.float64)["x"]})


def test_a_product_rounded_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "bfloat16_pays", True)
    case = next(case for case in select("sparse", op="message_passing") if case.id == "lorentz")
    inputs, graph = case.inputs(torch.float32), case.graph()
    options = {**case.options, "precision": "medium"}
    found = call(inputs, graph, options)
    with ek.use_backend("reference"):
        expected = call(inputs, graph, options)
    assert (found - call(inputs, graph, case.options)).abs().max() > 1e-4
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "case", [everything(), next(c for c in select("large_event", op="row_mlp") if c.measures)], ids=str
)
def test_runs_and_threads_change_no_bit(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIKERNELS_WORKSPACE", "1000000")
    inputs, graph = case.inputs(torch.float32), case.graph()
    cotangent = cotangent_for(case.run(inputs, graph))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 1, 3):
            torch.set_num_threads(threads)
            found.append(value_and_grads(lambda i: case.run(i, graph), inputs, cotangent))
    finally:
        torch.set_num_threads(before)
    for again in found[1:]:
        for a, b in zip(found[0], again, strict=True):
            assert torch.equal(a, b)


def test_kept_products_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here all products fit the workspace."""
    case = everything()
    inputs, graph = case.inputs(torch.float32), case.graph()
    cotangent = cotangent_for(case.run(inputs, graph))
    found = []
    for room in (1 << 28, 0):
        monkeypatch.setattr(message_op, "workspace", lambda room=room: room)
        with RecordOps() as record:
            found.append(value_and_grads(lambda i: case.run(i, graph), inputs, cotangent))
        kept = [args[2][-1].numel() for op, args in record.calls if "backward" in str(op)]
        assert [count > 0 for count in kept] == [room > 0]
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_sums_at_receivers_do_not_depend_on_the_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver's edges may lie in two tiles: its sum goes on."""
    graph = GRAPHS["random_sparse"]()
    layers = (Spec(64),)  # what edges give is exact, whatever rows a product has
    inputs = edge_inputs(*layers, order=("sender",), points=None, h=64)(torch.Generator().manual_seed(0), graph)
    inputs["weight1"] = torch.eye(64, dtype=torch.float64)
    inputs["bias1"] = torch.zeros(64, dtype=torch.float64)
    inputs = {name: t.float() for name, t in inputs.items()}
    found = []
    for workspace in ("", "3000", "100000"):
        monkeypatch.setenv("EQUIKERNELS_WORKSPACE", workspace)
        found.append(call(inputs, graph, {"layers": layers, "order": ("sender",)}))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_memory_is_bounded_by_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = Spec(64, "silu", "batch affine"), Spec(64, "silu", "batch"), Spec(64, "relu"), Spec(1, bias=False)
    nodes = 384

    def peak(size: int, workspace: int) -> int:
        monkeypatch.setenv("EQUIKERNELS_WORKSPACE", str(workspace))
        return peak_bytes(events(nodes, size), layers)

    small, large = peak(8, 1 << 20), peak(128, 1 << 20)
    edges = nodes * (128 - 8)
    assert (large - small) / edges < 1  # of 256 bytes that the output of a layer takes
    assert peak(128, 1 << 23) > large + (1 << 22)


@pytest.mark.parametrize("text", ["many", "0", "-1", "1e6", "12 "])
def test_a_workspace_that_is_no_number_of_bytes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIKERNELS_WORKSPACE", text)
    case = everything("complete")
    with pytest.raises(RuntimeError, match="EQUIKERNELS_WORKSPACE: expected a number of bytes, got"):
        case.run(case.inputs(), case.graph())


def modules() -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    made = [
        nn.Sequential(nn.Linear(9, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 7), nn.BatchNorm1d(7), nn.SiLU())
        for _ in range(2)
    ]
    made[1].load_state_dict(made[0].state_dict())
    return made[0], made[1]


@pytest.mark.parametrize("op", ["message_passing", "row_mlp"])
def test_running_averages_of_every_norm(op: str) -> None:
    graph = GRAPHS["random_sparse"]()
    h, edge_attr, rows = torch.randn(40, 3), torch.randn(700, 3), torch.randn(50, 9)
    found = []
    for backend, net in zip(("auto", "reference"), modules(), strict=True):
        mlp = ek.EdgeMLP.of(net, order=("receiver", "sender", "edge_attr"))
        with ek.use_backend(backend):
            if op == "row_mlp":
                ek.row_mlp(mlp, rows)
            else:
                ek.message_passing(mlp, graph, h=h, edge_attr=edge_attr)
        found.append(net.state_dict())
    for name, buffer in found[0].items():
        torch.testing.assert_close(buffer, found[1][name], rtol=1e-5, atol=1e-6)
        assert "running_mean" not in name or buffer.any()


def test_statistics_of_every_norm_alone() -> None:
    """And gradients through them."""
    graph = GRAPHS["random_sparse"]()
    layers = Spec(20, "silu", "batch affine"), Spec(7, "tanh"), Spec(5, "silu", "batch")
    inputs = edge_inputs(*layers)(torch.Generator().manual_seed(0), graph)
    options = {"layers": layers, "messages": "none", "wanted": "statistics"}
    with ek.use_backend("reference"):
        expected = call(inputs, graph, options)
        cotangent = cotangent_for(expected)
        right = value_and_grads(lambda i: call(i, graph, options), inputs, cotangent)
    assert expected.shape == (2, 25)
    for a, b in zip(value_and_grads(lambda i: call(i, graph, options), inputs, cotangent), right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    "case", [everything("sparse"), next(c for c in select("sparse", op="row_mlp") if c.measures)], ids=str
)
def test_opcheck(case: Case) -> None:
    graph = case.graph()
    assert graph.num_edges > 0
    inputs = require_grad(case.inputs())
    with RecordOps() as record:
        out = case.run(inputs, graph)
        torch.autograd.grad(out.sum(), list(inputs.values()), allow_unused=True)
    assert record.calls
    for op, args in record.calls:
        torch.library.opcheck(op, fresh(args))


def test_gradients_not_wanted() -> None:
    """Of some inputs alone."""
    case = everything("sparse")
    inputs, graph = case.inputs(), case.graph()
    cotangent = cotangent_for(case.run(inputs, graph))
    full = dict(zip(inputs, value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)[1:], strict=True))
    for name in inputs:
        leaf: Tensor = inputs[name].clone().requires_grad_()
        (grad,) = torch.autograd.grad(case.run(inputs | {name: leaf}, graph), leaf, cotangent)
        torch.testing.assert_close(grad, full[name], rtol=1e-12, atol=1e-13)
