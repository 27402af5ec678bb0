"""message_passing's CUDA kernels, emulated on the CPU: precisions, depths, widths, numbers of edges, limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels import _native
from equikernels.ops.message_passing import options as message_options
from equikernels.ops.message_passing.options import EdgeOptions

from ..support.cases import GRAPHS, select
from ..support.emulator import MARKS, TENSOR_CORES, Emulator, check
from ..support.golden import jets
from ..support.mlp_cases import FORMULA, WEIGHTS, Spec, call, edge_inputs, network
from ..support.tools import assert_as_good_as_eager, cotangent_for, reference, value_and_grads
from ..support.wide_cases import case_of, euclid_case

pytestmark = MARKS


@pytest.fixture(params=TENSOR_CORES)
def cores(request: pytest.FixtureRequest, emulator: Emulator) -> Iterator[None]:
    """Of several devices, which cut sums off in other places."""
    with emulator.tensor_cores(request.param):
        yield


@pytest.mark.parametrize("name", ["complete", "csr"])
@pytest.mark.parametrize("options", [{}, {"messages": "mean", "coordinates": "sum"}], ids=str)
def test_messages_of_three_layers_and_float64_coordinates(name: str, options: dict[str, Any], cores: None) -> None:
    """Everything at once, at odd widths, with a cotangent for every output."""
    graph, order = GRAPHS[name](), (*FORMULA, "edge_attr")
    act = "tanh" if options else "silu"
    layers = *(Spec(width, act) for width in (70, 9, 33, 41)), Spec(1, bias=False)
    made = edge_inputs(*layers, order=order, h=20, attr=3, gate=33)(torch.Generator().manual_seed(3), graph)
    made["x"] = made["x"] * 30
    given = {"layers": layers, "depth": 3, "order": order, "edges": True, "geometry": ek.Geometry(clamp=40.0)}
    given |= {"coordinates": "mean", **options}

    def run(inputs: dict[str, Tensor]) -> Tensor:
        return call(inputs, graph, given).double()

    def plain(inputs: dict[str, Tensor]) -> Tensor:
        with ek.use_backend("reference"):
            return run(inputs)

    exact = {k: v if k == "x" else v.float() for k, v in made.items()}
    oracle_inputs = {k: v.double() for k, v in exact.items()}
    cotangent = cotangent_for(plain(oracle_inputs))
    oracle = value_and_grads(plain, oracle_inputs, cotangent)
    eager, result = (value_and_grads(f, exact, cotangent) for f in (plain, run))
    for found in (eager, result):
        found[:] = [t.float() for t in found]  # float64 takes part, and is as inexact as what it meets
    assert_as_good_as_eager(result, eager, oracle, ["out", *exact], WEIGHTS)


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_as_good_as_eager(training: bool, cores: None) -> None:
    """The rule of single ops for four layers of LorentzNet, one behind the other, and all gradients."""
    p4, ptr = jets(7, 1, 12)
    model = ek.models.LorentzNet(2, 24, n_layers=4).train(training)
    given = p4, torch.randn(len(p4), 2), ek.Graph.complete(ptr)
    weights = [name for name, _ in model.named_parameters()]

    def gradients(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        x, scalars, graph = given
        out = model(x, scalars.to(dtype), graph)
        found = torch.autograd.grad(out.sin().sum(), list(model.parameters()), materialize_grads=True)
        return [out.detach(), *found]

    result = gradients(model)
    with ek.use_backend("reference"):
        eager, oracle = gradients(model), gradients(deepcopy(model).double(), torch.float64)
    assert_as_good_as_eager(result, eager, oracle, ["out", *weights], weights)


@pytest.mark.parametrize("id", ["wide", "relu", "coordinates"])
def test_messages_of_bfloat16(id: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "bfloat16_pays", True)
    case = case_of(id)
    case = replace(case, options={**case.options, "precision": "medium"})
    inputs, graph = case.inputs(torch.float32), case.graph()
    result, expected = case.run(inputs, graph), reference(case, inputs, graph)
    # Where a sum ends a rounding apart, its bfloat16 may too
    assert (result - expected).abs().max() <= 2e-3 * expected.abs().max()
    assert (result - expected).abs().median() <= 1e-6 * expected.abs().max()


def test_messages_in_tf32_where_pytorch_may(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    case = case_of("wide")
    inputs, graph = case.inputs(torch.float32), case.graph()
    expected = reference(case, inputs, graph)
    cotangent = cotangent_for(expected)
    exact = value_and_grads(lambda i: reference(case, i, graph), inputs, cotangent)
    monkeypatch.setattr(message_options, "allows_tf32", lambda t: True)
    found = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True)]
    assert 1e-5 < errors[0] < 1e-2
    assert 1e-5 < max(errors[1:]) < 1e-2  # biases need no product


def test_weights_from_more_blocks_than_there_are_partial_sums(emulator: Emulator) -> None:
    """Blocks take more than one group of nodes then."""
    ptr = torch.arange(17000)
    ptr[9000:] += 1  # one event of two particles, in the midst of lone ones
    ptr[16990:] += 6
    graph = ek.Graph.complete(ptr)
    layers = Spec(3, "relu"), Spec(3, "relu")
    made = edge_inputs(*layers, columns=1)(torch.Generator().manual_seed(3), graph)
    tensors = {k: v.float().requires_grad_(k != "x") for k, v in made.items()}
    options = {"layers": layers, "geometry": ek.Geometry(invariants="product")}

    def gradients() -> list[Tensor]:
        out = call(tensors, graph, options)
        return list(torch.autograd.grad(out.square().sum(), [t for k, t in tensors.items() if k != "x"]))

    found = gradients()
    with ek.use_backend("reference"):
        expected = gradients()
    for a, b in zip(found, expected, strict=True):
        assert b.any()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def hub() -> ek.Graph:
    """One node receives more than a tile of edges, and some of the others nothing."""
    sender, receiver = torch.randint(0, 9, (2, 290), generator=torch.Generator().manual_seed(0))
    receiver[(receiver > 2) & (receiver < 7)] = 2
    return ek.Graph.from_edge_index(torch.stack([sender, receiver]), 9)


def lonely() -> ek.Graph:
    """Few edges, and many more nodes than a block looks at together."""
    edge_index = torch.randint(0, 400, (2, 90), generator=torch.Generator().manual_seed(0))
    return ek.Graph.from_edge_index(edge_index, 400)


def long_rows() -> ek.Graph:
    return ek.Graph.complete(torch.tensor([0, 140, 140, 143]))


@pytest.mark.parametrize("id", ["lorentz", "relu", "norm and tables", "interaction"])
def test_autocast_changes_no_bit(id: str, emulator: Emulator) -> None:
    """Products over nodes, which are PyTorch's, included."""
    case = case_of(id)
    inputs, graph = case.inputs(torch.float32), case.graph()
    cotangent = cotangent_for(case.run(inputs, graph))
    expected = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    with torch.autocast("cpu", torch.bfloat16):
        found = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("make", [hub, lonely, long_rows])
@pytest.mark.parametrize("id", ["euclidnet", "layer norms", "norm and tables", "many inputs"])
def test_edges_of_any_number_per_node(
    id: str, make: Callable[[], ek.Graph], emulator: Emulator, poisoned: None
) -> None:
    graph = make()
    case = euclid_case(8) if id == "euclidnet" else case_of(id)
    exact = case.inputs(torch.float32, graph)
    check(case, graph, exact)
    exact["x"] = case.inputs(torch.float64, graph)["x"]  # float64 coordinates beside float32 features
    with emulator.filled_by(1):  # blocks of several tiles
        check(case, graph, exact)


@pytest.mark.parametrize("id", ["narrow", "given", "wide"])
def test_rows_of_any_number(id: str, emulator: Emulator, poisoned: None) -> None:
    graph = ek.Graph.complete(torch.arange(1301))  # sums of more numbers than a block takes at once
    case = next(case for case in select(op="row_mlp") if case.id == id)
    before = emulator.launches
    check(case, graph, case.inputs(torch.float32, graph))
    assert emulator.launches > before


@pytest.mark.parametrize(
    ("dtype", "h"),
    [*((torch.float32, h) for h in (1, 8, 16, 32, 64)), *((torch.float64, h) for h in (1, 8, 32))],
    ids=str,
)
def test_lanes_across_edges_at_any_width(dtype: torch.dtype, h: int, emulator: Emulator, poisoned: None) -> None:
    """Every form of the kernels: more edges at once where channels are few, weights outside where they are many."""
    case = euclid_case(h)
    graph = case.graph()
    with emulator.filled_by(0):  # a graph of a few edges would have the smallest tiles
        check(case, graph, case.inputs(dtype, graph))


@pytest.mark.parametrize("id", ["relu", "tanh", "euclidnet", "layer norms"])
@pytest.mark.parametrize("blocks", [0, 3])
def test_no_schedule_changes_a_sum_at_a_node(id: str, blocks: int, emulator: Emulator, poisoned: None) -> None:
    """Nodes of a warp and edges of a tile follow the size of the graph; only gradients of weights depend on them."""
    case = case_of(id)
    graph = case.graph()
    inputs = case.inputs(torch.float32)
    cotangent = cotangent_for(case.run(inputs, graph))
    expected = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    with emulator.filled_by(blocks):
        found = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
        check(case, graph, inputs)
    for name, a, b in zip(["out", *inputs], found, expected, strict=True):
        assert name in case.weights or torch.equal(a, b), name


def plan(mlp: ek.EdgeMLP, attr: int = 0) -> str:
    ints, numbers = EdgeOptions.of(mlp, ek.Geometry(), 4, "sum", "none", False).encoded()
    return str(torch.ops.equikernels.message_passing_plan_cuda(list(mlp.shape(attr)), ints, numbers))


@pytest.mark.parametrize(
    ("width", "attr", "dtype", "expected"),
    [
        (72, 32, torch.float32, "0"),
        (73, 1, torch.float32, "3"),
        (8, 33, torch.float32, "3"),
        (8, 1, torch.float64, "3"),
        (0, 1, torch.float64, "a layer without channels"),
    ],
)
def test_networks_with_a_gate_of_more_than_a_block_takes_run_on_tiles(
    width: int, attr: int, dtype: torch.dtype, expected: str, emulator: Emulator
) -> None:
    gate = ek.Layer(torch.zeros(1, width, dtype=dtype), None, "sigmoid")
    layer = ek.Layer(torch.zeros(width, attr, dtype=dtype), None, "relu")
    assert plan(ek.EdgeMLP.of([layer], gate=gate, order=["edge_attr"]), attr) == expected


def test_layers_too_large_for_shared_memory_run_on_tiles(emulator: Emulator) -> None:
    """The largest network that a block has room for runs, and so does the next one."""
    generator = torch.Generator().manual_seed(0)
    graph = ek.Graph.complete(torch.tensor([0, 3]))

    def made(last: int) -> tuple[tuple[Spec, ...], dict[str, Tensor]]:
        layers = *(Spec(64, "silu", "layer") for _ in range(8)), *(Spec(1) for _ in range(last))
        return layers, edge_inputs(*layers)(generator, graph)

    plans = {}
    for last in range(1, 60):
        layers, inputs = made(last)
        plans[last] = plan(network({k: v.float() for k, v in inputs.items()}, layers))
        if plans[last] == "3":
            break
    assert last > 1
    assert plans[last] == "3"
    for count in (last - 1, last):
        layers, inputs = made(count)
        leaves = {k: v.float().requires_grad_() for k, v in inputs.items()}
        before = emulator.launches
        call(leaves, graph, {"layers": layers}).sum().backward()
        assert emulator.launches > before


def test_points_alone(emulator: Emulator, poisoned: None) -> None:
    """Eight coordinates on a layer one wide."""
    graph = lonely()
    x = torch.randn(graph.num_nodes, 8, dtype=torch.float64).requires_grad_()
    weight, bias = torch.randn(1, 2, dtype=torch.float64).requires_grad_(), torch.randn(1).double().requires_grad_()
    mlp = ek.EdgeMLP.of([ek.Layer(weight, bias, "tanh")], head=[ek.Layer(weight[:, :1])], order=["invariants"])

    def gradients() -> list[Tensor]:
        out = ek.message_passing(mlp, graph, x=x, coordinates="sum")
        assert out.messages is not None
        assert out.coordinates is not None
        return list(torch.autograd.grad((out.messages * out.coordinates).sum(), [x, weight, bias]))

    with ek.use_backend("reference"):
        expected = gradients()
    for found, right in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
