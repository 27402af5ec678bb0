"""Neighbour searches against every pair, in float64 or exactly."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import equikernels as ek

from ..support.cases import four_vectors
from ..support.tools import RecordOps, boost

METRICS = {"euclidean": 3, "minkowski": 4, "delta_r": 2}
PTR = torch.tensor([0, 3, 3, 4, 43, 51])


def points(metric: str, n: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if metric == "minkowski":
        return four_vectors(n, generator).to(dtype)
    x = torch.randn(n, METRICS[metric], generator=generator, dtype=torch.float64)
    return (2 * x).to(dtype)


def distance2(a: list[float], b: list[float], metric: str) -> float:
    d = [u - v for u, v in zip(a, b, strict=True)]
    if metric == "delta_r":
        d[1] = math.remainder(d[1], 2 * math.pi)
    signs = [1] + [-1 if metric == "minkowski" else 1] * (len(d) - 1)
    return abs(sum(s * v * v for s, v in zip(signs, d, strict=True)))


def brute(
    x: Tensor, ptr: Tensor, metric: str, k: int | None = None, r: float = math.inf, loop: bool = False
) -> list[list[tuple[float, int]]]:
    """(distance squared, node), nearest first, one list per node, in plain Python."""
    rows = x.double().tolist()
    result = []
    for first, last in pairwise(ptr.tolist()):
        for i in range(first, last):
            pairs = [(distance2(rows[i], rows[j], metric), j) for j in range(first, last) if loop or i != j]
            near = sorted(pair for pair in pairs if pair[0] <= r * r and math.isfinite(pair[0]))
            result.append(near[:k])
    return result


def edges(found: list[list[tuple[float, int]]]) -> Tensor:
    rows = [(j, i) for i, near in enumerate(found) for _, j in near]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).t()


def knn_edges(x: Tensor, k: int, ptr: Tensor, metric: str, **options: object) -> Tensor:
    return ek.knn_graph(x, k, ptr, metric, **options).edge_index  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 4, 16, 32, 40])
@pytest.mark.parametrize("loop", [False, True])
def test_k_nearest(metric: str, k: int, loop: bool, dtype: torch.dtype, backend: str, poisoned: None) -> None:
    x = points(metric, 51, dtype)
    index, distance = ek.k_nearest(x, k, PTR, metric, loop=loop)
    assert index.shape == distance.shape == (51, k)
    assert distance.dtype == dtype
    for i, near in enumerate(brute(x, PTR, metric, k, loop=loop)):
        assert index[i].tolist() == [j for _, j in near] + [-1] * (k - len(near))
        expected = torch.tensor([d for d, _ in near], dtype=torch.float64).sqrt()
        torch.testing.assert_close(distance[i, : len(near)], expected.to(dtype), rtol=2e-7, atol=1e-14)
        assert torch.isinf(distance[i, len(near) :]).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("r", [0.0, 0.4, 2.0, math.inf])
def test_radius_graph(metric: str, r: float, backend: str) -> None:
    x = points(metric, 51)
    for most in (None, 3, 1000):
        graph, distance = ek.radius_graph(x, r, PTR, metric, max_num_neighbors=most, return_distance=True)
        found = brute(x, PTR, metric, most, r)
        assert torch.equal(graph.edge_index, edges(found))
        expected = torch.tensor([d for near in found for d, _ in near], dtype=torch.float64).sqrt()
        torch.testing.assert_close(distance, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("metric", METRICS)
def test_the_reference_is_the_same(metric: str, backend: str) -> None:
    x = points(metric, 700, torch.float32)  # large enough for a search along one coordinate
    ptr = torch.tensor([0, 640, 700])
    for loop in (False, True):
        results = []
        for name in ("auto", "reference"):
            with ek.use_backend(name):
                nearest = ek.k_nearest(x, 20, ptr, metric, loop=loop, radius=1.5)
                graph, distance = ek.radius_graph(x, 0.3, ptr, metric, loop=loop, return_distance=True)
                results.append([*nearest, graph.edge_index, distance])
        for kernel, reference in zip(*results, strict=True):
            assert torch.equal(kernel, reference)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 5, 17, 64, 530]), max_size=4),
    levels=st.sampled_from([1, 2, 5, 1000]),
    metric=st.sampled_from([*METRICS, "weights"]),
    k=st.sampled_from([1, 3, 8, 9, 16, 33, 100]),
    r=st.sampled_from([0.0, 1.0, 3.0, math.inf]),
    loop=st.booleans(),
    bad=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_anything(
    counts: list[int], levels: int, metric: str, k: int, r: float, loop: bool, bad: bool, seed: int
) -> None:
    """Coordinates on a grid: nearly everything is a tie, and products are exact."""
    generator = torch.Generator().manual_seed(seed)
    ptr = torch.tensor([0, *counts]).cumsum(0)
    x = torch.randint(0, levels, (sum(counts), METRICS.get(metric, 5)), generator=generator).double()
    if bad and x.numel():
        places = torch.randint(0, x.numel(), (3,), generator=generator)
        x.view(-1)[places] = torch.tensor([math.nan, math.inf, -math.inf], dtype=torch.float64)
    eta = [1.0, 0.5, 0.0, 2.0, 1.0] if metric == "weights" else metric
    results = []
    for name in ("auto", "reference"):
        with ek.use_backend(name):
            graph = ek.radius_graph(x, r, ptr, eta, loop=loop)
            results.append([*ek.k_nearest(x, k, ptr, eta, loop=loop, radius=r), graph.edge_index])
    for kernel, reference in zip(*results, strict=True):
        assert torch.equal(kernel, reference)


@pytest.mark.parametrize("eta", ["euclidean", "delta_r", [1.0, 0.0, 2.0], [0.5, 2.0]], ids=str)
@pytest.mark.parametrize("levels", [2, 1000])
def test_strips_of_large_events(eta: str | list[float], levels: int) -> None:
    """Three strips of a large event, one of a smaller: ties, also across strips, and nodes that are not finite."""
    generator = torch.Generator().manual_seed(levels)
    ptr = torch.tensor([0, 3200, 3230, 3800])
    x = torch.randint(0, levels, (3800, METRICS[eta] if isinstance(eta, str) else len(eta)), generator=generator)
    x = x.double() / (1 if eta != "delta_r" else levels)
    x[torch.randint(0, 3800, (60,), generator=generator), 0] = torch.nan
    results = []
    for name in ("auto", "reference"):
        with ek.use_backend(name):
            near = [ek.k_nearest(x, k, ptr, eta, loop=loop) for k, loop in ((3, True), (16, False))]
            graph = ek.radius_graph(x, 1.5 if levels == 1000 else 0.3, ptr, eta, loop=True)
            results.append([*(t for pair in near for t in pair), graph.edge_index])
    for kernel, reference in zip(*results, strict=True):
        assert torch.equal(kernel, reference)


@pytest.mark.parametrize("n", [6, 900, 3000])
def test_ties_go_to_the_lower_index(n: int, backend: str) -> None:
    x = torch.ones(n, 3)
    index, distance = ek.k_nearest(x, 3)
    expected = torch.tensor([[1, 2, 3], [0, 2, 3], [0, 1, 3]] + [[0, 1, 2]] * (n - 3))
    assert torch.equal(index, expected)
    assert not distance.any()
    assert torch.equal(ek.k_nearest(x, 3, loop=True)[0], torch.tensor([[0, 1, 2]] * n))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_a_node_that_is_not_finite_is_alone(metric: str, bad: float, backend: str) -> None:
    x = points(metric, 700)
    clean = torch.cat([x[:5], x[6:]])
    x[5, 1] = bad
    for loop in (False, True):
        index, _ = ek.k_nearest(x, 6, None, metric, loop=loop)
        assert (index[5] == -1).all()
        others = torch.cat([index[:5], index[6:]])
        assert torch.equal(others - (others > 5).long(), ek.k_nearest(clean, 6, None, metric, loop=loop)[0])
        for graph in (ek.radius_graph(x, 0.5, None, metric, loop=loop), ek.knn_graph(x, 6, None, metric, loop=loop)):
            assert not (graph.edge_index == 5).any()
    assert ek.knn_graph(torch.full((9, 4), bad), 3, None, metric if metric != "delta_r" else "euclidean").num_edges == 0


def test_distances_that_overflow_are_none() -> None:
    x = torch.tensor([[1e200, 0.0], [0.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    index, distance = ek.k_nearest(x, 2)
    assert index.tolist() == [[-1, -1], [2, -1], [1, -1]]
    assert distance[1, 0] == 5
    assert ek.radius_graph(x, 1e300).num_edges == 2
    wide = x.float().nan_to_num(posinf=3e38)  # float32 cannot overflow: distances are formed in float64
    assert ek.k_nearest(wide, 2)[0].tolist() == [[1, 2], [2, 0], [1, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_minkowski_intervals_do_not_cancel(dtype: torch.dtype, backend: str) -> None:
    """At a rapidity of 8 (float32: 4), the interval is 1e-7 of E^2 and below: neighbours by exact arithmetic."""
    x = (four_vectors(30, torch.Generator().manual_seed(1)) @ boost(8.0 if dtype == torch.float64 else 4.0)).to(dtype)
    rows = [[Fraction(v) for v in row] for row in x.tolist()]
    index, distance = ek.k_nearest(x, 29, None, "minkowski")
    for i, a in enumerate(rows):
        exact = sorted(
            (abs((a[0] - b[0]) ** 2 - sum((u - v) ** 2 for u, v in zip(a[1:], b[1:], strict=True))), j)
            for j, b in enumerate(rows)
            if j != i
        )
        assert index[i].tolist() == [j for _, j in exact]
        root = torch.tensor([float(d) for d, _ in exact], dtype=torch.float64).sqrt()
        torch.testing.assert_close(distance[i].double(), root, rtol=1e-6 if dtype == torch.float32 else 1e-13, atol=0)


def test_minkowski_neighbours_survive_a_boost() -> None:
    x = four_vectors(120, torch.Generator().manual_seed(0))
    at_rest = knn_edges(x, 8, PTR_OF_JETS, "minkowski")
    for rapidity in (0.5, 2.0, 5.0):
        assert torch.equal(knn_edges(x @ boost(rapidity), 8, PTR_OF_JETS, "minkowski"), at_rest)
    assert not torch.equal(knn_edges(x @ boost(2.0), 8, PTR_OF_JETS, "euclidean"), at_rest)


PTR_OF_JETS = torch.tensor([0, 50, 120])


def test_delta_r_of_four_momenta() -> None:
    p4 = four_vectors(60, torch.Generator().manual_seed(0)).float()
    angles = ek.eta_phi(p4.double())
    assert torch.equal(knn_edges(p4, 5, None, "delta_r"), knn_edges(angles, 5, None, "delta_r"))
    turned = angles + torch.tensor([0.0, 6 * math.pi])
    assert torch.equal(knn_edges(turned, 5, None, "delta_r"), knn_edges(angles, 5, None, "delta_r"))
    seam = torch.tensor([[0.0, 3.1], [0.0, -3.1], [0.0, 2.8]], dtype=torch.float64)
    index, distance = ek.k_nearest(seam, 1, None, "delta_r")
    assert index.flatten().tolist() == [1, 0, 0]
    assert distance[0, 0].item() == pytest.approx(2 * math.pi - 6.2, rel=1e-6)
    beam = torch.tensor([[5.0, 0, 0, 5.0], [5.0, 3, 4, 0], [5.0, 4, 3, 0]])
    assert ek.k_nearest(beam, 1, None, "delta_r")[0].flatten().tolist() == [-1, 2, 1]


@pytest.mark.parametrize("metric", METRICS)
def test_permutation(metric: str) -> None:
    x = points(metric, 600)
    order = torch.randperm(600)
    graph = ek.knn_graph(x, 7, None, metric)
    moved = ek.knn_graph(x[order], 7, None, metric)
    assert torch.equal(moved.sender.view(600, 7), order.argsort()[graph.sender.view(600, 7)][order])


@pytest.mark.parametrize("metric", METRICS)
def test_threads_do_not_matter(metric: str) -> None:
    ptr = torch.tensor([0, 900, 910, 1100])
    x = points(metric, 1100, torch.float32)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            graph, distance = ek.radius_graph(x, 0.5, ptr, metric, return_distance=True)
            results.append([*ek.k_nearest(x, 12, ptr, metric), graph.edge_index, distance])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_graphs_are_those_of_pyg() -> None:
    x, ptr = points("euclidean", 51), torch.tensor([0, 20, 51])
    graph = ek.knn_graph(x, 4, ptr)
    assert (graph.in_degree() == 4).all()
    assert torch.equal(graph.receiver, torch.arange(51).repeat_interleave(4))
    out = ek.knn_graph(x, 4, ptr, flow="target_to_source")
    assert torch.equal(out.edge_index, graph.edge_index.flip(0))
    few = ek.knn_graph(x, 40, ptr, loop=True)
    assert torch.equal(few.in_degree(), torch.tensor([20] * 20 + [31] * 31))
    assert ek.knn_graph(x[:0], 3).num_edges == 0
    assert ek.knn_graph(x[:0], 3, torch.tensor([0])).num_edges == 0
    assert ek.radius_graph(x[:0], 3.0, torch.tensor([0, 0])).num_edges == 0
    assert ek.knn_graph(x[:1], 3).num_edges == 0


def test_an_event_of_more_pairs_than_31_bits_count() -> None:
    n = 50_000
    x = torch.rand(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:, 0] *= 100
    graph = ek.knn_graph(x, 2)
    some = torch.tensor([0, 1, 777, 49_999])
    nearest = (x[some, None] - x[None]).square().sum(-1).topk(3, largest=False).indices[:, 1:]
    assert torch.equal(graph.sender.view(n, 2)[some], nearest)


def test_it_looks_at_no_gradient_and_takes_any_layout() -> None:
    x = points("minkowski", 51).requires_grad_()
    index, distance = ek.k_nearest(x, 3, PTR, "minkowski")
    assert not distance.requires_grad
    assert torch.equal(ek.k_nearest(x.detach().t().contiguous().t(), 3, PTR, "minkowski")[0], index)
    with torch.autocast("cpu", torch.bfloat16):
        low = ek.k_nearest(x.bfloat16(), 3, PTR, "minkowski")
    assert low[1].dtype == torch.float32
    assert torch.equal(low[0], ek.k_nearest(x.bfloat16().float(), 3, PTR, "minkowski")[0])


def test_opcheck() -> None:
    x = points("delta_r", 51)
    with RecordOps() as record:
        ek.k_nearest(x, 3, PTR, "delta_r")
        ek.radius_graph(x, 0.4, PTR)
    assert len(record.calls) == 2
    for op, args in record.calls:
        torch.library.opcheck(op, args)


def test_compile() -> None:
    def features(x: Tensor, ptr: Tensor) -> Tensor:
        index, distance = ek.k_nearest(2 * x, 4, ptr, "minkowski")
        return torch.where(index[..., None] >= 0, x[index.clamp(min=0)], 0).sum(1) + distance[:, :1]

    torch._dynamo.reset()
    compiled = torch.compile(features, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (6, 9, 30):
        x = points("minkowski", n)
        ptr = torch.tensor([0, 5, n]) if n > 6 else torch.tensor([0, n])
        torch.testing.assert_close(compiled(x, ptr), features(x, ptr))

    def degrees(x: Tensor) -> Tensor:
        graph = ek.radius_graph(2 * x, 1.5)
        return ek.segment_reduce(x[graph.sender], graph)

    compiled = torch.compile(degrees, backend="aot_eager")  # breaks the graph at the number of edges
    x = points("euclidean", 40)
    torch.testing.assert_close(compiled(x), degrees(x))


X = torch.zeros(3, 4)
ERRORS = [
    (lambda: ek.knn_graph(X, 0), ValueError, "knn_graph: k: expected a number >= 1, got 0"),
    (lambda: ek.knn_graph(X, 1.5), ValueError, "knn_graph: k: expected a number >= 1, got 1.5"),
    (lambda: ek.k_nearest(X.long(), 1), TypeError, "k_nearest: x: expected dtype float32 or float64, got int64"),
    (lambda: ek.k_nearest(X[0], 1), ValueError, r"k_nearest: x: expected shape \[n, D\], got \[4\]"),
    (lambda: ek.k_nearest(X, 1, radius=-1.0), ValueError, "radius: expected a number >= 0 or None, got -1.0"),
    (lambda: ek.radius_graph(X, math.nan), ValueError, "radius_graph: r: expected a number >= 0 or None, got nan"),
    (lambda: ek.radius_graph(X, 1.0, max_num_neighbors=0), ValueError, "radius_graph: max_num_neighbors: expected"),
    (lambda: ek.knn_graph(X, 1, flow="both"), ValueError, "knn_graph: flow: expected one of source_to_target"),
    (lambda: ek.knn_graph(X, 1, metric="cosine"), ValueError, "knn_graph: metric: expected"),
    (lambda: ek.knn_graph(X[:, :3], 1, metric="delta_r"), ValueError, r"knn_graph: x: expected 2 coordinates \(eta"),
    (lambda: ek.knn_graph(X, 1, torch.tensor([0, 2])), ValueError, "expected a last entry of 3, got 2"),
    (lambda: ek.knn_graph(X, 1, torch.tensor([0.0, 3])), TypeError, "knn_graph: ptr: expected dtype int64"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message[:40] for _, _, message in ERRORS])
def test_errors_name_the_argument(call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


NEAREST = torch.ops.equikernels.nearest_neighbors


def test_a_direct_call_is_checked() -> None:
    table = ek.Graph.complete(torch.tensor([0, 3]), self_loops=True).table
    options = (math.inf, [1.0] * 4, False, False, False)
    for x, k, rest in [
        (X, 1, options),  # float32
        (X.double(), 0, options),
        (X.double(), 1, (math.inf, [1.0] * 4, True, False, False)),
    ]:
        with pytest.raises(RuntimeError):
            NEAREST(x, table, 0, 2, *rest, k)


def test_a_direct_call_does_not_read_out_of_bounds() -> None:
    table = ek.Graph.complete(torch.tensor([0, 3]), self_loops=True).table
    with pytest.raises(RuntimeError):
        NEAREST(X[:2].double(), table, 0, 2, math.inf, [1.0] * 4, False, False, False, 1)
