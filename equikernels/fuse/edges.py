"""Edge lists as published code passes them, turned into graphs once per batch."""

from __future__ import annotations

import weakref
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..graph import Graph


class GraphCache:
    """Graphs by the tensors their edges came in, for as long as those live and are not written to.

    The blocks of one model share a cache: the first block of a batch makes the graph, the others find it.
    """

    def __init__(self) -> None:
        self._graphs: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def graph(self, receiver: Tensor, sender: Tensor, num_nodes: int, ordered: bool) -> Graph:
        """The graph of an edge list.

        Args:
            receiver, sender: int64 [E].
            num_nodes: n.
            ordered: per-edge tensors will be used, so edges must keep their order.
        """
        if torch.compiler.is_compiling():  # the tensors are symbols there, and finding pairs needs their values
            return Graph.from_edge_index(torch.stack([sender, receiver]), num_nodes, validate=False)
        # A row of an [2, E] tensor is a new tensor each time it is taken: its base is what lives through the batch.
        key, other = (t if t._base is None else t._base for t in (receiver, sender))
        stamp = (_stamp(receiver), _stamp(sender), num_nodes, ordered)
        known = self._graphs.get(key)
        # The sender's memory may have been freed and given to another tensor: its address alone proves nothing.
        if known is None or known[0] != stamp or known[1]() is not other:
            known = (stamp, weakref.ref(other), make_graph(receiver, sender, num_nodes, ordered))
            self._graphs[key] = known
        return known[2]

    def __deepcopy__(self, memo: dict[int, object]) -> GraphCache:
        return GraphCache()

    def __reduce__(self) -> tuple[type[GraphCache], tuple[()]]:
        return GraphCache, ()


def _stamp(t: Tensor) -> tuple[object, ...]:
    return t.data_ptr(), t.shape, t.stride(), t.device, t._version


def make_graph(receiver: Tensor, sender: Tensor, num_nodes: int, ordered: bool) -> Graph:
    """A complete graph where the edges are all pairs of each of a row of events, else CSR."""
    graph = Graph.from_edge_index(torch.stack([sender, receiver]), num_nodes)
    ptr = _events(receiver, num_nodes)
    if ptr is None:
        return graph
    complete = Graph.complete(ptr, num_nodes=num_nodes, num_edges=receiver.shape[0], validate=False)
    if torch.equal(complete.edge_index, graph.edge_index):
        return complete
    if not ordered and torch.equal(_key(complete).sort().values, _key(graph).sort().values):
        return complete
    return graph


def _key(graph: Graph) -> Tensor:
    return graph.receiver * graph.num_nodes + graph.sender


def _events(receiver: Tensor, num_nodes: int) -> Tensor | None:
    """Offsets of the events a graph of all pairs with these receivers would have; None where it cannot be one."""
    degree = torch.bincount(receiver, minlength=num_nodes).tolist()
    starts, node = [0], 0
    while node < num_nodes:
        node += degree[node] + 1
        starts.append(node)
    edges = sum((b - a) * (b - a - 1) for a, b in pairwise(starts))
    if node != num_nodes or edges != receiver.shape[0]:
        return None
    return torch.tensor(starts, device=receiver.device)
