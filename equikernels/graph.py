"""The graph type: edges from senders to receivers, stored in the order in which kernels read them.

A graph is built once per batch and reused by every layer and by backward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from .checks import as_int, check_tensor, fail
from .export import for_any_size
from .indices import all_pairs, check_indices, check_offsets, edges_of, edges_table, normal, own, pairs_table

CSR, COMPLETE, COMPLETE_WITH_SELF_LOOPS = 0, 1, 2  # kinds, numbered as in the ops' schemas


class Graph:
    """Directed edges j -> i (sender j, receiver i) between ``num_nodes`` nodes.

    Use one of the constructors: :meth:`complete`, :meth:`from_edge_index`, :meth:`from_csr`. Per-edge tensors are in
    the order of :attr:`edge_index`, which is the user's order; for a complete graph it is row-major (receiver, sender)
    inside each event.

    A complete graph stores two numbers per event and no edge list: kernels enumerate its pairs. Any other graph stores
    its edges grouped by receiver and by sender (CSR and its transpose), each sorted stably; both are made on first use
    and kept.

    Kernels read memory at a graph's indices, which are checked once. A graph therefore owns its indices and is
    immutable: constructors copy their arguments; :attr:`edge_index`, :attr:`sender`, :attr:`receiver`, :attr:`ptr` and
    :attr:`table` return copies; attributes cannot be set. (As a pytree a graph exposes the tensors themselves: do not
    write to them.)
    """

    _num_nodes: int
    _num_edges: int | None
    _kind: int
    _table: Tensor | None  # one int64 vector, read by kernels; see table
    _edge_index: Tensor | None  # [2, E]: sender, receiver
    _events: Graph | None  # see events
    _pairs: Graph | None  # see pairs
    _by_receiver: tuple[Graph, Tensor] | None  # see by_receiver

    def __init__(self) -> None:
        raise TypeError("Graph: use Graph.complete, Graph.from_edge_index or Graph.from_csr")

    @classmethod
    def _new(
        cls,
        num_nodes: int,
        num_edges: int | None,
        kind: int,
        table: Tensor | None = None,
        edge_index: Tensor | None = None,
    ) -> Graph:
        graph = object.__new__(cls)
        graph._num_nodes = num_nodes
        graph._num_edges = num_edges
        graph._kind = kind
        graph._table = None if table is None else normal(table)
        graph._edge_index = None if edge_index is None else normal(edge_index)
        graph._events = None
        graph._pairs = None
        graph._by_receiver = None
        return graph

    @classmethod
    @for_any_size
    def complete(
        cls,
        ptr: Tensor,
        self_loops: bool = False,
        *,
        num_nodes: SupportsIndex | None = None,
        num_edges: SupportsIndex | None = None,
        validate: bool = True,
    ) -> Graph:
        """Connects all pairs of nodes of each event.

        Args:
            ptr: int64 [n_events + 1], starts at 0 and does not decrease; event b owns nodes ptr[b] .. ptr[b + 1] - 1.
            self_loops: whether a node also sends to itself.
            num_nodes: ptr[-1], if known; together with ``validate=False`` nothing is copied from the device.
            num_edges: sum of n_b (n_b - 1), or of n_b^2 with self-loops, if known.
            validate: check the values of ``ptr`` and ``num_edges`` (on CUDA this synchronises). Without it a
                wrong ``ptr``, or one that does not end at ``num_nodes``, is undefined behaviour in the kernels.

        Raises:
            ValueError: ``ptr`` has a wrong shape, does not start at 0, decreases, or does not end at ``num_nodes``;
                ``num_edges`` is wrong.
            TypeError: ``ptr`` is not int64, or a number is not an integer.
        """
        graph = cls._complete(ptr, self_loops, num_nodes=num_nodes, num_edges=num_edges, validate=validate)
        if num_edges is None:
            graph._num_edges = None  # compiled code would take the number of the first batch for a constant
        return graph

    @classmethod
    def _complete(
        cls,
        ptr: Tensor,
        self_loops: bool,
        *,
        num_nodes: SupportsIndex | None,
        num_edges: SupportsIndex | None,
        validate: bool,
    ) -> Graph:
        """:meth:`complete`, with the number of edges where it comes for nothing."""
        op = "Graph.complete"
        check_tensor(op, "ptr", ptr, ["n_events + 1"], [torch.int64])
        if ptr.shape[0] < 1:
            fail(op, "ptr", "at least one entry", list(ptr.shape))
        nodes = None if num_nodes is None else as_int(op, "num_nodes", num_nodes)
        known = None if num_edges is None else as_int(op, "num_edges", num_edges)
        table, edges = pairs_table(ptr, self_loops, nodes)
        if validate and edges is None:
            check_offsets(op, "ptr", table[: ptr.shape[0]], nodes)
        if validate and known is not None and int(table[-1]) != known:
            fail(op, "num_edges", f"{int(table[-1])} edges", known)
        if nodes is None:
            ptr = table[: ptr.shape[0]]
            nodes = int(ptr[-1])
            if validate and nodes >= 2**31 and int(ptr.diff().max()) >= 2**31:
                fail(op, "ptr", "events of fewer than 2^31 nodes", int(ptr.diff().max()))
        kind = COMPLETE_WITH_SELF_LOOPS if self_loops else COMPLETE
        return cls._new(nodes, edges if known is None else known, kind, table)

    @classmethod
    @for_any_size
    def from_edge_index(
        cls, edge_index: Tensor, num_nodes: SupportsIndex | None = None, *, validate: bool = True
    ) -> Graph:
        """Copies an edge list in the form of PyTorch Geometric.

        Args:
            edge_index: int64 [2, E], row 0 the senders (source), row 1 the receivers (target); any order, duplicates
                and self-loops allowed. A ``torch_geometric.EdgeIndex`` is accepted.
            num_nodes: number of nodes; may be left out for an ``EdgeIndex`` that knows its size.
            validate: check that every index is in [0, num_nodes) (on CUDA this synchronises). Without it an index out
                of range is undefined behaviour in the kernels.

        Raises:
            ValueError: wrong shape, or an index out of range.
            TypeError: not int64, or ``num_nodes`` is not an integer.
        """
        op = "Graph.from_edge_index"
        if hasattr(edge_index, "as_tensor") and hasattr(edge_index, "sparse_size"):
            if num_nodes is None and None not in edge_index.sparse_size():
                num_nodes = max(edge_index.sparse_size())
            edge_index = edge_index.as_tensor()
        check_tensor(op, "edge_index", edge_index, [2, "E"], [torch.int64])
        if num_nodes is None:
            fail(op, "num_nodes", "a number", "None")
        nodes = as_int(op, "num_nodes", num_nodes)
        if nodes < 0:
            fail(op, "num_nodes", "a number >= 0", nodes)
        edge_index = own(edge_index)
        if validate:
            check_indices(op, "edge_index", edge_index, nodes)
        return cls._new(nodes, edge_index.shape[1], CSR, edge_index=edge_index)

    @classmethod
    @for_any_size
    def from_csr(cls, rowptr: Tensor, col: Tensor, *, validate: bool = True) -> Graph:
        """Copies edges grouped by receiver: receiver i has the senders ``col[rowptr[i]:rowptr[i + 1]]``.

        Args:
            rowptr: int64 [num_nodes + 1], starts at 0, does not decrease, ends at E.
            col: int64 [E], senders.
            validate: check the values (on CUDA this synchronises). Without it wrong values are undefined behaviour in
                the kernels.

        Raises:
            ValueError: wrong shape, invalid offsets, or an index out of range.
            TypeError: not int64.
        """
        op = "Graph.from_csr"
        check_tensor(op, "rowptr", rowptr, ["num_nodes + 1"], [torch.int64])
        check_tensor(op, "col", col, ["E"], [torch.int64], like=rowptr)
        if rowptr.shape[0] < 1:
            fail(op, "rowptr", "at least one entry", list(rowptr.shape))
        num_nodes, num_edges = rowptr.shape[0] - 1, col.shape[0]
        rowptr, col = own(rowptr), own(col)
        counts = rowptr.diff()
        if validate:
            check_offsets(op, "rowptr", rowptr, num_edges)
            check_indices(op, "col", col, num_nodes)
        edges = torch.stack([col, torch.repeat_interleave(counts, output_size=num_edges)])
        return cls._new(num_nodes, num_edges, CSR, edges_table(edges, num_nodes, rowptr), edges)

    @classmethod
    def batch(cls, graphs: Sequence[Graph]) -> Graph:
        """Concatenates graphs into one: nodes and edges of the first graph, then those of the second, ...

        ``torch.utils.data.default_collate`` uses it to make a batch of graphs. Complete graphs of one kind give a
        complete graph; any others give a graph with an edge list. Nothing is copied from the device.

        Raises:
            ValueError: no graphs, or graphs on several devices.
            TypeError: an item is not a graph.
        """
        return _state.batch(graphs)

    @property
    def num_nodes(self) -> int:
        """Number of nodes n."""
        return self._num_nodes

    @property
    def is_complete(self) -> bool:
        """Whether the edges are all pairs of nodes of the same event, in both directions."""
        return self._kind != CSR

    @property
    def self_loops(self) -> bool:
        """For a complete graph, whether it includes the edges i -> i."""
        return self._kind == COMPLETE_WITH_SELF_LOOPS

    @property
    def num_edges(self) -> int:
        """Number of edges E. For a complete graph made without it, this copies one number from the device."""
        if self._num_edges is None:
            num_edges: int = self._indices[-1].item()  # type: ignore[assignment]
            torch._check(num_edges >= 0)  # tells torch.export the range of an unknown number
            self._num_edges = num_edges
        return self._num_edges

    @property
    def ptr(self) -> Tensor | None:
        """A copy of the first node of each event, [n_events + 1]; complete graphs only."""
        return self._ptr.clone() if self.is_complete else None

    @property
    def device(self) -> torch.device:
        return self._indices.device if self._edge_index is None else self._edge_index.device

    @property
    def edge_index(self) -> Tensor:
        """A copy of [2, E] int64: row 0 senders, row 1 receivers, in the order of per-edge tensors."""
        return self._edges.clone()

    @property
    def sender(self) -> Tensor:
        """A copy of [E] int64: the sender of each edge."""
        return self._edges[0].clone()

    @property
    def receiver(self) -> Tensor:
        """A copy of [E] int64: the receiver of each edge."""
        return self._edges[1].clone()

    def in_degree(self) -> Tensor:
        """[num_nodes] int64: the number of edges that each node receives."""
        if not self.is_complete:
            return self._parts()[0].diff()
        counts = self._parts()[0].diff()
        width = counts if self.self_loops else counts - 1
        return torch.repeat_interleave(width, counts, output_size=self.num_nodes)

    def out_degree(self) -> Tensor:
        """[num_nodes] int64: the number of edges that each node sends."""
        return self.in_degree() if self.is_complete else self._parts()[3].diff()

    @property
    def events(self) -> Graph:
        """The nodes as edges of their events; complete graphs only, made on first use.

        Segment sums over this graph are sums over the particles of each event, and ``events.receiver`` [num_nodes] is
        the event of each node."""
        if self._events is None:
            ptr = self._ptr
            event = torch.repeat_interleave(ptr.diff(), output_size=self.num_nodes)
            # sorted by both ends, which are equal
            side = [ptr, event, torch.arange(self.num_nodes, device=ptr.device)]
            table, edge_index = torch.cat(side + side), torch.stack([event, event])
            self._events = Graph._new(ptr.shape[0] - 1, self.num_nodes, CSR, table, edge_index)
        return self._events

    @property
    def pairs(self) -> Graph:
        """All pairs (i, j) of nodes of the same event, i = j included, row-major: the rows of a rank-2 tensor.

        Complete graphs only; made on first use. ``pairs.receiver`` and ``pairs.sender`` are i and j."""
        if self.self_loops:
            return self
        if self._pairs is None:
            self._pairs = Graph.complete(self._ptr, self_loops=True, num_nodes=self.num_nodes, validate=False)
        return self._pairs

    @property
    def reversed(self) -> Graph:
        """The same edges, in the same order, with senders and receivers exchanged."""
        if self.is_complete:
            return Graph._new(self.num_nodes, self.num_edges, CSR, edge_index=self._edges.flip(0))
        in_table, out_table = self._indices.chunk(2)
        edge_index = None if self._edge_index is None else self._edge_index.flip(0)
        return Graph._new(self.num_nodes, self.num_edges, CSR, torch.cat([out_table, in_table]), edge_index)

    @property
    def by_receiver(self) -> tuple[Graph, Tensor]:
        """The same edges in the order of kernels, sorted by receiver, and the index [E] of each of them in this graph.

        A network with edge memory then reads and writes it contiguously. Made on first use; the second is a copy.
        """
        graph, order = self._ordered
        return graph, order.clone()

    @property
    def _ordered(self) -> tuple[Graph, Tensor]:
        """by_receiver itself; do not write to the second."""
        if self._by_receiver is None:
            if self.is_complete:
                self._by_receiver = self, torch.arange(self.num_edges, device=self.device)
            else:
                in_ptr, sender, in_edge, out_ptr, receiver, out_edge = self._parts()
                places = torch.arange(in_edge.shape[0], device=in_edge.device)
                place = torch.empty_like(in_edge).index_copy_(0, in_edge, places)
                table = torch.cat([in_ptr, sender, places, out_ptr, receiver, place[out_edge]])
                self._by_receiver = Graph._new(self.num_nodes, self.num_edges, CSR, normal(table)), normal(in_edge)
        return self._by_receiver

    @property
    def table(self) -> Tensor:
        """A copy of the indices that kernels read, one int64 vector.

        A complete graph: ptr, edge_ptr (first edge of each event). Any other: in_ptr, sender, in_edge, out_ptr,
        receiver, out_edge: CSR by receiver, its transpose, and the edge of each slot.
        """
        return self._indices.clone()

    @property
    def _ptr(self) -> Tensor:
        """ptr itself: a view of the table."""
        assert self.is_complete, "only a complete graph knows its events"
        return self._indices[: self._indices.shape[0] // 2]

    @property
    def _indices(self) -> Tensor:
        """The table itself, made on first use; write to neither this nor a view of it."""
        if self._table is None:
            assert self._edge_index is not None
            self._table = normal(edges_table(self._edge_index, self.num_nodes))
        return self._table

    @property
    def _edges(self) -> Tensor:
        """edge_index itself, made on first use; write to neither this nor a view of it."""
        if self._edge_index is None:
            edge_index = self._all_pairs() if self.is_complete else edges_of(*self._parts()[:3])
            self._edge_index = normal(edge_index)
        return self._edge_index

    def _parts(self) -> list[Tensor]:
        table = self._indices
        if self.is_complete:
            return list(table.chunk(2))
        n, e = self.num_nodes + 1, self._num_edges
        return list(table.split([n, e, e, n, e, e]))

    def to(self, device: torch.device | str | int, *, non_blocking: bool = False) -> Graph:
        """The same graph on another device, including all derived tensors; itself if it is there already."""
        device = torch.empty(0, device=device).device  # with its index
        return self if device == self.device else self._map(lambda t: t.to(device, non_blocking=non_blocking))

    def cpu(self) -> Graph:
        return self.to("cpu")

    def cuda(self, device: torch.device | str | int = "cuda", *, non_blocking: bool = False) -> Graph:
        return self.to(device, non_blocking=non_blocking)

    def pin_memory(self) -> Graph:
        """The same graph in pinned memory; a ``DataLoader`` with ``pin_memory=True`` calls this."""
        return self._map(lambda t: t.pin_memory())

    def is_pinned(self) -> bool:
        return all(t.is_pinned() for t in (self._table, self._edge_index) if t is not None)

    def _map(self, function: Callable[[Tensor], Tensor]) -> Graph:
        table, edges = (None if t is None else function(t) for t in (self._table, self._edge_index))
        return Graph._new(self._num_nodes, self._num_edges, self._kind, table, edges)

    def __deepcopy__(self, memo: dict[int, Any]) -> Graph:
        return self._map(torch.clone)

    def __copy__(self) -> Graph:
        return self._map(lambda t: t)

    def __reduce__(self) -> tuple[Any, ...]:
        return _state.reduced(self)

    def __repr__(self) -> str:
        kind = "complete" if self.is_complete else "sparse"
        return f"Graph({kind}, num_nodes={self.num_nodes}, num_edges={self.num_edges})"

    def _all_pairs(self) -> Tensor:
        ptr, edge_ptr = self._parts()
        return all_pairs(ptr, edge_ptr, self.num_edges, self.self_loops)


from . import graph_state as _state  # noqa: E402 (it needs the class)
