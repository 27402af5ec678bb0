"""The blocks as ``torch_geometric.nn.MessagePassing``: PyTorch Geometric's signature, inside its Sequential and Data.

Each computes what its parent does, fused, with an ``edge_index`` [2, E] of (source, target), an ``EdgeIndex`` or an
:class:`equikernels.Graph`. Where someone watches the messages (``explain``, hooks on ``message``, ``aggregate`` or
``propagate``) they are made edge by edge, by PyTorch Geometric's own propagation, with the same result.

Bipartite: what belongs to nodes (but node_attr, which is the targets') may be a pair, of sources and of targets, with
an ``edge_index`` whose rows number the two apart. Only targets are updated and returned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    from torch_geometric.nn import MessagePassing
    from torch_geometric.utils import degree
except ImportError as error:
    raise ImportError("equikernels.nn's convolutions need torch-geometric: pip install equikernels[pyg]") from error

from ..checks import check_tensor, fail
from ..graph import Graph
from ..ops.common import as_graph
from ..ops.message_passing import EdgeOutput
from .egcl import EGCL
from .euclid import EuclidBlock
from .interaction import InteractionBlock
from .lgeb import LGEB, lorentz_update

Edges = Graph | Tensor
HOOKS = ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")


# PyTorch Geometric reads the names of arguments off the source of calls of self.propagate and self.edge_updater.
def _watched(conv: Any) -> bool:
    """Whether PyTorch Geometric has to see the messages."""
    hooks = (getattr(conv, f"_{name}_forward{kind}_hooks", None) for name in HOOKS for kind in ("", "_pre"))
    return bool(conv.explain) or any(hooks)


Nodes = Tensor | tuple[Tensor, Tensor]


class _Ends(NamedTuple):
    """An edge list's two ends. For the fused ops both are nodes of one graph, targets first."""

    op: str
    graph: Graph
    edge_index: Tensor  # as PyTorch Geometric's propagation takes it
    size: tuple[int, int]  # sources, targets
    bipartite: bool

    @classmethod
    def of(cls, op: str, edges: Edges, nodes: Nodes) -> _Ends:
        if isinstance(nodes, Tensor):
            n = nodes.shape[0]
            edge_index = edges.edge_index if isinstance(edges, Graph) else edges
            return cls(op, as_graph(op, edges, n), edge_index, (n, n), False)
        sources, targets = (t.shape[0] for t in nodes)
        if isinstance(edges, Graph):
            fail(op, "edge_index", "a tensor [2, E], as nodes come as sources and targets", "Graph", TypeError)
        edge_index = edges.as_tensor() if hasattr(edges, "as_tensor") else edges
        check_tensor(op, "edge_index", edge_index, [2, "E"], [torch.int64])
        if not torch.compiler.is_compiling() and edge_index.numel() > 0:
            for row, number, name in zip(edge_index, (sources, targets), ("sources", "targets"), strict=True):
                low, high = (int(v) for v in row.aminmax())
                if low < 0 or high >= number:
                    fail(op, "edge_index", f"{name} in [0, {number})", f"[{low}, {high}]")
        joined = torch.stack([edge_index[0] + targets, edge_index[1]])
        graph = Graph.from_edge_index(joined, targets + sources, validate=False)
        return cls(op, graph, edge_index, (sources, targets), True)

    def joined(self, name: str, nodes: Nodes) -> Tensor:
        """One row per node of the graph."""
        if not self.bipartite:
            if not isinstance(nodes, Tensor):
                fail(self.op, name, "a tensor", type(nodes).__name__, TypeError)
            return nodes
        if isinstance(nodes, Tensor) or len(nodes) != 2:
            fail(self.op, name, "a pair, of sources and of targets", type(nodes).__name__, TypeError)
        rows = tuple(t.shape[0] for t in nodes)
        if rows != self.size:
            fail(self.op, name, f"{self.size} rows of sources and targets", rows)
        return torch.cat([nodes[1], nodes[0]])


def _target(nodes: Nodes) -> Tensor:
    return nodes if isinstance(nodes, Tensor) else nodes[1]


def _mean(total: Tensor, edge_index: Tensor, nodes: int) -> Tensor:
    return total / degree(edge_index[1], nodes, total.dtype).clamp(min=1)[:, None]


class LGEBConv(LGEB, MessagePassing):
    """:class:`LGEB` (arXiv 2201.08187): arguments and state dict are its own."""

    def forward(  # type: ignore[override]
        self, h: Nodes, x: Nodes, edge_index: Edges, edge_attr: Tensor | None = None, node_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(h', x') as :meth:`LGEB.forward`."""
        ends = _Ends.of("LGEBConv", edge_index, h)
        of_nodes = ends.joined("h", h), ends.joined("x", x)
        n = ends.size[1]
        self._check(*of_nodes, ends.graph, edge_attr, node_attr, receivers=n)
        if _watched(self):
            both = self.propagate(ends.edge_index, h=h, x=x, edge_attr=edge_attr, size=ends.size)  # type: ignore[operator]
            total, step = both.tensor_split([both.shape[1] - 4], dim=1)
            out = EdgeOutput(total, None if self.last_layer else _mean(step, ends.edge_index, n), None)
        else:
            whole = self._messages(*of_nodes, ends.graph, edge_attr)
            out = EdgeOutput(*(t if t is None else t[:n] for t in whole[:3]))
        return lorentz_update(self, _target(h), _target(x), out, node_attr)


class EGConv(EGCL, MessagePassing):
    """:class:`EGCL` (arXiv 2102.09844): arguments and state dict are its own."""

    def forward(
        self, h: Nodes, x: Nodes, edge_index: Edges, edge_attr: Tensor | None = None, node_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(h', x') as :meth:`EGCL.forward`."""
        ends = _Ends.of("EGConv", edge_index, h)
        of_nodes = ends.joined("h", h), ends.joined("x", x)
        n = ends.size[1]
        self._check(*of_nodes, ends.graph, edge_attr, node_attr, receivers=n)
        if _watched(self):
            out = self.propagate(ends.edge_index, h=h, x=x, edge_attr=edge_attr, size=ends.size)  # type: ignore[operator]
            total, step = out.tensor_split([out.shape[1] - of_nodes[1].shape[1]], dim=1)
            if self.coords_agg == "mean":
                step = _mean(step, ends.edge_index, n)
        else:
            total, step = (t[:n] for t in self._messages(*of_nodes, ends.graph, edge_attr))
        return self._update(_target(h), _target(x), total, step, node_attr)


class EuclidConv(EuclidBlock, MessagePassing):
    """:class:`EuclidBlock` (arXiv 2304.05293, as released): arguments and state dict are its own."""

    def forward(  # type: ignore[override]
        self, h: Nodes, x: Nodes, e: Tensor, edge_index: Edges
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(h', x', e') as :meth:`EuclidBlock.forward`."""
        ends = _Ends.of("EuclidConv", edge_index, h)
        of_nodes = ends.joined("h", h), ends.joined("x", x)
        n = ends.size[1]
        if not _watched(self):
            h, x, e, _ = super().forward(*of_nodes, e, ends.graph)
            return h[:n], x[:n], e
        e = self.edge_updater(ends.edge_index, h=h, x=x, e=e, size=ends.size)  # type: ignore[operator]
        out = self.propagate(ends.edge_index, x=x, e=e, size=ends.size)  # type: ignore[operator]
        h, x = _target(h), _target(x)
        total, step = out.tensor_split([out.shape[1] - x.shape[1]], dim=1)
        update = self.phi_s(torch.cat([h, total], dim=1))
        return h + self.c_weight * update, x + self.c_weight * step, e


class InteractionConv(InteractionBlock, MessagePassing):
    """:class:`InteractionBlock` (arXiv 2103.16701): arguments and state dict are its own."""

    def forward(self, x: Nodes, edge_index: Edges, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """(x', E) as :meth:`InteractionBlock.forward`."""
        ends = _Ends.of("InteractionConv", edge_index, x)
        nodes, n = ends.joined("x", x), ends.size[1]
        if not _watched(self):
            updated, effects = super().forward(nodes, ends.graph, edge_attr)
            return updated[:n], effects
        effects = self.edge_updater(ends.edge_index, x=x, edge_attr=edge_attr, size=ends.size)  # type: ignore[operator]
        total = self.propagate(ends.edge_index, effects=effects, size=ends.size)  # type: ignore[operator]
        return self.O(torch.cat([_target(x), total], dim=1)), effects
