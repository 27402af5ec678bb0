"""Tests that ops give the same bits on any number of threads, at sizes that use threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

import equikernels as ek

from ..support.cases import CASES, Case, four_vectors
from ..support.tools import cotangent_for, require_grad, value_and_grads


def sparse(nodes: int, edges: int) -> ek.Graph:
    generator = torch.Generator().manual_seed(5)
    return ek.Graph.from_edge_index(torch.randint(0, nodes, (2, edges), generator=generator), nodes)


# PyTorch splits sums of at least 32768 numbers among threads.
GRAPHS = {"events": ek.Graph.complete(torch.tensor([0, 190, 191, 191, 220])), "edges": sparse(9000, 36000)}
KINDS = {(case.op, case.id): case for case in CASES if case.kernel}


def over_threads(run: Callable[[], Sequence[Tensor]]) -> list[Sequence[Tensor]]:
    before = torch.get_num_threads()
    found = []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            found.append(run())
    finally:
        torch.set_num_threads(before)
    return found


def assert_equal(found: list[Sequence[Tensor]], names: Sequence[str]) -> None:
    for number, again in zip((2, 3), found[1:], strict=True):
        for name, a, b in zip(names, found[0], again, strict=True):
            assert torch.equal(a, b), f"{name} on {number} threads: {float((a - b).abs().max())}"


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("case", KINDS.values(), ids=[f"{op}-{id}" for op, id in KINDS])
def test_values_and_gradients(case: Case, name: str) -> None:
    if name == "edges" and case.complete_only:
        pytest.skip("an op on events")
    graph = GRAPHS[name]
    inputs = case.inputs(torch.float32, graph)
    cotangent = cotangent_for(case.run(inputs, graph))
    assert_equal(
        over_threads(lambda: value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)), ("out", *inputs)
    )


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_statistics_of_rows(channels: int, dtype: torch.dtype) -> None:
    x, scale, shift = (torch.randn(*shape, channels, dtype=dtype) for shape in ((70_000,), (), ()))
    rows = {"x": x, "scale": scale, "shift": shift}
    cotangent = torch.randn(70_000, channels, dtype=dtype)
    assert_equal(
        over_threads(
            lambda: value_and_grads(lambda i: ek.pairwise_affine(i["x"], *list(i.values())[1:]), rows, cotangent)
        ),
        ("out", *rows),
    )
    norm = ek.PairNorm(None, None, None, None, 1e-5, of_batch=True)
    cotangent = torch.randn(2, channels, dtype=dtype)
    of_batch = lambda i: ek.pairwise_network(i["x"], None, None, norm)[1]  # noqa: E731
    assert_equal(over_threads(lambda: value_and_grads(of_batch, {"x": x}, cotangent)), ("out", "x"))


@pytest.mark.parametrize("width", [1, 6])
@pytest.mark.parametrize("kind", ["nodes", "invariants", "edges", "both"])
@pytest.mark.parametrize("complete", [True, False])
def test_statistics_of_batch_norms(complete: bool, kind: str, width: int) -> None:
    """One column of many rows, which PyTorch's sums and products split among threads."""
    graph = ek.Graph.complete(torch.arange(0, 40_001, 2)) if complete else sparse(40_000, 70_000)
    n, generator = graph.num_nodes, torch.Generator().manual_seed(0)
    order = ("receiver", "sender")
    given, columns = {"h": torch.randn(n, 3)}, 6
    if kind in ("invariants", "both"):
        given, columns, order = given | {"x": four_vectors(n, generator).float()}, columns + 2, (*order, "invariants")
    if kind in ("edges", "both"):
        given |= {"edge_attr": torch.randn(graph.num_edges, 3)}
        columns, order = columns + 3, (*order, "edge_attr")
    given["weight"] = torch.randn(width, columns)
    first = torch.randn(2, width, dtype=torch.float64)

    def run() -> list[Tensor]:
        i = require_grad(given)
        mlp = ek.EdgeMLP.of([ek.Layer(i["weight"], norm=ek.Norm("batch"))], order=order)
        out = ek.message_passing(mlp, graph, **{k: v for k, v in i.items() if k != "weight"}).statistics
        assert out is not None
        return [out, *torch.autograd.grad(out, list(i.values()), first)]

    assert_equal(over_threads(run), ["out", *given])
