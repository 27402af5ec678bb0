"""Edge lists as published code passes them, turned into graphs once per batch."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..graph import Graph

KEPT = 4  # batches that a model may alternate between, such as those of two heads or of a siamese network


class _Made(NamedTuple):
    what: Hashable
    tensors: tuple[Tensor, ...]  # copies of what it was made of
    result: Any


class GraphCache:
    """The last few graphs, and orders of pairs, with copies of the tensors that they were made of.

    The blocks of one model share a cache: the first block of a batch makes what the others find. Contents are
    compared at every look-up: tensors change in place, through NumPy, or because memory is used again. Comparing costs
    a hundredth of a layer.
    """

    def __init__(self) -> None:
        self._made: list[_Made] = []

    def graph(self, receiver: Tensor, sender: Tensor, num_nodes: int, ordered: bool) -> Graph:
        """The graph of an edge list.

        Args:
            receiver, sender: int64 [E].
            num_nodes: n.
            ordered: per-edge tensors will be used, so edges must keep their order.

        Raises:
            ValueError: a node that does not exist.
        """
        if torch.compiler.is_compiling():  # the tensors are symbols there, and finding pairs needs their values
            return Graph.from_edge_index(torch.stack([sender, receiver]), num_nodes, validate=False)
        what = ("graph", num_nodes, ordered)
        return self.once((receiver, sender), what, lambda: make_graph(receiver, sender, num_nodes, ordered))

    def once(self, tensors: tuple[Tensor, ...], what: Hashable, make: Callable[[], Any]) -> Any:
        """What ``make`` gives, which is called once for the same ``what`` and equal tensors."""
        if torch.compiler.is_compiling():
            return make()
        for k, made in enumerate(self._made):
            if made.what == what and _equal(made.tensors, tensors):
                if k > 0:
                    self._made = [made, *(m for m in self._made if m is not made)]
                return made.result
        with torch.inference_mode(False):  # what is made for a score may be trained on later
            made = _Made(what, tuple(t.detach().clone() for t in tensors), make())
        self._made = [made, *self._made[: KEPT - 1]]
        return made.result

    def __deepcopy__(self, memo: dict[int, object]) -> GraphCache:
        return GraphCache()

    def __reduce__(self) -> tuple[type[GraphCache], tuple[()]]:
        return GraphCache, ()


def _equal(known: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> bool:
    return all(
        k.shape == t.shape and k.dtype == t.dtype and k.device == t.device and torch.equal(k, t)
        for k, t in zip(known, given, strict=True)
    )


def make_graph(receiver: Tensor, sender: Tensor, num_nodes: int, ordered: bool) -> Graph:
    """A complete graph where the edges are all pairs of each of a row of events, else CSR."""
    graph = Graph.from_edge_index(torch.stack([sender, receiver]), num_nodes)
    ptr = _events(receiver, num_nodes)
    if ptr is None:
        return graph
    complete = Graph.complete(ptr, num_nodes=num_nodes, num_edges=receiver.shape[0], validate=False)
    if torch.equal(complete._edges, graph._edges):
        return complete
    if not ordered and torch.equal(_key(complete).sort().values, _key(graph).sort().values):
        return complete
    return graph


def _key(graph: Graph) -> Tensor:
    sender, receiver = graph._edges
    return receiver * graph.num_nodes + sender


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
