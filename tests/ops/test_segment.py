"""Tests segment_reduce, gather_segment_reduce and segment_softmax beyond the generic checks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import equikernels as ek

from ..support.cases import GRAPHS
from ..support.tools import RecordOps

REDUCTIONS = ("sum", "mean", "max", "min")
HALVES = (torch.bfloat16, torch.float16)
# Around the lengths of SIMD rows and panels of every instruction set; 0 and 1 among them.
CHANNELS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 24, 31, 33, 48, 72, 97, 130)


def star(values: list[float], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ek.Graph]:
    """One node that receives from all others, in this order, and one that receives nothing."""
    n = len(values)
    edges = torch.stack([torch.arange(n), torch.zeros(n, dtype=torch.int64)])
    return torch.tensor(values, dtype=dtype)[:, None], ek.Graph.from_edge_index(edges, n + 1)


def on_reference(function: Callable[[], Tensor]) -> Tensor:
    with ek.use_backend("reference"):
        return function()


@pytest.mark.parametrize("reduce", REDUCTIONS)
@pytest.mark.parametrize("graph_name", ["sparse", "random_sparse", "complete", "no_edges"])
def test_gives_what_scatter_of_pyg_gives(reduce: str, graph_name: str, backend: str) -> None:
    utils = pytest.importorskip("torch_geometric.utils")
    graph = GRAPHS[graph_name]()
    values = torch.randn(graph.num_edges, 6, dtype=torch.float64).round(decimals=1)  # with ties
    values[:1, :2] = torch.tensor([float("nan"), float("-inf")])
    expected = utils.scatter(values, graph.receiver, 0, graph.num_nodes, reduce)
    torch.testing.assert_close(ek.segment_reduce(values, graph, reduce), expected, equal_nan=True)
    nodes, weight = torch.randn(graph.num_nodes, 6).double(), torch.randn(graph.num_edges).double()
    expected = utils.scatter(weight[:, None] * nodes[graph.sender], graph.receiver, 0, graph.num_nodes, reduce)
    torch.testing.assert_close(ek.gather_segment_reduce(nodes, graph, weight, reduce), expected)


def test_softmax_gives_what_pyg_gives(backend: str) -> None:
    utils = pytest.importorskip("torch_geometric.utils")
    graph = GRAPHS["random_sparse"]()
    values = 30 * torch.randn(graph.num_edges, 5, dtype=torch.float64)
    expected = utils.softmax(values, graph.receiver, num_nodes=graph.num_nodes)
    torch.testing.assert_close(ek.segment_softmax(values, graph), expected)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALVES], ids=str)
def test_every_channel_count(channels: int, dtype: torch.dtype, backend: str, poisoned: None) -> None:
    graph = GRAPHS["sparse"]()
    values = torch.randn(graph.num_edges, channels).to(dtype).requires_grad_()
    nodes = torch.randn(graph.num_nodes, channels).to(dtype).requires_grad_()
    weight = torch.randn(graph.num_edges).to(dtype).requires_grad_()
    weights = torch.randn(graph.num_edges, channels).to(dtype).requires_grad_()
    calls: list[tuple[Callable[[], Tensor], list[Tensor]]] = [(lambda: ek.segment_softmax(values, graph), [values])]
    for reduce in REDUCTIONS:
        calls += [
            (lambda r=reduce: ek.segment_reduce(values, graph, r), [values]),
            (lambda r=reduce: ek.gather_segment_reduce(nodes, graph, None, r), [nodes]),
            (lambda r=reduce: ek.gather_segment_reduce(nodes, graph, weight, r), [nodes, weight]),
            (lambda r=reduce: ek.gather_segment_reduce(nodes, graph, weights, r), [nodes, weights]),
        ]
    tolerance = 8 * torch.finfo(dtype).eps
    for call, inputs in calls:
        out, expected = call(), on_reference(call)
        assert out.dtype == dtype
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
        cotangent = torch.randn(out.shape).to(dtype)
        grads = torch.autograd.grad(out, inputs, cotangent)
        expected_grads = torch.autograd.grad(expected, inputs, cotangent)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            # the dot product over channels is summed in another order, and mean's gradient may be rounded twice
            bound = tolerance * max(1, channels) ** 0.5
            torch.testing.assert_close(grad, expected_grad, rtol=bound, atol=bound)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_16_bit_values_are_added_in_float32_and_rounded_once(dtype: torch.dtype, backend: str) -> None:
    # 4096 ones sum to 4096; a 16-bit sum would stop at 256 or 2048
    values, graph = star([1.0] * 4096, dtype)
    for channels in (1, 40):
        assert (ek.segment_reduce(values.repeat(1, channels), graph)[0] == 4096).all()
    for seed in range(3):
        torch.manual_seed(seed)
        values, graph = star((100 * torch.randn(300)).tolist(), dtype)
        wide = ek.segment_reduce(values.repeat(1, 33).float(), graph)
        assert torch.equal(ek.segment_reduce(values.repeat(1, 33), graph), wide.to(dtype))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_every_16_bit_number_survives(dtype: torch.dtype, backend: str) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    graph = ek.Graph.from_edge_index(torch.zeros(2, 2, dtype=torch.int64), 1)
    for rows in (every.view(1, -1), every.view(-1, 1)[:3000].T):
        once = ek.segment_reduce(torch.cat([rows, torch.zeros_like(rows)]), graph, "sum")
        torch.testing.assert_close(once, rows, rtol=0, atol=0, equal_nan=True)
    # sums that lie between two of them, are too large, or too small
    weight = torch.tensor([1.0, 1 / 3]).to(dtype)
    nodes = every[None]
    expected = (nodes.float() * weight[0].float() + nodes.float() * weight[1].float()).to(dtype)
    result = ek.gather_segment_reduce(nodes, graph, weight)
    torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("reduce", "values", "winner"),
    [
        ("max", [1.0, 3.0, 3.0, 2.0], 1),
        ("min", [2.0, 1.0, 5.0, 1.0], 1),
        ("max", [-0.0, 0.0], 0),
        ("max", [float("-inf"), float("-inf")], 0),
        ("min", [float("inf")], 0),
        ("max", [1.0, float("nan"), 9.0, float("nan")], 1),
        ("min", [float("nan"), 1.0, float("-inf")], 0),
    ],
)
def test_of_equals_the_first_edge_has_the_gradient(reduce: str, values: list[float], winner: int, backend: str) -> None:
    column, graph = star(values)

    def check(out: Tensor, leaf: Tensor) -> None:
        channels = out.shape[1]
        torch.testing.assert_close(out[0], column[winner].expand(channels), equal_nan=True)
        assert (out[1] == 0).all()
        grad = torch.autograd.grad(out, leaf, torch.ones_like(out))[0]
        assert grad[winner].eq(1).all()
        assert grad.sum() == channels

    for channels in (1, 20):
        edges = column.repeat(1, channels).requires_grad_()
        nodes = torch.cat([column, torch.zeros(1, 1)]).repeat(1, channels).requires_grad_()
        for name in ("auto", "reference"):
            with ek.use_backend(name):
                check(ek.segment_reduce(edges, graph, reduce), edges)
                check(ek.gather_segment_reduce(nodes, graph, None, reduce), nodes)


def test_masked_edges_have_no_share(backend: str) -> None:
    for dtype in (torch.float32, torch.float64, *HALVES):
        for channels in (1, 3, 40):
            column, graph = star([0.0, float("-inf"), 0.0, -1e4, float("-inf")], dtype)
            shares = ek.segment_softmax(column.repeat(1, channels), graph)
            assert shares[:, -1].tolist() == [0.5, 0.0, 0.5, 0.0, 0.0]
            for row in ([float("-inf")] * 2, [float("inf"), 0.0], [float("nan"), 0.0]):
                column, graph = star(row, dtype)
                assert ek.segment_softmax(column.repeat(1, channels), graph).isnan().all()


def test_softmax_of_large_values_does_not_overflow(backend: str) -> None:
    column, graph = star([3e38, 3e38, -3e38])
    assert ek.segment_softmax(column, graph).flatten().tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("graph_name", ["complete", "self_loops", "sparse", "random_sparse", "csr"])
@pytest.mark.parametrize("masked", [False, True])
def test_kernels_are_adjoint(graph_name: str, masked: bool, backend: str) -> None:
    graph = GRAPHS[graph_name]()
    n, e, channels = graph.num_nodes, graph.num_edges, 21
    key = graph.table, e, graph._kind
    ops = torch.ops.equikernels
    u, v = torch.randn(2, n, channels, dtype=torch.float64)
    values = torch.randn(e, channels, dtype=torch.float64)
    arg = ops.segment_extremum(values, None, *key, n, 0, True)[1] if masked else None
    gathered = ops.gather_to_edges(u, arg, *key)
    total = ops.segment_sum(values, None, arg, *key, n, 0, False)
    torch.testing.assert_close((gathered * values).sum(), (u * total).sum())
    for weight in (torch.randn(e).double(), values):
        here = ops.segment_sum(v, weight, arg, *key, n, 1, False)
        back = ops.segment_sum(u, weight, arg, *key, n, 2, False)
        product = ops.edge_dot(u, v, arg, *key, weight.dim() == 2)
        torch.testing.assert_close((u * here).sum(), (back * v).sum())
        torch.testing.assert_close((u * here).sum(), (weight * product).sum())


@pytest.mark.parametrize("graph_name", ["complete", "sparse"])
def test_all_orders_come_from_kernels(graph_name: str) -> None:
    graph = GRAPHS[graph_name]()
    nodes = torch.randn(graph.num_nodes, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(graph.num_edges, 2, dtype=torch.float64, requires_grad=True)

    def gradient_of(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
        return lambda *inputs: torch.autograd.grad(function(*inputs).sin().sum(), inputs, create_graph=True)

    for reduce in REDUCTIONS:
        third = gradient_of(lambda v, w, r=reduce: ek.gather_segment_reduce(v, graph, w, r))
        assert torch.autograd.gradgradcheck(third, (nodes, weight))
    assert torch.autograd.gradgradcheck(gradient_of(lambda w: ek.segment_softmax(w, graph)), (weight,))
    with RecordOps() as record:
        grads = gradient_of(lambda v, w: ek.gather_segment_reduce(v, graph, w, "max"))(nodes, weight)
        torch.autograd.grad(sum(g.square().sum() for g in grads), (nodes, weight))
    names = [op.__name__.split(".")[0] for op, _ in record.calls]
    assert names[:3] == ["segment_extremum", "segment_sum", "edge_dot"]
    assert len(names) > 5  # also the second order


def everything(graph: ek.Graph) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    nodes = torch.randn(graph.num_nodes, 19, generator=generator).requires_grad_()
    weight = torch.randn(graph.num_edges, generator=generator).requires_grad_()
    values = torch.randn(graph.num_edges, 19, generator=generator).requires_grad_()
    outs = [ek.segment_softmax(values, graph)]
    for reduce in REDUCTIONS:
        outs += [ek.segment_reduce(values, graph, reduce), ek.gather_segment_reduce(nodes, graph, weight, reduce)]
    return [*outs, *torch.autograd.grad(sum(out.square().sum() for out in outs), (nodes, weight, values))]


def test_results_do_not_depend_on_threads(backend: str) -> None:
    generator = torch.Generator().manual_seed(2)
    edges = (torch.rand(2, 30_000, generator=generator) ** 3 * 700).long()  # a few nodes have most edges
    threads = torch.get_num_threads()
    for graph in (ek.Graph.from_edge_index(edges, 700), ek.Graph.complete(torch.tensor([0, 90, 91, 91, 180, 260]))):
        first = everything(graph)
        try:
            for count in (1, 2, 3, 7):
                torch.set_num_threads(count)
                assert all(torch.equal(a, b) for a, b in zip(first, everything(graph), strict=True)), count
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_extrema_compile_and_transform(reduce: str) -> None:
    torch._dynamo.reset()
    graph = GRAPHS["sparse"]()
    nodes = torch.randn(graph.num_nodes, 3, dtype=torch.float64)
    weight = torch.randn(graph.num_edges, dtype=torch.float64)

    def step(nodes: Tensor, weight: Tensor, graph: ek.Graph) -> Tensor:
        gathered = ek.gather_segment_reduce(nodes, graph, weight, reduce)
        return gathered.sin().sum() + ek.segment_reduce(weight.cos(), graph, reduce).square().sum()

    inputs = nodes.requires_grad_(), weight.requires_grad_()
    expected = torch.autograd.grad(step(*inputs, graph), inputs)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs, graph), inputs), expected)
    gradient = torch.func.grad(step, argnums=(0, 1))(nodes.detach(), weight.detach(), graph)
    torch.testing.assert_close(gradient, expected)


def test_autocast() -> None:
    graph = GRAPHS["sparse"]()
    nodes, weight = torch.randn(graph.num_nodes, 4, dtype=torch.bfloat16), torch.randn(graph.num_edges)
    with pytest.raises(TypeError, match="gather_segment_reduce: weight: expected dtype bfloat16, got float32"):
        ek.gather_segment_reduce(nodes, graph, weight)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = ek.gather_segment_reduce(nodes, graph, weight)
        assert ek.segment_softmax(weight.bfloat16(), graph).dtype == torch.float32
        assert ek.segment_reduce(weight.bfloat16(), graph).dtype == torch.bfloat16
    assert torch.equal(mixed, ek.gather_segment_reduce(nodes.float(), graph, weight))


GRAPH = GRAPHS["sparse"]()  # 7 nodes, 12 edges


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ek.segment_reduce([1.0], GRAPH), TypeError, "segment_reduce: values: expected a tensor, got list"),
        (
            lambda: ek.segment_reduce(torch.ones(11, 2), GRAPH),
            ValueError,
            "values: expected 12 rows, one per edge",
        ),
        (lambda: ek.segment_reduce(torch.ones(12, 2, 2), GRAPH), ValueError, r"values: expected shape \[E, C\] or"),
        (lambda: ek.segment_reduce(torch.ones(12, 2).long(), GRAPH), TypeError, "values: expected dtype float32"),
        (
            lambda: ek.segment_reduce(torch.ones(12, 2), GRAPH, "median"),
            ValueError,
            "reduce: expected one of sum",
        ),
        (
            lambda: ek.segment_reduce(torch.ones(12, 2), None),
            TypeError,
            "graph: expected an equikernels.Graph",
        ),
        (lambda: ek.segment_softmax(torch.ones(3), GRAPH), ValueError, "segment_softmax: values: expected 12 rows"),
        (lambda: ek.gather_segment_reduce(torch.ones(6, 2), GRAPH), ValueError, "graph: expected 6 nodes, got 7"),
        (
            lambda: ek.gather_segment_reduce(torch.ones(7), GRAPH),
            ValueError,
            r"gather_segment_reduce: node_values: expected shape \[n, C\], got \[7\]",
        ),
        (
            lambda: ek.gather_segment_reduce(torch.ones(7, 2), GRAPH, torch.ones(12, 3)),
            ValueError,
            r"weight: expected shape \[E\], \[E, 1\] or \[E, 2\], got \[12, 3\]",
        ),
        (
            lambda: ek.gather_segment_reduce(torch.ones(7, 2), GRAPH, torch.ones(11)),
            ValueError,
            "weight: expected 12 rows",
        ),
        (
            lambda: ek.gather_segment_reduce(torch.ones(7, 2), GRAPH, torch.ones(12).double()),
            TypeError,
            "weight: expected dtype float32, got float64",
        ),
        (
            lambda: ek.gather_segment_reduce(torch.ones(7, 2, device="meta"), GRAPH),
            ValueError,
            "graph: expected device meta, got cpu",
        ),
    ],
)
def test_errors_name_op_and_argument(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
