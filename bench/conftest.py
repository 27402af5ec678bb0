"""One way to measure: the results are compared first, then the clock starts."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek

Implementation = Callable[..., Tensor]  # (graph, *inputs)
EQUIKERNELS, INDEX_ADD, PYG = "equikernels", "index_add_", "PyG"


def jets() -> ek.Graph:
    """100 sample jets, 52 constituents on average: all pairs."""
    return ek.Graph.complete(ek.data.load_sample_jets()[:100].ptr)


def csr() -> ek.Graph:
    """A hit graph's size: 80k edges over 10k nodes, in random order."""
    edges = torch.randint(0, 10_000, (2, 80_000), generator=torch.Generator().manual_seed(0))
    return ek.Graph.from_edge_index(edges, 10_000)


GRAPHS = {"100 jets": jets, "80k edges": csr}


@pytest.fixture(scope="session", params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> ek.Graph:
    graph = GRAPHS[request.param]()
    graph.table, graph.edge_index  # noqa: B018 (made on first use; not what is measured)
    return graph


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["forward", "forward and backward"])
def backward(request: pytest.FixtureRequest) -> bool:
    return request.param != "forward"


@pytest.fixture(params=[EQUIKERNELS, INDEX_ADD, PYG])
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def measure(
    benchmark: Any,
    graph: ek.Graph,
    threads: int,
    backward: bool,
    implementation: str,
    known: dict[Hashable, list[tuple[Tensor, float]]],
    request: pytest.FixtureRequest,
) -> Callable[..., None]:
    """measure(op, implementations, inputs) checks and times the implementation the test is called for."""

    def run(op: str, implementations: dict[str, Implementation], inputs: list[Tensor]) -> None:
        graph_name = request.node.callspec.params["graph"]
        key = op, graph_name, backward
        if key not in known:
            known[key] = _right(implementations[INDEX_ADD], graph, inputs, backward)
        results = _results(implementations[implementation], graph, inputs, backward)
        for got, (oracle, allowed) in zip(results, known[key], strict=True):
            assert (got - oracle).abs().max() <= allowed
        benchmark.group = f"{op}, {graph_name}, {'forward and backward' if backward else 'forward'}, {threads}"
        benchmark.extra_info.update(
            op=op, graph=graph_name, edges=graph.num_edges, backward=backward, threads=threads, by=implementation
        )
        benchmark(_call(implementations[implementation], graph, inputs, backward))

    return run


def _call(f: Implementation, graph: ek.Graph, inputs: list[Tensor], backward: bool) -> Callable[[], Any]:
    if not backward:
        return lambda: f(graph, *inputs)
    leaves = [t.clone().requires_grad_() for t in inputs]
    cotangent = torch.randn(f(graph, *inputs).shape, generator=torch.Generator().manual_seed(1)).to(inputs[0].dtype)
    return lambda: torch.autograd.grad(f(graph, *leaves), leaves, cotangent)


def _results(f: Implementation, graph: ek.Graph, inputs: list[Tensor], backward: bool) -> list[Tensor]:
    out = _call(f, graph, inputs, backward)()
    return [out] if isinstance(out, Tensor) else list(out)


@pytest.fixture(scope="session")
def known() -> dict[Hashable, list[tuple[Tensor, float]]]:
    """What is right, and how far off a result may be, of every measurement checked so far."""
    return {}


def _right(plain: Implementation, graph: ek.Graph, inputs: list[Tensor], backward: bool) -> list[tuple[Tensor, float]]:
    """The tolerance rule: error against float64 at most twice the plain formula's, plus a rounding of the largest."""
    exact = _results(plain, graph, [t.double() for t in inputs], backward)
    eager = _results(plain, graph, inputs, backward)
    eps = torch.finfo(torch.float32).eps
    return [
        (oracle, float(2 * (value - oracle).abs().max() + eps * oracle.abs().max()))
        for value, oracle in zip(eager, exact, strict=True)
    ]
