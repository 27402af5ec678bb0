"""The one graph type: who sends to whom, stored so that every kernel reads it in order.

A graph is built once per batch and reused by every layer and by backward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .checks import check_tensor, fail

CSR, COMPLETE, COMPLETE_WITH_SELF_LOOPS = 0, 1, 2  # kinds, as the ops' schemas number them


class Graph:
    """Directed edges j -> i (sender j, receiver i) between ``num_nodes`` nodes.

    Use one of the constructors: :meth:`complete`, :meth:`from_edge_index`, :meth:`from_csr`. Per-edge tensors are in
    the order of :attr:`edge_index`, which is the order the user gave; for a complete graph it is row-major
    (receiver, sender) inside each event.

    A complete graph stores two numbers an event and no edge list: kernels enumerate its pairs. Any
    other graph holds its edges grouped by receiver and by sender (CSR and its transpose), each sorted stably; both
    are made on first use and kept.

    Attributes:
        num_nodes: number of nodes n.
        num_edges: number of edges E.
        is_complete: every pair of nodes of the same event is joined both ways.
        self_loops: for a complete graph, whether i -> i is an edge too.
    """

    num_nodes: int
    is_complete: bool
    self_loops: bool
    _num_edges: int | None
    _kind: int
    _table: Tensor | None  # what kernels read, one int64 vector; see table
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
        graph.num_nodes = num_nodes
        graph.is_complete = kind != CSR
        graph.self_loops = kind == COMPLETE_WITH_SELF_LOOPS
        graph._num_edges = num_edges
        graph._kind = kind
        graph._table = None if table is None else _normal(table)
        graph._edge_index = None if edge_index is None else _normal(edge_index)
        graph._events = None
        graph._pairs = None
        graph._by_receiver = None
        return graph

    @classmethod
    def complete(
        cls,
        ptr: Tensor,
        self_loops: bool = False,
        *,
        num_nodes: int | None = None,
        num_edges: int | None = None,
        validate: bool = True,
    ) -> Graph:
        """Joins all pairs of nodes of each event.

        Args:
            ptr: int64 [n_events + 1], starts at 0 and does not decrease; event b owns nodes ptr[b] .. ptr[b + 1] - 1.
            self_loops: whether a node also sends to itself.
            num_nodes: ptr[-1], where known; given together with ``validate=False`` nothing is read back from the
                device.
            num_edges: sum of n_b (n_b - 1), or of n_b^2 with self-loops, where known.
            validate: check the values of ``ptr`` (on CUDA this waits for the device). Without it a wrong ``ptr``, or
                one that does not end at ``num_nodes``, is undefined behaviour in the kernels.

        Raises:
            ValueError: ``ptr`` has a wrong shape, does not start at 0, decreases, or does not end at ``num_nodes``.
            TypeError: ``ptr`` is not int64.
        """
        op = "Graph.complete"
        check_tensor(op, "ptr", ptr, ["n_events + 1"], [torch.int64])
        if ptr.shape[0] < 1:
            fail(op, "ptr", "at least one entry", list(ptr.shape))
        ptr = ptr.detach().contiguous()
        counts = ptr.diff()
        if validate:
            _check_offsets(op, "ptr", ptr, counts, num_nodes)
        edges = counts * counts if self_loops else counts * (counts - 1)
        table = torch.cat([ptr, edges.new_zeros(1), edges.cumsum(0)])
        if num_nodes is None:
            num_nodes = int(ptr[-1])
            if validate and num_nodes >= 2**31 and int(counts.max()) >= 2**31:
                fail(op, "ptr", "events of fewer than 2^31 nodes", int(counts.max()))
        return cls._new(num_nodes, num_edges, COMPLETE_WITH_SELF_LOOPS if self_loops else COMPLETE, table)

    @classmethod
    def from_edge_index(cls, edge_index: Tensor, num_nodes: int | None = None, *, validate: bool = True) -> Graph:
        """Takes PyTorch Geometric's edge list.

        Args:
            edge_index: int64 [2, E], row 0 the senders (source), row 1 the receivers (target); any order, duplicates
                and self-loops allowed. A ``torch_geometric.EdgeIndex`` is taken as well.
            num_nodes: number of nodes; may be left out for an ``EdgeIndex`` that knows its size.
            validate: check that every index is in [0, num_nodes) (on CUDA this waits for the device). An index out
                of range that is not checked here is undefined behaviour in the kernels.

        Raises:
            ValueError: wrong shape, or an index out of range.
            TypeError: not int64.
        """
        op = "Graph.from_edge_index"
        if hasattr(edge_index, "as_tensor") and hasattr(edge_index, "sparse_size"):
            if num_nodes is None and None not in edge_index.sparse_size():
                num_nodes = max(edge_index.sparse_size())
            edge_index = edge_index.as_tensor()
        check_tensor(op, "edge_index", edge_index, [2, "E"], [torch.int64])
        if num_nodes is None:
            fail(op, "num_nodes", "a number", "None")
        assert num_nodes is not None
        if num_nodes < 0:
            fail(op, "num_nodes", "a number >= 0", num_nodes)
        if validate and edge_index.numel() > 0:
            low, high = (int(v) for v in edge_index.aminmax())
            if low < 0 or high >= num_nodes:
                fail(op, "edge_index", f"indices in [0, {num_nodes})", f"[{low}, {high}]")
        return cls._new(num_nodes, edge_index.shape[1], CSR, edge_index=edge_index.detach())

    @classmethod
    def from_csr(cls, rowptr: Tensor, col: Tensor, *, validate: bool = True) -> Graph:
        """Takes edges already grouped by receiver: receiver i hears ``col[rowptr[i]:rowptr[i + 1]]``.

        Args:
            rowptr: int64 [num_nodes + 1], starts at 0, does not decrease, ends at E.
            col: int64 [E], senders.
            validate: check the values (on CUDA this waits for the device). Wrong ones that are not checked here are
                undefined behaviour in the kernels.

        Raises:
            ValueError: wrong shape, offsets that are no offsets, or an index out of range.
            TypeError: not int64.
        """
        op = "Graph.from_csr"
        check_tensor(op, "rowptr", rowptr, ["num_nodes + 1"], [torch.int64])
        check_tensor(op, "col", col, ["E"], [torch.int64], like=rowptr)
        if rowptr.shape[0] < 1:
            fail(op, "rowptr", "at least one entry", list(rowptr.shape))
        num_nodes, num_edges = rowptr.shape[0] - 1, col.shape[0]
        rowptr, col = rowptr.detach().contiguous(), col.detach().contiguous()
        counts = rowptr.diff()
        if validate:
            _check_offsets(op, "rowptr", rowptr, counts, num_edges)
            if num_edges > 0:
                low, high = (int(v) for v in col.aminmax())
                if low < 0 or high >= num_nodes:
                    fail(op, "col", f"indices in [0, {num_nodes})", f"[{low}, {high}]")
        receiver = torch.repeat_interleave(counts, output_size=num_edges)
        identity = torch.arange(num_edges, device=col.device)
        out_ptr, out_edge = _group(col, num_nodes)
        table = torch.cat([rowptr, col, identity, out_ptr, receiver[out_edge], out_edge])
        return cls._new(num_nodes, num_edges, CSR, table, torch.stack([col, receiver]))

    @property
    def num_edges(self) -> int:
        """Number of edges E. For a complete graph made without it, this reads one number from the device."""
        if self._num_edges is None:
            num_edges: int = self.table[-1].item()  # type: ignore[assignment]
            torch._check(num_edges >= 0)  # tells export what it may assume of a number it cannot see
            self._num_edges = num_edges
        return self._num_edges

    @property
    def ptr(self) -> Tensor | None:
        """First node of each event, [n_events + 1]; complete graphs only."""
        return self.table[: self.table.shape[0] // 2] if self.is_complete else None

    @property
    def device(self) -> torch.device:
        return self.table.device if self._edge_index is None else self._edge_index.device

    @property
    def edge_index(self) -> Tensor:
        """[2, E] int64: row 0 senders, row 1 receivers, in the order of per-edge tensors."""
        if self._edge_index is None:
            edge_index = self._enumerate_pairs() if self.is_complete else self._edges_from_csr()
            self._edge_index = _normal(edge_index)
        return self._edge_index

    @property
    def sender(self) -> Tensor:
        """[E] int64: the node each edge leaves."""
        return self.edge_index[0]

    @property
    def receiver(self) -> Tensor:
        """[E] int64: the node each edge arrives at."""
        return self.edge_index[1]

    def in_degree(self) -> Tensor:
        """[num_nodes] int64: edges each node receives."""
        if not self.is_complete:
            return self._parts()[0].diff()
        counts = self._parts()[0].diff()
        width = counts if self.self_loops else counts - 1
        return torch.repeat_interleave(width, counts, output_size=self.num_nodes)

    def out_degree(self) -> Tensor:
        """[num_nodes] int64: edges each node sends."""
        return self.in_degree() if self.is_complete else self._parts()[3].diff()

    @property
    def events(self) -> Graph:
        """The nodes as edges of their events; complete graphs only, made on first use.

        Segment sums over this graph are sums over the particles of each event, and ``events.receiver`` [num_nodes] is
        the event of each node.
        """
        if self._events is None:
            ptr = self.ptr
            assert ptr is not None, "only a complete graph knows its events"
            event = torch.repeat_interleave(ptr.diff(), output_size=self.num_nodes)
            # sorted by both ends, and both ends are the same
            side = [ptr, event, torch.arange(self.num_nodes, device=ptr.device)]
            table, edge_index = torch.cat(side + side), torch.stack([event, event])
            self._events = Graph._new(ptr.shape[0] - 1, self.num_nodes, CSR, table, edge_index)
        return self._events

    @property
    def pairs(self) -> Graph:
        """All pairs (i, j) of nodes of the same event, i = j included, row-major: the rows of a rank-2 tensor.

        Complete graphs only; made on first use. ``pairs.receiver`` and ``pairs.sender`` are i and j.
        """
        if self.self_loops:
            return self
        if self._pairs is None:
            ptr = self.ptr
            assert ptr is not None, "only a complete graph knows its events"
            self._pairs = Graph.complete(ptr, self_loops=True, num_nodes=self.num_nodes, validate=False)
        return self._pairs

    @property
    def reversed(self) -> Graph:
        """The same edges, in the same order, with senders and receivers exchanged."""
        if self.is_complete:
            return Graph.from_edge_index(self.edge_index.flip(0), self.num_nodes, validate=False)
        in_table, out_table = self.table.chunk(2)
        edge_index = None if self._edge_index is None else self._edge_index.flip(0)
        return Graph._new(self.num_nodes, self.num_edges, CSR, torch.cat([out_table, in_table]), edge_index)

    @property
    def by_receiver(self) -> tuple[Graph, Tensor]:
        """The same edges in the order in which kernels walk them, by receiver, and the edge [E] each of them is here.

        A network that keeps memory on edges reads and writes it in a row then. Made on first use.
        """
        if self._by_receiver is None:
            if self.is_complete:
                self._by_receiver = self, torch.arange(self.num_edges, device=self.device)
            else:
                in_ptr, sender, in_edge, out_ptr, receiver, out_edge = self._parts()
                places = torch.arange(in_edge.shape[0], device=in_edge.device)
                place = torch.empty_like(in_edge).index_copy_(0, in_edge, places)
                table = torch.cat([in_ptr, sender, places, out_ptr, receiver, place[out_edge]])
                self._by_receiver = Graph._new(self.num_nodes, self.num_edges, CSR, _normal(table)), _normal(in_edge)
        return self._by_receiver

    @property
    def table(self) -> Tensor:
        """What the kernels read, one int64 vector; made on first use.

        A complete graph: ptr, edge_ptr (first edge of each event). Any other: in_ptr, sender, in_edge, out_ptr,
        receiver, out_edge, that is CSR by receiver, its transpose, and for each slot the edge it stands for.
        """
        if self._table is None:
            assert self._edge_index is not None
            sender, receiver = self._edge_index[0], self._edge_index[1]
            in_ptr, in_edge = _group(receiver, self.num_nodes)
            out_ptr, out_edge = _group(sender, self.num_nodes)
            table = torch.cat([in_ptr, sender[in_edge], in_edge, out_ptr, receiver[out_edge], out_edge])
            self._table = _normal(table)
        return self._table

    def _parts(self) -> list[Tensor]:
        table = self.table
        if self.is_complete:
            return list(table.chunk(2))
        n, e = self.num_nodes + 1, self._num_edges
        return list(table.split([n, e, e, n, e, e]))

    def to(self, device: torch.device | str) -> Graph:
        """The same graph on another device; what has been derived so far is moved, not made again."""
        leaves, context = _flatten(self)
        return _unflatten([leaf.to(device) if isinstance(leaf, Tensor) else leaf for leaf in leaves], context)

    def __repr__(self) -> str:
        kind = "complete" if self.is_complete else "sparse"
        return f"Graph({kind}, num_nodes={self.num_nodes}, num_edges={self.num_edges})"

    def _enumerate_pairs(self) -> Tensor:
        ptr, edge_ptr = self._parts()
        counts, edge_counts = ptr.diff(), edge_ptr.diff()
        event = torch.repeat_interleave(edge_counts, output_size=self.num_edges)
        width = (counts if self.self_loops else counts - 1)[event]
        k = torch.arange(self.num_edges, device=ptr.device) - edge_ptr[event]
        i = torch.div(k, width, rounding_mode="floor")
        j = k - i * width
        if not self.self_loops:
            j = j + (j >= i)
        return torch.stack([j, i]) + ptr[event]

    def _edges_from_csr(self) -> Tensor:
        in_ptr, sender, in_edge = self._parts()[:3]
        receiver = torch.repeat_interleave(in_ptr.diff(), output_size=self.num_edges)
        edges = torch.stack([sender, receiver])
        return torch.empty_like(edges).index_copy_(1, in_edge, edges)


def _normal(t: Tensor) -> Tensor:
    """A graph first used under torch.inference_mode may be trained on later, which inference tensors cannot be."""
    if torch.compiler.is_compiling() or not isinstance(t, Tensor) or not t.is_inference():
        return t
    with torch.inference_mode(False):
        return t.clone()


def _check_offsets(op: str, argument: str, ptr: Tensor, counts: Tensor, end: int | None) -> None:
    if ptr.is_meta:
        fail(op, argument, "a tensor with values to check", "one on device meta")
    if int(ptr[0]) != 0:
        fail(op, argument, "a first entry of 0", int(ptr[0]))
    if counts.numel() > 0 and int(counts.min()) < 0:
        b = int(counts.argmin())
        fail(op, argument, "entries that do not decrease", f"{int(ptr[b])} before {int(ptr[b + 1])} at entry {b + 1}")
    if end is not None and int(ptr[-1]) != end:
        fail(op, argument, f"a last entry of {end}", int(ptr[-1]))


def _group(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sorts edges stably by an end. Returns (ptr [size + 1], order [E]): edges order[ptr[i]:ptr[i + 1]] have end i."""
    order = torch.argsort(index, stable=True)
    nodes = torch.arange(size + 1, device=index.device)
    return torch.searchsorted(index[order], nodes), order


def _flatten(graph: Graph) -> tuple[list[Any], int]:
    if graph.is_complete:
        return [graph.table, graph.num_nodes, graph._num_edges], graph._kind
    return [graph.table, graph.num_nodes, graph._num_edges, graph.edge_index], graph._kind


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
