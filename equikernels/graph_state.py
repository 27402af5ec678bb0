"""Converts a graph to tensors and back: batches, pickles and files, pytrees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data._utils.collate import default_collate_fn_map

from .checks import fail
from .graph import COMPLETE_WITH_SELF_LOOPS, CSR, Graph


def batch(graphs: Sequence[Graph]) -> Graph:
    """See :meth:`Graph.batch`."""
    op, graphs = "Graph.batch", list(graphs)
    if len(graphs) == 0:
        fail(op, "graphs", "at least one graph", "none")
    for graph in graphs:
        if not isinstance(graph, Graph):
            fail(op, "graphs", "Graphs", type(graph).__name__, TypeError)
        if graph.device != graphs[0].device:
            fail(op, "graphs", f"device {graphs[0].device}", graph.device)
    nodes, kind = sum(graph.num_nodes for graph in graphs), graphs[0]._kind
    if kind != CSR and all(graph._kind == kind for graph in graphs):
        known = [graph._num_edges for graph in graphs]
        edges_in_all = None if None in known else sum(known)  # type: ignore[arg-type]
        ptr, edge_ptr = zip(*(graph._parts() for graph in graphs), strict=True)
        return Graph._new(nodes, edges_in_all, kind, torch.cat([_joined(ptr), _joined(edge_ptr)]))
    num_edges = sum(graph.num_edges for graph in graphs)
    first_node = [0, *accumulate(graph.num_nodes for graph in graphs)]
    edges = torch.cat([graph._edges + first for graph, first in zip(graphs, first_node, strict=False)], dim=1)
    table = None
    if all(graph._kind == CSR and graph._table is not None for graph in graphs):  # sorted tensors stay sorted
        first_edge = [0, *accumulate(graph.num_edges for graph in graphs)]
        in_ptr, sender, in_edge, out_ptr, receiver, out_edge = zip(*(g._parts() for g in graphs), strict=True)
        by_receiver = _joined(in_ptr), _shifted(sender, first_node), _shifted(in_edge, first_edge)
        by_sender = _joined(out_ptr), _shifted(receiver, first_node), _shifted(out_edge, first_edge)
        table = torch.cat([*by_receiver, *by_sender])
    return Graph._new(nodes, num_edges, CSR, table, edges)


def _joined(offsets: Sequence[Tensor]) -> Tensor:
    """The offsets of concatenated lists, from the offsets of each."""
    counts = torch.cat([offsets[0][:1], *(ptr.diff() for ptr in offsets)])
    return counts.cumsum(0)


def _shifted(parts: Sequence[Tensor], first: Sequence[int]) -> Tensor:
    return torch.cat([part + start for part, start in zip(parts, first, strict=False)])


def _collate(batch_of: Sequence[Graph], *, collate_fn_map: Any = None) -> Graph:
    return batch(batch_of)


default_collate_fn_map[Graph] = _collate


def reduced(graph: Graph) -> tuple[Callable[..., Graph], tuple[Any, ...]]:
    """The state for pickle: the arguments of the constructor, which are checked again when they are read."""
    given = graph._ptr.clone() if graph.is_complete else graph._edges
    return rebuilt, (graph._kind, graph._num_nodes, graph._num_edges, given)


def rebuilt(kind: int, num_nodes: int, num_edges: int | None, given: Tensor) -> Graph:
    """Makes a graph from the state in a pickle; files may contain anything."""
    validate = not (isinstance(given, Tensor) and given.is_meta)  # has no values and is never read
    if kind == CSR:
        return Graph.from_edge_index(given, num_nodes, validate=validate)
    self_loops = kind == COMPLETE_WITH_SELF_LOOPS
    return Graph.complete(given, self_loops, num_nodes=num_nodes, num_edges=num_edges, validate=validate)


torch.serialization.add_safe_globals([rebuilt])


def _flatten(graph: Graph) -> tuple[list[Any], int]:
    if graph.is_complete:
        return [graph._indices, graph._num_nodes, graph._num_edges], graph._kind
    return [graph._indices, graph._num_nodes, graph._num_edges, graph._edges], graph._kind


def _unflatten(leaves: Iterable[Any], kind: int) -> Graph:
    table, num_nodes, num_edges, *edge_index = leaves
    return Graph._new(num_nodes, num_edges, kind, table, *edge_index)


def _flatten_with_keys(graph: Graph) -> tuple[list[tuple[Any, Any]], int]:
    leaves, kind = _flatten(graph)
    names = ("table", "num_nodes", "num_edges", "edge_index")
    return [(pytree.GetAttrKey(name), leaf) for name, leaf in zip(names, leaves, strict=False)], kind


pytree.register_pytree_node(
    Graph,
    _flatten,
    _unflatten,
    flatten_with_keys_fn=_flatten_with_keys,
    serialized_type_name="equikernels.Graph",
)
