"""Tests coordinate_update beyond the generic checks of test_ops.py."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import equikernels as ek

from ..support.tools import cotangent_for, value_and_grads

PAIR = torch.tensor([[1], [0]])  # one edge, 1 -> 0


def pair(weight: float, **options: Any) -> torch.Tensor:
    """x_0 after one message: x_0 = (1, 2), x_1 = (4, -2)."""
    x = torch.tensor([[1.0, 2.0], [4.0, -2.0]], dtype=torch.float64)
    graph = ek.Graph.from_edge_index(PAIR, 2)
    out = ek.coordinate_update(x, torch.tensor([weight], dtype=torch.float64), graph, **options)
    assert torch.equal(out[1], x[1])  # receives nothing
    return out[0]


def test_formula_by_hand(backend: str) -> None:
    assert pair(0.5).tolist() == [1 - 1.5, 2 + 2.0]
    assert pair(0.5, direction="sender").tolist() == [1 + 2.0, 2 - 1.0]
    assert pair(0.5, c=10.0).tolist() == [1 - 15.0, 2 + 20.0]
    assert pair(0.5, clamp=1.75).tolist() == [1 - 1.5, 2 + 1.75]
    assert pair(100.0).tolist() == [1 - 100.0, 2 + 100.0]
    assert pair(100.0, clamp=None).tolist() == pair(100.0, clamp=float("inf")).tolist() == [1 - 300.0, 2 + 400.0]
    assert pair(0.5, clamp=0.0).tolist() == [1.0, 2.0]


def test_mean_divides_by_the_edges_received(backend: str) -> None:
    # node 0 receives from 1 twice (a duplicate edge) and from 2 once; 3 from itself
    graph = ek.Graph.from_edge_index(torch.tensor([[1, 1, 2, 3], [0, 0, 0, 3]]), 4)
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 4.0], [5.0, 5.0]])
    weight = torch.tensor([1.0, 2.0, 3.0, 7.0])
    total = ek.coordinate_update(x, weight, graph, reduce="sum")
    assert total.tolist() == [[-3.0, -12.0], [1.0, 0.0], [0.0, 4.0], [5.0, 5.0]]
    assert ek.coordinate_update(x, weight, graph)[0].tolist() == [-1.0, -4.0]


def test_gradient_of_the_clamp_at_the_bound(backend: str) -> None:
    graph = ek.Graph.from_edge_index(PAIR, 2)
    nan = float("nan")
    # messages x_0 - x_1: inside, at the bound, just outside, NaN
    x = torch.tensor([[1.5, 2.0, 2.0000001, nan], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    inputs = {"x": x, "weight": torch.ones(1, dtype=torch.float64)}
    for clamp in (2.0, None):

        def run(i: dict[str, torch.Tensor], clamp: float | None = clamp) -> torch.Tensor:
            return ek.coordinate_update(**i, graph=graph, clamp=clamp)

        result = value_and_grads(run, inputs, torch.ones(2, 4))
        with ek.use_backend("reference"):
            expected = value_and_grads(run, inputs, torch.ones(2, 4))
        for r, e in zip(result, expected, strict=True):
            torch.testing.assert_close(r, e, equal_nan=True)
        last = 1.0 if clamp is None else 0.0
        assert result[1].tolist() == [[2.0, 2.0, 1 + last, 1 + last], [0.0, 0.0, 1 - last, 1 - last]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weight_may_be_narrower_than_x(dtype: torch.dtype) -> None:
    graph = ek.Graph.complete(torch.tensor([0, 5]))
    x = torch.randn(5, 4, dtype=torch.float64)
    weight = torch.randn(20, 1).to(dtype).requires_grad_()
    wide = weight.detach().double().requires_grad_()
    out, expected = ek.coordinate_update(x, weight, graph), ek.coordinate_update(x, wide, graph)
    assert out.dtype == torch.float64
    assert torch.equal(out, expected)
    cotangent = cotangent_for(out)
    (grad,), (expected_grad,) = (
        torch.autograd.grad(out, weight, cotangent),
        torch.autograd.grad(expected, wide, cotangent),
    )
    assert torch.equal(grad, expected_grad.to(dtype))


def test_autocast_raises_both_to_float32() -> None:
    graph = ek.Graph.complete(torch.tensor([0, 5]))
    x, weight = torch.randn(5, 4).bfloat16(), torch.randn(20).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = ek.coordinate_update(x, weight, graph)
    assert torch.equal(out, ek.coordinate_update(x.float(), weight.float(), graph))


def test_shares_of_threads_do_not_show(backend: str) -> None:
    # enough edges that several threads share them, in events of uneven size
    ptr = torch.tensor([0, 120, 121, 121, 180, 260])
    sparse = ek.Graph.complete(ptr).edge_index
    shuffled = sparse[:, torch.randperm(sparse.shape[1])]
    for graph in (ek.Graph.complete(ptr), ek.Graph.from_edge_index(shuffled, 260)):
        inputs = {"x": torch.randn(260, 4), "weight": torch.randn(graph.num_edges)}
        update = partial(ek.coordinate_update, graph=graph)
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                results.append(value_and_grads(lambda i: update(**i), inputs, cotangent_for(inputs["x"])))  # noqa: B023
        finally:
            torch.set_num_threads(before)
        for one, other in itertools.pairwise(results):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    nodes=st.integers(1, 12),
    edges=st.integers(0, 60),
    dim=st.integers(1, 8),
    clamp=st.sampled_from([None, 0.0, 0.5, 100.0]),
    reduce=st.sampled_from(["mean", "sum"]),
    direction=st.sampled_from(["difference", "sender"]),
    complete=st.booleans(),
)
def test_any_graph_and_options(seed: int, nodes: int, edges: int, dim: int, complete: bool, **options: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    if complete:
        cuts = torch.randint(0, nodes + 1, (3,), generator=generator).sort().values
        ptr = torch.cat([torch.tensor([0]), cuts, torch.tensor([nodes])])
        graph = ek.Graph.complete(ptr, self_loops=edges % 2 == 0)
    else:
        graph = ek.Graph.from_edge_index(torch.randint(0, nodes, (2, edges), generator=generator), nodes)
    inputs = {
        "x": torch.randn(nodes, dim, dtype=torch.float64, generator=generator),
        "weight": torch.randn(graph.num_edges, dtype=torch.float64, generator=generator),
    }
    cotangent = cotangent_for(inputs["x"])
    for isa in ek.available_isas() or [None]:
        before = ek.active_isa()
        if isa is not None:
            ek.set_isa(isa)
        try:
            result = value_and_grads(lambda i: ek.coordinate_update(**i, graph=graph, **options), inputs, cotangent)
        finally:
            if isa is not None:
                ek.set_isa(before)
        with ek.use_backend("reference"):
            expected = value_and_grads(lambda i: ek.coordinate_update(**i, graph=graph, **options), inputs, cotangent)
        for r, e in zip(result, expected, strict=True):
            torch.testing.assert_close(r, e)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"x": torch.zeros(3)}, ValueError, r"x: expected shape \[n, D\], got \[3\]"),
        ({"x": torch.zeros(3, 9)}, ValueError, "x: expected 1 to 8 coordinates, got 9"),
        ({"x": torch.zeros(3, 0)}, ValueError, "x: expected 1 to 8 coordinates, got 0"),
        ({"x": torch.zeros(3, 4, dtype=torch.int64)}, TypeError, "x: expected dtype float32 or float64, got int64"),
        ({"x": torch.zeros(3, 4).half()}, TypeError, "x: expected dtype float32 or float64, got float16"),
        ({"x": [0.0]}, TypeError, "x: expected a tensor, got list"),
        ({"x": torch.zeros(4, 4)}, ValueError, "graph: expected 4 nodes, got 3"),
        ({"weight": torch.zeros(5)}, ValueError, "weight: expected 6 rows, one per edge, got 5"),
        ({"weight": torch.zeros(6, 2)}, ValueError, r"weight: expected shape \[E\] or \[E, 1\], got \[6, 2\]"),
        ({"weight": torch.tensor(1.0)}, ValueError, r"weight: expected shape \[E\] or \[E, 1\], got \[\]"),
        ({"weight": torch.zeros(6).double()}, TypeError, "weight: expected the dtype of x, float32, or a narrower one"),
        ({"weight": torch.zeros(6).int()}, TypeError, "weight: expected dtype .*, got int32"),
        ({"weight": torch.zeros(6, device="meta")}, ValueError, "weight: expected device cpu, got meta"),
        ({"graph": torch.zeros(2, 6)}, TypeError, "graph: expected an equikernels.Graph, got Tensor"),
        ({"clamp": -1.0}, ValueError, "clamp: expected a number >= 0 or None, got -1.0"),
        ({"clamp": float("nan")}, ValueError, "clamp: expected a number >= 0 or None, got nan"),
        ({"reduce": "max"}, ValueError, "reduce: expected one of mean, sum, got 'max'"),
        ({"direction": "receiver"}, ValueError, "direction: expected one of difference, sender, got 'receiver'"),
    ],
)
def test_errors_name_the_argument(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"x": torch.zeros(3, 4), "weight": torch.zeros(6)}
    arguments["graph"] = ek.Graph.complete(torch.tensor([0, 3]))
    with pytest.raises(kind, match=f"^coordinate_update: {message}"):
        ek.coordinate_update(**{**arguments, **change})


def test_a_direct_call_of_the_op_is_checked() -> None:
    if not ek.available_isas():
        pytest.skip("no kernels")
    graph = ek.Graph.complete(torch.tensor([0, 3]))
    rest = graph.table, graph.num_edges, 1, 1.0, None, True, True
    for x, weight in [
        (torch.zeros(3, 9), torch.zeros(6)),
        (torch.zeros(3, 4), torch.zeros(5)),
        (torch.zeros(3, 4), torch.zeros(6).double()),
        (torch.zeros(3, 4).half(), torch.zeros(6).half()),
    ]:
        with pytest.raises(RuntimeError):
            torch.ops.equikernels.coordinates(x, weight, *rest)
