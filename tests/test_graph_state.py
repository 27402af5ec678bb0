"""Tests graphs in batches, loaders and their workers, files, copies, and on devices."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import equikernels as ek
from equikernels.graph_state import rebuilt

from .support.cases import GRAPHS


def same(graph: ek.Graph, expected: ek.Graph) -> None:
    for name in ("num_nodes", "num_edges", "is_complete", "self_loops"):
        assert getattr(graph, name) == getattr(expected, name), name
    assert torch.equal(graph.edge_index, expected.edge_index)
    assert torch.equal(graph.table, expected.table)


def saved(graph: ek.Graph, **options: Any) -> ek.Graph:
    file = io.BytesIO()
    torch.save({"graph": graph, "x": torch.zeros(2)}, file)
    file.seek(0)
    return torch.load(file, **options)["graph"]


COPIES: dict[str, Callable[[ek.Graph], ek.Graph]] = {
    "pickle": lambda graph: pickle.loads(pickle.dumps(graph)),
    "torch.save": lambda graph: saved(graph, weights_only=True),
    "torch.save, mapped": lambda graph: saved(graph, weights_only=True, map_location="cpu"),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "cpu": lambda graph: graph.cpu(),
    "a batch of one": lambda graph: ek.Graph.batch([graph]),
}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("name", GRAPHS)
def test_a_copy_is_the_same_graph(name: str, how: str, used: bool) -> None:
    graph = GRAPHS[name]()
    if used:
        graph.table, graph.edge_index, graph.by_receiver  # noqa: B018 (made on first use)
    again = COPIES[how](graph)
    same(again, graph)
    if graph.is_complete:
        same(again.events, graph.events)


def test_copies_share_no_memory_where_that_is_promised() -> None:
    graph = GRAPHS["csr"]()
    for how in ("deepcopy", "pickle"):
        again = COPIES[how](graph)
        assert again._indices.data_ptr() != graph._indices.data_ptr()


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 3, 1, torch.tensor([[5], [0]])),  # out of range
        (0, 3, 1, torch.tensor([[-1], [0]])),
        (0, -3, 1, torch.tensor([[0], [0]])),
        (0, 3, 1, torch.tensor([[0.0], [0.0]])),
        (0, 3, 1, torch.tensor([0, 1])),
        (0, "3", 1, torch.tensor([[0], [0]])),
        (0, 3, 1, [[0], [0]]),
        (1, 4, None, torch.tensor([0, 3])),
        (1, 3, 7, torch.tensor([0, 3])),
        (2, 3, 6, torch.tensor([0, 3])),
        (2, 3, None, torch.tensor([0, 5, 3])),
        (2, 3, None, torch.tensor([], dtype=torch.int64)),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(arguments: tuple[Any, ...]) -> None:
    class Tampered:
        def __reduce__(self) -> tuple[Any, ...]:
            return rebuilt, arguments

    file = io.BytesIO()
    torch.save(Tampered(), file)
    file.seek(0)
    with pytest.raises((ValueError, TypeError), match="Graph"):
        torch.load(file, weights_only=True)


def test_no_file_makes_a_graph_without_its_checks() -> None:
    class Tampered:
        def __reduce__(self) -> tuple[Any, ...]:
            return ek.Graph._new, (3, 1, 0, torch.zeros(12, dtype=torch.int64))

    file = io.BytesIO()
    torch.save(Tampered(), file)
    file.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, weights_only=True)


def parts(name: str) -> list[ek.Graph]:
    first, second = GRAPHS[name](), GRAPHS[name]()
    empty = ek.Graph.complete(torch.tensor([0]), first.self_loops) if first.is_complete else GRAPHS["no_edges"]()
    return [first, empty, second]


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("name", [*GRAPHS, "mixed"])
def test_a_batch_has_the_edges_of_its_graphs(name: str, used: bool) -> None:
    graphs = [make() for make in GRAPHS.values()] if name == "mixed" else parts(name)
    if used:
        for graph in graphs:
            graph.table  # noqa: B018
    both = ek.Graph.batch(graphs)
    first = np.cumsum([0, *(graph.num_nodes for graph in graphs)])
    edges = torch.cat([graph.edge_index + int(k) for graph, k in zip(graphs, first, strict=False)], dim=1)
    assert both.num_nodes == first[-1]
    assert torch.equal(both.edge_index, edges)
    assert both.is_complete == all(graph.is_complete for graph in graphs) == (name != "mixed" and graphs[0].is_complete)
    if not both.is_complete:
        same(both, ek.Graph.from_edge_index(edges, both.num_nodes))  # sorted alike
    else:
        assert both.events.num_nodes == sum(graph.events.num_nodes for graph in graphs)
        same(both, ek.Graph.complete(both.ptr, both.self_loops))


def test_complete_graphs_of_two_kinds_make_a_list() -> None:
    both = ek.Graph.batch([GRAPHS["complete"](), GRAPHS["self_loops"]()])
    assert not both.is_complete
    assert both.num_edges == GRAPHS["complete"]().num_edges + GRAPHS["self_loops"]().num_edges


def test_batching_complete_graphs_reads_nothing_back() -> None:
    with torch._subclasses.FakeTensorMode():
        one = ek.Graph.complete(torch.empty(5, dtype=torch.int64), num_nodes=12, validate=False)
        both = ek.Graph.batch([one, one])
    assert (both.num_nodes, both._num_edges) == (24, None)


def test_what_cannot_be_batched_is_named() -> None:
    with pytest.raises(ValueError, match=r"Graph.batch: graphs: expected at least one graph"):
        ek.Graph.batch([])
    with pytest.raises(TypeError, match=r"Graph.batch: graphs: expected Graphs, got Tensor"):
        ek.Graph.batch([torch.zeros(2)])  # type: ignore[list-item]
    graph = GRAPHS["sparse"]()
    with pytest.raises(ValueError, match=r"Graph.batch: graphs: expected device cpu, got meta"):
        ek.Graph.batch([graph, graph.to("meta")])


class Events(Dataset[dict[str, Any]]):
    """Graphs of different sizes together with a tensor that stacks."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, k: int) -> dict[str, Any]:
        return {"graph": ek.Graph.from_edge_index(torch.randint(0, k + 2, (2, 3 * k)), k + 2), "label": k % 2}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_batches_graphs(workers: int) -> None:
    nodes = 0
    for batch in DataLoader(Events(), batch_size=4, num_workers=workers):
        graph = batch["graph"]
        assert graph.num_edges == graph.edge_index.shape[1]
        ek.segment_reduce(torch.ones(graph.num_edges, 1), graph)
        nodes += graph.num_nodes
        assert batch["label"].dtype == torch.int64
    assert nodes == sum(k + 2 for k in range(6))


def test_pinning_reaches_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a loader, which has to find the method."""
    from torch.utils.data._utils.pin_memory import pin_memory

    seen: list[int] = []

    def pinned(t: Tensor) -> Tensor:
        seen.append(t.data_ptr())
        return t.clone()

    monkeypatch.setattr(Tensor, "pin_memory", pinned)
    for name in ("complete", "sparse", "csr"):
        graph = GRAPHS[name]()
        graph.table, graph.edge_index  # noqa: B018
        seen.clear()
        (again,) = pin_memory((graph,))
        assert set(seen) == {graph._indices.data_ptr(), graph._edges.data_ptr()}
        assert again is not graph
        same(again, graph)


@pytest.mark.parametrize("name", ["complete", "sparse", "csr"])
def test_to_another_device_and_back(name: str) -> None:
    graph = GRAPHS[name]()
    assert graph.to("cpu") is graph
    assert graph.to(device=torch.device("cpu"), non_blocking=True) is graph
    far = graph.to(device="meta", non_blocking=True)
    assert far.device.type == "meta"
    assert (far.num_nodes, far._num_edges) == (graph.num_nodes, graph._num_edges)
    assert far.to("meta") is far
    same_sizes = copy.deepcopy(far)
    assert same_sizes.device.type == "meta"
    assert pickle.loads(pickle.dumps(far)).num_nodes == graph.num_nodes


@pytest.mark.parametrize("integer", [np.int64, np.int32, np.uint8, torch.tensor, int])
def test_integers_of_other_libraries_are_numbers(integer: Callable[[int], Any]) -> None:
    edges, ptr = torch.tensor([[0, 1], [1, 2]]), torch.tensor([0, 3])
    graph = ek.Graph.from_edge_index(edges, integer(3))
    complete = ek.Graph.complete(ptr, num_nodes=integer(3), num_edges=integer(6))
    for number in (graph.num_nodes, complete.num_nodes, complete.num_edges):
        assert type(number) is int
    assert ek.pairwise_invariants(torch.randn(3, 4), complete).shape == (6, 2)


@pytest.mark.parametrize("number", [True, np.True_, 3.0, np.float32(3), "3", [3]])
def test_what_is_no_integer_is_refused(number: Any) -> None:
    with pytest.raises(TypeError, match=r"Graph.from_edge_index: num_nodes: expected an integer"):
        ek.Graph.from_edge_index(torch.tensor([[0], [1]]), number)
    with pytest.raises(TypeError, match=r"Graph.complete: num_edges: expected an integer"):
        ek.Graph.complete(torch.tensor([0, 3]), num_edges=number)
