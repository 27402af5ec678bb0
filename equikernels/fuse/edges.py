"""Edge lists as published code passes them, turned into graphs once per batch."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..graph import Graph


class GraphCache:
    """Graphs, and orders of pairs, by the tensors they are made of, for as long as those live and are not written to.

    The blocks of one model share a cache: the first block of a batch makes what the others find.
    """

    def __init__(self) -> None:
        self._made: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def graph(self, receiver: Tensor, sender: Tensor, num_nodes: int, ordered: bool) -> Graph:
        """The graph of an edge list.

        Args:
            receiver, sender: int64 [E].
            num_nodes: n.
            ordered: per-edge tensors will be used, so edges must keep their order.
        """
        if torch.compiler.is_compiling():  # the tensors are symbols there, and finding pairs needs their values
            return Graph.from_edge_index(torch.stack([sender, receiver]), num_nodes, validate=False)
        what = ("graph", num_nodes, ordered)
        return self.once((receiver, sender), what, lambda: make_graph(receiver, sender, num_nodes, ordered))

    def once(self, tensors: tuple[Tensor, ...], what: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, which is called once for the same tensors; it depends on their values and ``what``."""
        # A row of an [2, E] tensor is a new tensor each time it is taken: its base is what lives through the batch.
        key, *others = (t if t._base is None else t._base for t in tensors)
        if key.is_inference() or any(t.is_inference() for t in others):
            return make()  # writes to these are not counted
        stamp = tuple(_stamp(t) for t in tensors)
        known = self._made.setdefault(key, {})
        # Another tensor's memory may have been freed and given to a new one: its address alone proves nothing.
        if what not in known or known[what][0] != stamp or not _alive(known[what][1], others):
            with torch.inference_mode(False):  # what is made for a score may be trained on later
                known[what] = (stamp, [weakref.ref(o) for o in others], make())
        return known[what][2]

    def __deepcopy__(self, memo: dict[int, object]) -> GraphCache:
        return GraphCache()

    def __reduce__(self) -> tuple[type[GraphCache], tuple[()]]:
        return GraphCache, ()


def _alive(references: list[weakref.ref[Tensor]], tensors: list[Tensor]) -> bool:
    return all(r() is t for r, t in zip(references, tensors, strict=True))


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
