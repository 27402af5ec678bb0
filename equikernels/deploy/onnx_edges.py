"""The edges of a graph in ONNX: their ends, rows of them, sums over them.

A tensor of edges has a row for each, [E, C], in the graph's order. The ends of a complete graph's edges follow from its
offsets; equal formulas of several nodes are computed once, by the runtime.
"""

from __future__ import annotations

import numpy as np

from ..graph import COMPLETE, CSR
from .onnx_body import Body, Value


class Edges:
    """The edges of a graph.

    Attributes:
        nodes: int64 [1], their number.
        receiver, sender: int64 [E].
        degree: int64 [n], edges that a node receives.
        received: int64 [n, N], their numbers; E where there are fewer.
    """

    receiver: Value
    sender: Value
    degree: Value
    received: Value

    def __init__(self, body: Body, nodes: Value) -> None:
        self.body, self.nodes = body, nodes

    def receivers(self, nodes: Value) -> Value:
        """Rows of nodes [n, C] for the edges they receive."""
        return self.body.Gather(nodes, self.receiver, axis=0)

    def senders(self, nodes: Value) -> Value:
        return self.body.Gather(nodes, self.sender, axis=0)

    def sums(self, rows: Value, mean: bool = False) -> Value:
        """[n, C], at receivers."""
        b = self.body
        total = self.sums_by(rows, self.received)
        if not mean:
            return total
        return b.Div(total, b.CastLike(b.wider(b.Max(self.degree, b.ints(1)), 1), total))

    def sums_by(self, rows: Value, table: Value) -> Value:
        """[k, C]: the sum of the rows whose numbers stand in each line of a table [k, N]; the number behind the last
        row stands for none. (ScatterND would need no table; ONNX Runtime's adds up in several threads at once, which
        lose terms.)"""
        return self.body.total(self._listed(rows, table, 0.0), 1)

    def extrema_by(self, rows: Value, table: Value, largest: bool) -> Value:
        """[k, C]: the largest or smallest of such rows; 0 where there is none."""
        b = self.body
        worst = float("-inf") if largest else float("inf")
        listed = self._listed(rows, table, worst)
        best = (b.ReduceMax if largest else b.ReduceMin)(listed, b.ints(1), keepdims=0)
        return b.Where(b.Equal(best, b.constant(worst)), b.constant(0.0), best)

    def _listed(self, rows: Value, table: Value, none: float) -> Value:
        b = self.body
        line = b.Expand(b.CastLike(b.constant(none), rows), b.Concat(b.ints(1), b.size(rows, 1), axis=0))
        return b.Gather(b.Concat(rows, line, axis=0), table, axis=0)

    def _places(self, lengths: Value) -> Value:
        """0, 1, ... up to the longest length, at least one: int64 [1, N]."""
        b = self.body
        longest = b.ReduceMax(b.Concat(lengths, b.ints(1), axis=0), b.ints(0), keepdims=1)
        return b.wider(b.range(b.scalar(longest)), 0)


class Sparse(Edges):
    """Any edges; the table is CSR by receiver and its transpose."""

    def __init__(self, body: Body, table: Value, nodes: Value) -> None:
        super().__init__(body, nodes)
        b = body
        offsets = b.Add(nodes, b.ints(1))
        half = b.Div(b.size(table, 0), b.ints(2))
        edges = b.Div(b.Sub(half, offsets), b.ints(2))

        def part(start: Value) -> tuple[Value, Value]:
            middle, end = b.Add(start, edges), b.Add(b.Add(start, edges), edges)
            return b.Slice(table, start, middle, b.ints(0)), b.Slice(table, middle, end, b.ints(0))

        none = b.integer(b.ConstantOfShape(edges))
        sender, in_edge = part(offsets)
        receiver, out_edge = part(b.Add(half, offsets))
        self.sender = b.ScatterElements(none, in_edge, sender, axis=0)
        self.receiver = b.ScatterElements(none, out_edge, receiver, axis=0)
        first = b.Slice(table, b.ints(0), nodes, b.ints(0))
        self.degree = b.Sub(b.Slice(table, b.ints(1), offsets, b.ints(0)), first)
        places = self._places(self.degree)
        slot = b.Where(b.Less(places, b.wider(self.degree, 1)), b.Add(b.wider(first, 1), places), edges)
        self.received = b.Gather(b.Concat(in_edge, edges, axis=0), slot, axis=0)


class Pairs(Edges):
    """All pairs of nodes of each event, or all but self-loops, row-major. The table is ptr, then each event's first
    edge.

    Attributes:
        event: int64 [n], of each node.
        lengths: int64 [B].
        particles: int64 [B, N], the nodes of each event; n where there are fewer.
    """

    def __init__(self, body: Body, table: Value, kind: int) -> None:
        b = body
        half = b.Div(b.size(table, 0), b.ints(2))
        events = b.Sub(half, b.ints(1))
        ptr = b.Slice(table, b.ints(0), half, b.ints(0))
        first, end = b.Slice(ptr, b.ints(0), events, b.ints(0)), b.Slice(ptr, b.ints(1), half, b.ints(0))
        self.lengths = b.Sub(end, first)
        super().__init__(b, b.ReduceMax(ptr, b.ints(0), keepdims=1))
        places = self._places(self.lengths)
        real = b.Less(places, b.wider(self.lengths, 1))
        self.particles = b.Where(real, b.Add(b.wider(first, 1), places), self.nodes)
        self.event, self._place = self._true(real)
        self._first = b.Gather(first, self.event, axis=0)
        self._length = b.Gather(self.lengths, self.event, axis=0)
        edge = b.Less(places, b.wider(self._length, 1))  # [n, N]
        if kind == COMPLETE:
            edge = b.And(edge, b.Not(b.Equal(places, b.wider(self._place, 1))))
        self.receiver, place = self._true(edge)
        self.sender = b.Add(b.Gather(self._first, self.receiver, axis=0), place)
        self.degree = b.Sub(self._length, b.ints(1 if kind == COMPLETE else 0))
        count = b.size(self.receiver, 0)
        number = b.Sub(b.CumSum(b.integer(b.Reshape(edge, b.ints(-1))), b.constant(0, np.int64)), b.ints(1))
        self.received = b.Where(edge, b.Reshape(number, b.Shape(edge), allowzero=1), count)
        self._count = count
        self._first_edge = b.Slice(table, half, b.Add(half, events), b.ints(0))

    def _true(self, table: Value) -> tuple[Value, Value]:
        """Rows and columns of the true entries, row by row."""
        b = self.body
        found = b.NonZero(table)
        return b.column(found, 0, 0), b.column(found, 1, 0)

    # --- pairs with self-loops ---
    def diagonal(self) -> Value:
        """int64 [n]: the row of pair (i, i)."""
        b = self.body
        start = b.Gather(self._first_edge, self.event, axis=0)
        return b.Add(start, b.Mul(self._place, b.Add(self._length, b.ints(1))))

    def transposed(self) -> Value:
        """int64 [E]: the row of pair (j, i)."""
        b = self.body
        return b.Add(b.Gather(self.diagonal(), self.sender, axis=0), b.Sub(self.receiver, self.sender))

    def sent(self) -> Value:
        """int64 [n, N]: the pairs that a particle sends, its column."""
        b = self.body
        return b.Gather(b.Concat(self.transposed(), self._count, axis=0), self.received, axis=0)

    def of_events(self, nodes: Value) -> Value:
        """[B, C]: sums of rows of nodes."""
        return self.sums_by(nodes, self.particles)

    def spread(self, events: Value) -> Value:
        """[n, C]: each node's event's row."""
        return self.body.Gather(events, self.event, axis=0)


def edges_of(body: Body, table: Value, kind: int, nodes: Value) -> Edges:
    """The edges of an op's graph; nodes: int64 [1], their number."""
    return Sparse(body, table, nodes) if kind == CSR else Pairs(body, table, kind)
