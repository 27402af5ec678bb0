"""Tests that a graph owns its indices: changes to a user's tensor do not reach a kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import equikernels as ek

from .support.cases import GRAPHS

FAR = 1 << 40  # an address without memory


def _of_edges(validate: bool) -> tuple[ek.Graph, list[Tensor]]:
    edges = torch.tensor([[4, 0, 2, 2, 1], [1, 1, 3, 0, 4]])
    return ek.Graph.from_edge_index(edges, 5, validate=validate), [edges]


def _of_csr(validate: bool) -> tuple[ek.Graph, list[Tensor]]:
    rowptr, col = torch.tensor([0, 2, 2, 5]), torch.tensor([1, 2, 0, 1, 2])
    return ek.Graph.from_csr(rowptr, col, validate=validate), [rowptr, col]


def _of_ptr(validate: bool) -> tuple[ek.Graph, list[Tensor]]:
    ptr = torch.tensor([0, 2, 2, 5])
    return ek.Graph.complete(ptr, num_nodes=5, num_edges=8, validate=validate), [ptr]


def _in_place(t: Tensor) -> None:
    t.fill_(FAR)


def _through_numpy(t: Tensor) -> None:
    t.numpy()[...] = FAR


def _through_data(t: Tensor) -> None:
    t.data.fill_(FAR)


def _through_a_view(t: Tensor) -> None:
    t.view(-1)[1:] = FAR


def _resized(t: Tensor) -> None:
    t.resize_(1000).fill_(FAR)


def _through_the_storage(t: Tensor) -> None:
    t.untyped_storage().fill_(0x7F)


WRITES = [_in_place, _through_numpy, _through_data, _through_a_view, _resized, _through_the_storage]


def results(graph: ek.Graph) -> list[Tensor]:
    x = torch.randn(graph.num_nodes, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    edges = ek.pairwise_invariants(x, graph)
    total = ek.segment_reduce(edges, graph)
    with ek.use_backend("reference"):
        plain = ek.segment_reduce(ek.pairwise_invariants(x, graph), graph)
    (grad,) = torch.autograd.grad(total.square().sum(), x)
    parts = [edges, total, plain, grad, graph.edge_index, graph.table, graph.by_receiver[1], graph.reversed.edge_index]
    if graph.is_complete:
        parts += [graph.events.receiver, graph.pairs.edge_index]
    return [t.detach().clone() for t in parts]


def same(graph: ek.Graph, expected: list[Tensor]) -> None:
    for now, then in zip(results(graph), expected, strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("make", [_of_edges, _of_csr, _of_ptr])
@pytest.mark.parametrize("used", [True, False])
def test_what_it_was_made_from_can_be_written_to(
    make: Callable[[bool], tuple[ek.Graph, list[Tensor]]], validate: bool, write: Callable[[Tensor], None], used: bool
) -> None:
    expected = results(make(validate)[0])
    graph, given = make(validate)
    if used:
        results(graph)
    for t in given:
        write(t)
    same(graph, expected)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("name", ["complete", "self_loops", "sparse", "csr"])
@pytest.mark.parametrize("attribute", ["edge_index", "sender", "receiver", "ptr", "table", "by_receiver", "in_degree"])
def test_what_it_gives_can_be_written_to(name: str, attribute: str, write: Callable[[Tensor], None]) -> None:
    expected = results(GRAPHS[name]())
    for used in (False, True):
        graph = GRAPHS[name]()
        if used:
            results(graph)
        given = getattr(graph, attribute)
        given = given() if callable(given) else given[1] if isinstance(given, tuple) else given
        if given is None:
            assert not graph.is_complete
            return
        write(given)
        same(graph, expected)


def test_a_transposed_or_expanded_list_is_taken() -> None:
    pairs = torch.tensor([[0, 1], [1, 2], [2, 2]])
    assert torch.equal(ek.Graph.from_edge_index(pairs.t(), 3).edge_index, pairs.t())
    loop = torch.tensor([[2], [1]]).expand(2, 4)
    assert ek.segment_reduce(torch.ones(4, 1), ek.Graph.from_edge_index(loop, 3)).flatten().tolist() == [0, 4, 0]


@pytest.mark.parametrize("attribute", ["num_nodes", "num_edges", "is_complete", "self_loops", "ptr", "edge_index"])
def test_attributes_cannot_be_set(attribute: str) -> None:
    graph = GRAPHS["complete"]()
    with pytest.raises(AttributeError):
        setattr(graph, attribute, 1000)


BIG = 2**63 - 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        # sums to 5 where int64 overflows
        (lambda: ek.Graph.complete(torch.tensor([0, BIG, -2, 5])), "ptr: expected entries that do not decrease"),
        (
            lambda: ek.Graph.from_csr(torch.tensor([0, BIG, -2, 2]), torch.tensor([0, 1])),
            "rowptr: expected entries that do not decrease",
        ),
        (lambda: ek.Graph.complete(torch.tensor([0, -1, 3])), "got 0 before -1 at entry 1"),
        (lambda: ek.Graph.complete(torch.tensor([0, 3]), num_edges=7), "num_edges: expected 6 edges, got 7"),
        (lambda: ek.Graph.complete(torch.tensor([0, 3]), True, num_edges=6), "num_edges: expected 9 edges, got 6"),
    ],
)
def test_numbers_that_would_lead_outside_memory_are_refused(make: Callable[[], ek.Graph], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_compiled_code_reads_the_graph_it_is_given() -> None:
    """Copies are traced: a graph made inside a trace is safe, and a graph from outside does not change."""
    x = torch.randn(5, 4)

    def inside(x: Tensor, edges: Tensor) -> Tensor:
        graph = ek.Graph.from_edge_index(edges, x.shape[0], validate=False)
        edges.fill_(0)
        return ek.segment_reduce(ek.pairwise_invariants(x, graph), graph) + graph.receiver.sum()

    made = torch.tensor([[4, 0, 2, 2, 1], [1, 1, 3, 0, 4]])
    expected = inside(x, made.clone())
    assert torch.equal(torch.compile(inside, fullgraph=True, backend="aot_eager")(x, made.clone()), expected)

    def outside(x: Tensor, graph: ek.Graph) -> Tensor:
        graph.edge_index.fill_(FAR)
        graph.sender.fill_(FAR)
        return ek.segment_reduce(ek.pairwise_invariants(x, graph), graph) + graph.receiver.sum()

    graph = ek.Graph.from_edge_index(made, 5)
    assert torch.equal(torch.compile(outside, fullgraph=True, backend="aot_eager")(x, graph), expected)
