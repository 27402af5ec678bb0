"""The CUDA kernels, emulated on the CPU (cuda_on_cpu/): the same cases and the same rule as for every backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.metric import Metric
from equikernels.ops.edge_network.spec import EdgeOptions, EdgeTensors, cuda_limit
from equikernels.ops.message import op as message_op
from equikernels.ops.rank2 import fused, rows
from equikernels.ops.rank2 import op as rank2_op
from equikernels.ops.rank2 import reference as rank2_reference

from .cases import (
    CASES,
    GRAPHS,
    LARGE,
    MESSAGE_WEIGHTS,
    TYPICAL,
    Case,
    Inputs,
    four_vectors,
    message_inputs,
    select,
)
from .edge_network_cases import network_inputs
from .emulator import COMPILER, Emulator
from .golden import jets
from .tools import assert_as_good_as_eager, cotangent_for, reference, value_and_grads

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no g++ on the PATH"),
    pytest.mark.skipif(ek._native.cpu_reason is not None, reason=str(ek._native.cpu_reason)),
    pytest.mark.filterwarnings("ignore:Warning only once for all operators"),  # the override is the point
]
# Ops that launch a kernel of ours on CUDA, and what is made of them.
EMULATED = (
    "pairwise_invariants", "message_statistics", "coordinate_update", "edge_network", "message_passing",
    "segment_reduce", "gather_segment_reduce", "segment_softmax", "rank2_reduce", "rank2_broadcast", "aggregate_2to2",
    "aggregate_2to1", "aggregate_2to0", "aggregate_1to2", "linear_2to2", "encode_invariants",
)  # fmt: skip


def over(cases: list[Case]) -> pytest.MarkDecorator:
    cases = [case for case in cases if case.op in EMULATED]
    return pytest.mark.parametrize("case", cases, ids=[str(case) for case in cases])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Emulator:
    base = tmp_path_factory.getbasetemp()
    return Emulator(base if worker_id == "master" else base.parent)  # one build for all test processes


@pytest.fixture
def emulator(built: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    monkeypatch.setattr(fused, "use_shortcut", lambda *_: False)  # as on CUDA, where the layer is made of other ops
    with built.installed():
        yield built


def test_every_cuda_op_is_emulated(built: Emulator) -> None:
    table = (Path(__file__).parents[1] / "csrc" / "cuda_ops.h").read_text()
    assert len(built.ops) == table.count("m.impl(")


def check(case: Case, graph: ek.Graph, exact: Inputs) -> None:
    oracle_inputs = {name: t.double() for name, t in exact.items()}
    dtype = max((t.dtype for t in exact.values()), key=lambda dtype: dtype.itemsize)
    cotangent = cotangent_for(reference(case, oracle_inputs, graph)).to(dtype)
    oracle = value_and_grads(lambda i: reference(case, i, graph), oracle_inputs, cotangent.double())
    eager = value_and_grads(lambda i: reference(case, i, graph), exact, cotangent)
    result = value_and_grads(lambda i: case.run(i, graph), exact, cotangent)
    assert_as_good_as_eager(result, eager, oracle, ["out", *exact], case.weights)


@over(CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients(case: Case, dtype: torch.dtype, emulator: Emulator, poisoned: None) -> None:
    if case.op == "message_passing" and dtype == torch.float64:
        pytest.skip("tensor cores take float32")
    graph = case.graph()
    before = emulator.launches
    check(case, graph, case.inputs(dtype))
    assert emulator.launches > before or graph.num_nodes == 0


# 72 channels on the large graphs add nothing but time
@over([c for c in select(*TYPICAL, *LARGE) if c.id != "wide" or c.op != "message_passing" or c.graph_name in TYPICAL])
def test_no_order_of_blocks_and_threads_changes_a_bit(case: Case, emulator: Emulator) -> None:
    graph = case.graph()
    inputs = case.inputs(torch.float32)
    cotangent = cotangent_for(case.run(inputs, graph))

    def run(seed: int, most_blocks: int = 0) -> list[Tensor]:
        with emulator.schedule(seed, most_blocks):
            return value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)

    first = run(0)
    for seed, most_blocks in ((1, 0), (2, 0), (3, 1), (0, 3)):  # a capped grid strides
        for a, b in zip(first, run(seed, most_blocks), strict=True):
            assert torch.equal(a, b), f"order {seed}, at most {most_blocks} blocks"


@pytest.mark.parametrize("name", ["complete", "csr"])
@pytest.mark.parametrize("options", [{}, {"reduce": "mean", "coordinate_reduce": "sum", "activation": "tanh"}], ids=str)
def test_messages_of_three_layers_and_float64_coordinates(
    name: str, options: dict[str, Any], emulator: Emulator
) -> None:
    """Everything at once, at odd widths, with a cotangent for every output."""
    graph = GRAPHS[name]()
    made = message_inputs(70, 9, 33, attr=3, head=41)(torch.Generator().manual_seed(3), graph)
    made["x"] = made["x"] * 30
    options = {"metric": "minkowski", "clamp": 40.0, "activation": "silu", **options}

    def run(inputs: dict[str, Tensor]) -> Tensor:
        i = inputs
        layers = [(i["weight2"], i["bias2"]), (i["weight3"], i["bias3"])]
        given = {k: i[k] for k in ("invariant_weight", "edge_attr", "edge_weight")}
        out = ek.message_passing(
            i["receiver"], i["sender"], i["x"], graph, **given, layers=layers, gate=(i["gate_weight"], i["gate_bias"]),
            head=(i["head_weight"], i["head_bias"], i["head_out"]), **options, return_edges=True,
        )  # fmt: skip
        return torch.cat([t.double().flatten() for t in out if t is not None])

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
    assert_as_good_as_eager(result, eager, oracle, ["out", *exact], MESSAGE_WEIGHTS)


@pytest.mark.parametrize("id", ["wide", "relu", "deep"])
def test_messages_of_bfloat16(id: str, emulator: Emulator) -> None:
    (case,) = (c for c in select("complete", op="message_passing") if c.id == id)
    case = replace(case, options={**case.options, "precision": "bfloat16"})
    inputs, graph = case.inputs(torch.float32), case.graph()
    result, expected = case.run(inputs, graph), reference(case, inputs, graph)
    # Where a sum ends a rounding apart, its bfloat16 may too
    assert (result - expected).abs().max() <= 2e-3 * expected.abs().max()
    assert (result - expected).abs().median() <= 1e-6 * expected.abs().max()


def test_messages_in_tf32_where_pytorch_may(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = (c for c in select("complete", op="message_passing") if c.id == "wide")
    inputs, graph = case.inputs(torch.float32), case.graph()
    expected = reference(case, inputs, graph)
    cotangent = cotangent_for(expected)
    exact = value_and_grads(lambda i: reference(case, i, graph), inputs, cotangent)
    monkeypatch.setattr(message_op, "allows_tf32", lambda t: True)
    found = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True)]
    assert 1e-5 < errors[0] < 1e-2
    assert 1e-5 < max(errors[1:]) < 1e-2  # biases need no product


def test_weights_of_messages_from_more_blocks_than_there_are_shares(emulator: Emulator) -> None:
    """Blocks take more than one group of nodes then."""
    ptr = torch.arange(17000)
    ptr[9000:] += 1  # one event of two particles, in the midst of lone ones
    ptr[16990:] += 6
    graph = ek.Graph.complete(ptr)
    made = message_inputs(3, 3, columns=1, gate=False)(torch.Generator().manual_seed(3), graph)
    tensors = {k: v.float().requires_grad_(k != "x") for k, v in made.items()}

    def gradients() -> list[Tensor]:
        tables = tensors["receiver"], tensors["sender"], tensors["x"]
        layer = tensors["weight2"], tensors["bias2"]
        out = ek.message_passing(
            *tables, graph, invariant_weight=tensors["invariant_weight"], invariants="product", layers=[layer]
        )[0]
        return list(torch.autograd.grad(out.square().sum(), [t for k, t in tensors.items() if k != "x"]))

    found = gradients()
    with ek.use_backend("reference"):
        expected = gradients()
    for a, b in zip(found, expected, strict=True):
        assert b.any()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


WIDTHS = (1, 8, 13, 72, 131, 516)  # every layout of a block: many rows at a time, 16 bytes and not, several passes


@pytest.mark.parametrize(
    ("width", "dtype"),
    [(w, d) for d in (torch.float32, torch.float64) for w in WIDTHS]
    + [(w, d) for d in (torch.bfloat16, torch.float16) for w in (13, 72)],
    ids=str,
)
def test_rank2_of_any_width(width: int, dtype: torch.dtype, emulator: Emulator, poisoned: None) -> None:
    longest = 11 if width > 500 else 70  # wider than a block takes: sums of rows come in parts
    pairs = ek.Graph.complete(torch.tensor([0, 3, 3, 4, 4 + longest, 5 + longest, 14 + longest])).pairs
    T = torch.randn(pairs.num_edges, width, dtype=dtype)
    T[::7] = T[0]  # equals, of which the first counts
    weight = torch.randn(pairs.num_nodes, dtype=dtype)
    table = torch.randn(pairs.num_nodes, 3, width, dtype=dtype)
    arguments = pairs.table, pairs.num_edges, pairs._kind, pairs.num_nodes
    i, j = pairs.receiver, pairs.sender
    ops = torch.ops.equikernels

    def check(result: Tensor, formula: Callable[..., Tensor], *tensors: Tensor) -> None:
        assert_as_good_as_eager([result], [formula(*tensors)], [formula(*(t.double() for t in tensors))])

    def weighted(table: Tensor, weight: Tensor) -> Tensor:
        return weight[i, None] * table[j, 1] + weight[j, None] * table[i, 2] + (i == j)[:, None] * table[i, 0]

    for reduce in ("sum", "max", "min"):
        formula = lambda T: rank2_reference.rank2_reduce(T, pairs, reduce, None)  # noqa: B023, E731
        check(rank2_op.reduce_table(T, pairs, reduce, None), formula, T)
    formula = lambda T, weight: rank2_reference.rank2_reduce(T, pairs, "sum", weight)  # noqa: E731
    check(rank2_op.reduce_table(T, pairs, "sum", weight), formula, T, weight)
    check(rank2_op.broadcast_table(table, pairs), lambda table: rank2_reference.rank2_broadcast(table, pairs), table)
    both = weight[:, None, None].expand(-1, 2, width)
    check(ops.rank2_broadcast.default(table, both, None, *arguments[:3]), weighted, table, weight)

    # with arguments: the adjoint of the extremum, and back
    top, arg = ops.rank2_extremum.default(T, *arguments, True)
    picked = ops.rank2_sum.default(T, None, arg, *arguments)
    assert torch.equal(picked, top)
    spread = ops.rank2_broadcast.default(table, None, arg, *arguments[:3])
    exact = (spread.double() * T).sum(), (picked.double() * table).sum()
    torch.testing.assert_close(*exact, rtol=1e-4, atol=1e-3 if dtype in (torch.float32, torch.float64) else 1)


@pytest.mark.parametrize("reduce", ["sum", "max", "min"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rank2_bad_values(reduce: str, bad: float, emulator: Emulator) -> None:
    pairs = ek.Graph.complete(torch.tensor([0, 30, 34])).pairs
    T = torch.randn(pairs.num_edges, 67)
    T[torch.rand_like(T) < 0.01] = bad
    result = rank2_op.reduce_table(T, pairs, reduce, None)
    expected = rank2_reference.rank2_reduce(T, pairs, reduce, None)
    torch.testing.assert_close(result, expected, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [72, 35, 33, 8, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_segments_of_any_width_aligned_or_not(channels: int, dtype: torch.dtype, emulator: Emulator) -> None:
    graph = ek.Graph.from_edge_index(torch.randint(0, 9, (2, 83)), 9)
    for offset in (0, 1):  # contiguous, but not on a 16-byte boundary

        def made(rows: int) -> Tensor:
            return torch.randn(rows * channels + 1).to(dtype)[offset : rows * channels + offset].view(rows, channels)  # noqa: B023

        values, nodes, weight = made(83), made(9), made(83)
        for reduce in ("sum", "mean", "max", "min"):
            for call in (
                lambda: ek.segment_reduce(values, graph, reduce),  # noqa: B023
                lambda: ek.gather_segment_reduce(nodes, graph, weight, reduce),  # noqa: B023
            ):
                with ek.use_backend("reference"):
                    expected = call()
                torch.testing.assert_close(call(), expected)
        with ek.use_backend("reference"):
            expected = ek.segment_softmax(values, graph)
        torch.testing.assert_close(ek.segment_softmax(values, graph), expected)


@pytest.mark.parametrize("channels", [1, 3, 58, 256, 300, 1028])  # 16 bytes at a time and not, several passes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_encoder_of_any_width(channels: int, dtype: torch.dtype, emulator: Emulator, poisoned: None) -> None:
    count = 2000 if channels < 10 else 37
    z = (torch.randn(count, channels) * (3 * torch.randn(count, channels)).exp()).to(dtype)
    z[0], z[1] = 0.0, torch.finfo(dtype).max
    t = torch.linspace(0.003, 0.9, channels, dtype=dtype)
    for angles in (False, True):

        def call(inputs: dict[str, Tensor]) -> Tensor:
            return ek.encode_invariants(**inputs, angles=angles)  # noqa: B023

        def plain(inputs: dict[str, Tensor]) -> Tensor:
            with ek.use_backend("reference"):
                return call(inputs)

        inputs = {"z": z, "t": t}
        cotangent = torch.randn(count, channels)
        before = emulator.launches
        result = value_and_grads(call, inputs, cotangent)
        assert emulator.launches == before + 3
        oracle = value_and_grads(plain, {name: a.double() for name, a in inputs.items()}, cotangent)
        assert_as_good_as_eager(result, value_and_grads(plain, inputs, cotangent), oracle, ["out", "z", "t"], ["t"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_encoder_of_bad_values(bad: float, emulator: Emulator) -> None:
    z, t = torch.tensor([[bad, 1.0], [2.0, -3.0]]), torch.tensor([0.3, 0.5])
    with ek.use_backend("reference"):
        expected = ek.encode_invariants(z, t)
    torch.testing.assert_close(ek.encode_invariants(z, t), expected, equal_nan=True)


METRICS: dict[str, tuple[Metric, int]] = {
    "plane": ("euclidean", 2), "space": ("euclidean", 3), "four": ("euclidean", 4), "seven": ("euclidean", 7),
    "minkowski": ("minkowski", 4), "minkowski_3": ("minkowski", 3), "delta_r": ("delta_r", 2), "jets": ("delta_r", 4),
    "weights": ([1.0, 0.5, 0.0, 2.0, 1.0], 5),
}  # fmt: skip
EVENTS = torch.tensor([0, 3, 3, 4, 12, 80])


def search(x: Tensor, metric: Metric, k: int = 5, r: float = 1.5, loop: bool = False) -> list[Tensor]:
    """What the searches give, in a list: k nearest, those within a radius, and their distances."""
    graph, distance = ek.radius_graph(x, r, EVENTS, metric, loop=loop, return_distance=True)
    return [*ek.k_nearest(x, k, EVENTS, metric, loop=loop, radius=r), graph.edge_index, distance]


@pytest.mark.parametrize("name", METRICS)
def test_neighbours_are_those_of_the_cpu_kernels(name: str, built: Emulator, poisoned: None) -> None:
    metric, dim = METRICS[name]
    x = four_vectors(80, torch.Generator().manual_seed(0)) if dim == 4 else 2 * torch.randn(80, dim).double()
    for k, r, loop, dtype in ((5, 1.5, True, torch.float64), (34, math.inf, False, torch.float32)):
        expected = search(x.to(dtype), metric, k, r, loop)
        before = built.launches
        with built.installed():
            found = search(x.to(dtype), metric, k, r, loop)
        assert built.launches == before + 3
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))  # to the last bit


@pytest.mark.parametrize("name", ["space", "minkowski", "delta_r", "weights"])
def test_neighbours_that_tie_or_are_not_finite(name: str, emulator: Emulator) -> None:
    """Coordinates on a grid: nearly everything is a tie, and products are exact."""
    metric, dim = METRICS[name]
    x = torch.randint(0, 3, (80, dim)).double()
    x[1, 0], x[50, 1], x[77, -1] = math.nan, math.inf, -math.inf
    for k, r in ((4, 1.0), (40, 9.0)):
        with ek.use_backend("reference"):
            expected = search(x, metric, k, r)
        assert all(torch.equal(a, b) for a, b in zip(search(x, metric, k, r), expected, strict=True))


def test_no_order_of_blocks_and_threads_changes_a_neighbour(emulator: Emulator) -> None:
    x = torch.randint(0, 3, (80, 3)).double()
    first = search(x, "euclidean", 34)
    for seed, most_blocks in ((1, 0), (2, 0), (3, 1), (0, 3)):
        with emulator.schedule(seed, most_blocks):
            assert all(torch.equal(a, b) for a, b in zip(search(x, "euclidean", 34), first, strict=True))


def test_nobody_has_neighbours(emulator: Emulator) -> None:
    none = torch.zeros(0, 3)
    assert ek.k_nearest(none, 2)[0].shape == (0, 2)
    assert ek.radius_graph(none, 1.0).num_edges == 0
    assert ek.radius_graph(torch.zeros(1, 3), 1.0).num_edges == 0


def networks() -> dict[str, tuple[torch.nn.Module, Callable[[torch.nn.Module], Tensor]]]:
    p4, ptr = jets(7, 1, 12)
    jet_graph = ek.Graph.complete(ptr)
    scalars = torch.randn(20, 2, dtype=torch.float64)
    hits = torch.rand(30, 3, dtype=torch.float64)
    pelican: dict[str, Any] = {
        "num_channels_scalar": 2, "num_channels_m": [[5], [5]], "num_channels_2to2": [4, 4], "num_channels_out": [6],
        "num_channels_m_out": [5, 4], "average_nobj": 6, "batchnorm": "b", "factorize": True,
    }  # fmt: skip
    return {
        "lorentznet": (ek.models.LorentzNet(2, 8, n_layers=2), lambda model: model(p4, scalars.float(), jet_graph)),
        "pelican": (
            ek.models.PELICANClassifier(**pelican, config="s", config_out="s"),
            lambda model: model(p4, jet_graph),
        ),
        "pelican_extrema": (
            ek.models.PELICANClassifier(**pelican, config="M", config_out="M"),
            lambda model: model(p4, jet_graph),
        ),
        "euclidnet": (ek.models.EuclidNet(4, 2, 2), lambda model: model(hits, ek.knn_graph(hits, 4))),
    }


@pytest.mark.parametrize("name", ["lorentznet", "pelican", "pelican_extrema", "euclidnet"])
def test_networks_give_what_they_give_on_the_cpu(name: str, built: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    model, call = networks()[name]
    single = name == "lorentznet"  # tensor cores take float32
    model.float() if single else model.double()

    def gradients() -> list[Tensor]:
        out = call(model)
        grads = torch.autograd.grad(out.square().sum(), list(model.parameters()), allow_unused=True)
        return [out.detach(), *(g for g in grads if g is not None)]

    expected = gradients()
    before = built.launches
    for module in (fused, rows):  # of which CUDA has no C++ kernel
        monkeypatch.setattr(module, "use_shortcut", lambda *_: False)
    with built.installed():
        found = gradients()
    assert built.launches > before
    for a, b in zip(found, expected, strict=True):
        tolerance = 1e-4 if single else 1e-10
        torch.testing.assert_close(a, b, rtol=100 * tolerance, atol=tolerance * max(1.0, float(b.abs().max())))


def edge_network_case(id: str, h: int | None = None) -> Case:
    """With h, of that width: three channels, as in the list, can be so nearly equal that LayerNorm loses digits."""
    case = next(case for case in CASES if case.op == "edge_network" and case.id == id)
    if h is None:
        return case
    widths = (h, h, h, h, h, 1)
    return replace(case, options={**case.options, "widths": widths}, make=network_inputs(widths, attr=h, invariants=2))


def hub() -> ek.Graph:
    """One node hears more than a tile of edges, and some of the others nothing."""
    sender, receiver = torch.randint(0, 9, (2, 290), generator=torch.Generator().manual_seed(0))
    receiver[(receiver > 2) & (receiver < 7)] = 2
    return ek.Graph.from_edge_index(torch.stack([sender, receiver]), 9)


def lonely() -> ek.Graph:
    """Few edges, and many more nodes than a block looks at together."""
    edge_index = torch.randint(0, 400, (2, 90), generator=torch.Generator().manual_seed(0))
    return ek.Graph.from_edge_index(edge_index, 400)


def long_rows() -> ek.Graph:
    return ek.Graph.complete(torch.tensor([0, 140, 140, 143]))


@pytest.mark.parametrize("make", [hub, lonely, long_rows])
@pytest.mark.parametrize("id", ["euclidnet", "messages", "rows"])
def test_edges_of_any_number_per_node(
    id: str, make: Callable[[], ek.Graph], emulator: Emulator, poisoned: None
) -> None:
    graph = make()
    case = edge_network_case(id, 8 if id == "euclidnet" else None)
    check(case, graph, case.inputs(torch.float32, graph))
    exact = case.inputs(torch.float32, graph)
    if "x" in exact:  # float64 coordinates beside float32 features
        exact["x"] = case.inputs(torch.float64, graph)["x"]
        check(case, graph, exact)


@pytest.mark.parametrize(
    ("dtype", "h"),
    [*((torch.float32, h) for h in (1, 8, 16, 32, 64)), *((torch.float64, h) for h in (1, 8, 32))],
    ids=str,
)
def test_edge_network_of_any_width(dtype: torch.dtype, h: int, emulator: Emulator, poisoned: None) -> None:
    """Every form of the kernels: more edges at once where channels are few, weights outside where they are many."""
    case = edge_network_case("euclidnet", h)
    graph = case.graph()
    check(case, graph, case.inputs(dtype, graph))


def test_edge_network_too_large_for_shared_memory(emulator: Emulator) -> None:
    rows = ek.Graph.complete(torch.tensor([0, 3]))  # of which the edges count
    for last in (42, 43):
        widths = (64,) * 8 + (last,)
        inputs = network_inputs(widths, attr=3, ends=())(torch.Generator().manual_seed(0), rows)
        weights, edge_attr = inputs["weights"].float().requires_grad_(), inputs["edge_attr"].float()
        network = ek.EdgeNetwork(weights, 3, widths, (1,) * 9)
        options = EdgeOptions(False, [], False, False, True, list(widths), [1] * 9, 0.0, 8, -1, False, math.inf)
        limit = cuda_limit(EdgeTensors(None, None, None, edge_attr, weights), options)
        out = ek.edge_network(network, None, edge_attr=edge_attr, edges_at=8).edges
        assert out is not None
        if last == 42:
            assert limit is None
            out.sum().backward()
        else:
            assert limit is not None
            assert "layers of 555 channels in all need 101488 bytes of shared memory: at most 101376" in limit
            with pytest.raises(RuntimeError, match="shared memory"):
                out.sum().backward()


def test_edge_network_of_points_alone(emulator: Emulator, poisoned: None) -> None:
    """Eight coordinates on a layer one wide, and coordinates on which nothing depends."""
    graph = lonely()
    x = torch.randn(graph.num_nodes, 8, dtype=torch.float64).requires_grad_()
    weights = torch.randn(3, dtype=torch.float64).requires_grad_()
    for options in ({"invariants": "both", "coordinates": True}, {}):
        columns = 2 if options else 0
        network = ek.EdgeNetwork(weights[: columns + 1], columns, (1,), (5,))

        def gradients() -> list[Tensor]:
            out = ek.edge_network(network, graph, x=x, messages_at=0, **options)  # noqa: B023
            assert out.messages is not None
            total = out.messages.sum() if out.coordinates is None else (out.messages * out.coordinates).sum()
            return list(torch.autograd.grad(total, [x, weights], allow_unused=True, materialize_grads=True))

        with ek.use_backend("reference"):
            expected = gradients()
        for found, right in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
