"""Graph: constructors, order of edges, checks, pytree."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

import equikernels as ek
from equikernels import _native

from .support.cases import GRAPHS


def pairs(graph: ek.Graph) -> list[tuple[int, int]]:
    return [tuple(edge) for edge in graph.edge_index.t().tolist()]


@pytest.mark.parametrize("self_loops", [False, True])
def test_complete_enumerates_all_pairs_row_major(self_loops: bool) -> None:
    graph = ek.Graph.complete(torch.tensor([0, 3, 3, 4, 6]), self_loops)
    expected = [
        (j, i)
        for lo, hi in [(0, 3), (3, 3), (3, 4), (4, 6)]
        for i in range(lo, hi)
        for j in range(lo, hi)
        if self_loops or i != j
    ]
    assert pairs(graph) == expected
    assert graph.num_edges == len(expected)
    assert graph.num_nodes == 6
    assert graph.in_degree().tolist() == torch.bincount(graph.receiver, minlength=6).tolist()


@pytest.mark.parametrize("name", GRAPHS)
def test_sparse_twin_of_every_graph_gives_the_same_edges(name: str) -> None:
    graph = GRAPHS[name]()
    twin = ek.Graph.from_edge_index(graph.edge_index, graph.num_nodes)
    assert pairs(twin) == pairs(graph)
    assert twin.in_degree().tolist() == graph.in_degree().tolist()
    in_ptr, sender, in_edge, out_ptr, receiver, out_edge = twin._parts()
    assert torch.equal(graph.sender[in_edge], sender)
    assert torch.equal(graph.receiver[out_edge], receiver)
    for ptr, end, order in ((in_ptr, graph.receiver, in_edge), (out_ptr, graph.sender, out_edge)):
        for node in range(graph.num_nodes):
            slots = order[ptr[node] : ptr[node + 1]].tolist()
            assert slots == [e for e in range(graph.num_edges) if end[e] == node]  # stable: ascending


def test_from_csr_keeps_the_order_given() -> None:
    graph = ek.Graph.from_csr(torch.tensor([0, 2, 2, 3]), torch.tensor([2, 0, 1]))
    assert pairs(graph) == [(2, 0), (0, 0), (1, 2)]
    assert graph.num_nodes == 3


def test_torch_geometric_edge_index_is_taken() -> None:
    geometric = pytest.importorskip("torch_geometric")
    raw = torch.tensor([[0, 1, 2], [1, 2, 2]])
    edge_index = geometric.EdgeIndex(raw, sparse_size=(4, 4))
    assert ek.Graph.from_edge_index(edge_index).num_nodes == 4
    graph = ek.Graph.from_edge_index(edge_index, 5)
    assert graph.num_nodes == 5
    assert type(graph.edge_index) is torch.Tensor
    assert torch.equal(graph.edge_index, raw)


@pytest.mark.parametrize("name", ["complete", "self_loops", "sparse", "no_nodes"])
def test_pytree_round_trip_and_to(name: str) -> None:
    graph = GRAPHS[name]()
    leaves, spec = pytree.tree_flatten(graph)
    for again in (pytree.tree_unflatten(leaves, spec), graph.to("cpu")):
        assert pairs(again) == pairs(graph)
        assert torch.equal(again.table, graph.table)
        assert (again.num_nodes, again.num_edges, again.self_loops) == (
            graph.num_nodes,
            graph.num_edges,
            graph.self_loops,
        )
    assert graph.to("meta").device.type == "meta"


@pytest.mark.parametrize("name", ["complete", "sparse", "csr"])
def test_a_graph_first_used_in_inference_mode_can_be_trained_on(name: str) -> None:
    with torch.inference_mode():
        graph = GRAPHS[name]()
        x = torch.randn(graph.num_nodes, 4)
        ek.pairwise_invariants(x, graph)
        graph.edge_index, graph.in_degree()
        if graph.is_complete:
            ek.segment_reduce(x, graph.events)
    x = torch.randn(graph.num_nodes, 4, requires_grad=True)
    total = ek.segment_reduce(ek.pairwise_invariants(x, graph), graph)
    if graph.is_complete:
        total = ek.segment_reduce(total, graph.events)
    total.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("without", [None, "no library"])
def test_csr_and_its_edges_have_one_table(monkeypatch: pytest.MonkeyPatch, without: str | None) -> None:
    if without is not None:  # PyTorch makes the table
        monkeypatch.setattr(_native, "cpu_reason", without)
    generator = torch.Generator().manual_seed(0)
    received = torch.randint(0, 4, (39,), generator=generator)
    rowptr = torch.cat([received.new_zeros(1), received.cumsum(0)])
    col = torch.randint(0, 39, (int(rowptr[-1]),), generator=generator)
    graph = ek.Graph.from_csr(rowptr, col)
    assert torch.equal(graph.sender, col)
    assert torch.equal(graph.receiver, torch.repeat_interleave(received))
    assert torch.equal(graph._indices, ek.Graph.from_edge_index(graph.edge_index, 39)._indices)


def test_the_table_is_made_once() -> None:
    graph = ek.Graph.from_edge_index(torch.tensor([[0], [1]]), 2)
    assert graph._indices is graph._indices


def test_complete_with_known_sizes_reads_nothing_back() -> None:
    # A fake device has no values: any copy to the host would fail.
    with torch._subclasses.FakeTensorMode():
        graph = ek.Graph.complete(torch.empty(5, dtype=torch.int64), num_nodes=12, num_edges=40, validate=False)
    assert (graph.num_nodes, graph.num_edges) == (12, 40)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ek.Graph.complete(torch.tensor([1, 2])), ValueError, "ptr: expected a first entry of 0, got 1"),
        (
            lambda: ek.Graph.complete(torch.tensor([0, 3, 2])),
            ValueError,
            "ptr: expected entries that do not decrease, got 3 before 2 at entry 2",
        ),
        (
            lambda: ek.Graph.complete(torch.tensor([0, 3]), num_nodes=4),
            ValueError,
            "ptr: expected a last entry of 4, got 3",
        ),
        (lambda: ek.Graph.complete(torch.tensor([0.0, 3.0])), TypeError, "ptr: expected dtype int64, got float32"),
        (lambda: ek.Graph.complete(torch.tensor([0, 3]).int()), TypeError, "ptr: expected dtype int64, got int32"),
        (lambda: ek.Graph.complete(torch.zeros(2, 2).long()), ValueError, r"ptr: expected shape \[n_events \+ 1\]"),
        (lambda: ek.Graph.complete(torch.empty(0).long()), ValueError, "ptr: expected at least one entry"),
        (
            lambda: ek.Graph.from_edge_index(torch.tensor([[0, -1], [1, 0]]), 2),
            ValueError,
            r"edge_index: expected indices in \[0, 2\), got \[-1, 1\]",
        ),
        (
            lambda: ek.Graph.from_edge_index(torch.tensor([[0, 2], [1, 0]]), 2),
            ValueError,
            r"edge_index: expected indices in \[0, 2\), got \[0, 2\]",
        ),
        (lambda: ek.Graph.from_edge_index(torch.tensor([0, 1]), 2), ValueError, r"edge_index: expected shape \[2, E\]"),
        (lambda: ek.Graph.from_edge_index(torch.tensor([[0], [0]])), ValueError, "num_nodes: expected a number"),
        (lambda: ek.Graph.from_edge_index(torch.tensor([[0], [0]]), -1), ValueError, "num_nodes: expected a number >="),
        (
            lambda: ek.Graph.from_csr(torch.tensor([0, 2]), torch.tensor([0])),
            ValueError,
            "rowptr: expected a last entry of 1, got 2",
        ),
        (
            lambda: ek.Graph.from_csr(torch.tensor([0, 1]), torch.tensor([1])),
            ValueError,
            r"col: expected indices in \[0, 1\)",
        ),
        (ek.Graph, TypeError, "use Graph.complete"),
    ],
)
def test_errors_name_the_argument(make, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("name", GRAPHS)
def test_by_receiver(name: str) -> None:
    """The same edges, grouped by receiver, in the order of kernels; the second result maps them back."""
    graph = GRAPHS[name]()
    ordered, order = graph.by_receiver
    assert torch.equal(ordered.edge_index, graph.edge_index[:, order])
    assert bool((ordered.receiver.diff() >= 0).all())
    if not graph.is_complete:
        in_ptr, sender, in_edge, out_ptr, receiver, out_edge = ordered._parts()
        assert torch.equal(in_edge, torch.arange(graph.num_edges))
        assert torch.equal(in_ptr.diff(), graph.in_degree())
        assert torch.equal(out_ptr.diff(), graph.out_degree())
        assert torch.equal(sender, ordered.sender)
        assert torch.equal(receiver, ordered.receiver[out_edge])
        assert bool((ordered.sender[out_edge].diff() >= 0).all())
    assert graph.by_receiver[0] is ordered


@pytest.mark.parametrize("edges", [0, 7, 5000])
def test_the_native_table_is_that_of_pytorchs_sort(edges: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Duplicates and self-loops, nodes without edges, above and below the size that two threads share."""
    index = torch.randint(0, 90, (2, edges), generator=torch.Generator().manual_seed(edges))
    native = ek.Graph.from_edge_index(index, 100).table
    monkeypatch.setattr(_native, "cpu_reason", "none here")
    assert torch.equal(native, ek.Graph.from_edge_index(index, 100).table)


@pytest.mark.parametrize("bad", [-1, 5])
@pytest.mark.parametrize("end", [0, 1])
def test_a_table_is_refused_where_an_end_is_no_node(bad: int, end: int) -> None:
    index = torch.tensor([[0, 1, 2], [1, 2, 3]])
    index[end, 1] = bad
    with pytest.raises(RuntimeError, match=r"edge_table: edge_index: expected indices in \[0, 5\)"):
        torch.ops.equikernels.edge_table(index, 5)


def test_the_native_table_passes_opcheck() -> None:
    torch.library.opcheck(torch.ops.equikernels.edge_table, (torch.randint(0, 9, (2, 30)), 9))
