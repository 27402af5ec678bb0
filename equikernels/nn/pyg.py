"""The blocks as ``torch_geometric.nn.MessagePassing``: PyTorch Geometric's signature, inside its Sequential and Data.

Each computes what its parent does, fused, with an ``edge_index`` [2, E] of (source, target), an ``EdgeIndex`` or an
:class:`equikernels.Graph`. Where someone watches the messages (``explain``, hooks on ``message``, ``aggregate`` or
``propagate``) they are made edge by edge, by PyTorch Geometric's own propagation, with the same result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    from torch_geometric.nn import MessagePassing
    from torch_geometric.utils import degree
except ImportError as error:
    raise ImportError("equikernels.nn's convolutions need torch-geometric: pip install equikernels[pyg]") from error

from ..graph import Graph
from ..metric import psi
from ..ops.common import as_graph
from .egcl import EGCL
from .euclid import CLAMP, EuclidBlock
from .interaction import InteractionBlock
from .lgeb import LGEB

Edges = Graph | Tensor
HOOKS = ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")


# PyTorch Geometric reads the names of arguments off the source of calls of self.propagate and self.edge_updater.
def _watched(conv: Any) -> bool:
    """Whether PyTorch Geometric has to see the messages."""
    hooks = (getattr(conv, f"_{name}_forward{kind}_hooks", None) for name in HOOKS for kind in ("", "_pre"))
    return bool(conv.explain) or any(hooks)


def _edge_index(edges: Edges) -> Tensor:
    return edges.edge_index if isinstance(edges, Graph) else edges


def _invariants(x_i: Tensor, x_j: Tensor, metric: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_i - x_j, and its square and the product [E, 1]."""
    d = x_i - x_j
    return d, (d * d * metric).sum(-1, keepdim=True), (x_i * x_j * metric).sum(-1, keepdim=True)


def _mean(total: Tensor, edge_index: Tensor, nodes: int) -> Tensor:
    return total / degree(edge_index[1], nodes, total.dtype).clamp(min=1)[:, None]


class LGEBConv(LGEB, MessagePassing):
    """:class:`LGEB` (arXiv 2201.08187): arguments and state dict are its own."""

    def forward(  # type: ignore[override]
        self, h: Tensor, x: Tensor, edge_index: Edges, edge_attr: Tensor | None = None, node_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(h', x') as :meth:`LGEB.forward`."""
        graph = as_graph("LGEBConv", edge_index, h.shape[0])
        if not _watched(self):
            h, x = super().forward(h, x, graph, edge_attr, node_attr)
            return h, x
        self._check(h, x, graph, edge_attr, node_attr)
        edges = _edge_index(edge_index)
        out = self.propagate(edges, h=h, x=x, edge_attr=edge_attr)  # type: ignore[operator]
        total, step = out.tensor_split([out.shape[1] - x.shape[1]], dim=1)
        if not self.last_layer:
            x = x + self.c_weight * _mean(step, edges, h.shape[0])
        nodes = [h, total] if node_attr is None else [h, total, node_attr]
        return h + self.phi_h(torch.cat(nodes, dim=1)), x

    def message(self, h_i: Tensor, h_j: Tensor, x_i: Tensor, x_j: Tensor, edge_attr: Tensor | None) -> Tensor:
        """[m, what moves x]."""
        metric = x_i.new_tensor([1.0] + [-1.0] * (x_i.shape[1] - 1))
        d, interval, product = _invariants(x_i, x_j, metric)
        inputs = [h_i, h_j, psi(interval).to(h_i.dtype), psi(product).to(h_i.dtype)]
        m = self.phi_e(torch.cat(inputs if edge_attr is None else [*inputs, edge_attr], dim=1))
        m = m * self.phi_m(m)
        step = torch.zeros_like(d) if self.last_layer else (d * self.phi_x(m)).clamp(-CLAMP, CLAMP)
        return torch.cat([m, step], dim=1)


class EGConv(EGCL, MessagePassing):
    """:class:`EGCL` (arXiv 2102.09844): arguments and state dict are its own."""

    def forward(
        self, h: Tensor, x: Tensor, edge_index: Edges, edge_attr: Tensor | None = None, node_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(h', x') as :meth:`EGCL.forward`."""
        graph = as_graph("EGConv", edge_index, h.shape[0])
        if not _watched(self):
            return super().forward(h, x, graph, edge_attr, node_attr)
        self._check(h, x, graph, edge_attr, node_attr)
        edges = _edge_index(edge_index)
        out = self.propagate(edges, h=h, x=x, edge_attr=edge_attr)  # type: ignore[operator]
        total, step = out.tensor_split([out.shape[1] - x.shape[1]], dim=1)
        if self.coords_agg == "mean":
            step = _mean(step, edges, h.shape[0])
        update = self.node_mlp(torch.cat([h, total] if node_attr is None else [h, total, node_attr], dim=1))
        return h + update if self.recurrent else update, x + self.coords_weight * step

    def message(self, h_i: Tensor, h_j: Tensor, x_i: Tensor, x_j: Tensor, edge_attr: Tensor | None) -> Tensor:
        """[m, what moves x]."""
        d, square, _ = _invariants(x_i, x_j, x_i.new_ones(()))
        inputs = [h_i, h_j, square.to(h_i.dtype)]
        m = self.edge_mlp(torch.cat(inputs if edge_attr is None else [*inputs, edge_attr], dim=1))
        if self.att_mlp is not None:
            m = m * self.att_mlp(m)
        if self.direction == "unit":
            d = d / (square.sqrt().detach() + 1e-8)
        elif self.direction == "norm_plus_one":
            d = d / (torch.where(square > 0, square, 1).sqrt() * (square > 0) + 1)
        step = d * self.coord_mlp(m)
        return torch.cat([m, step if self.clamp is None else step.clamp(-self.clamp, self.clamp)], dim=1)


class EuclidConv(EuclidBlock, MessagePassing):
    """:class:`EuclidBlock` (arXiv 2304.05293, as released): arguments and state dict are its own."""

    def forward(  # type: ignore[override]
        self, h: Tensor, x: Tensor, e: Tensor, edge_index: Edges
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(h', x', e') as :meth:`EuclidBlock.forward`."""
        graph = as_graph("EuclidConv", edge_index, h.shape[0])
        if not _watched(self):
            h, x, e, _ = super().forward(h, x, e, graph)
            return h, x, e
        edges = _edge_index(edge_index)
        e = self.edge_updater(edges, h=h, x=x, e=e)  # type: ignore[operator]
        out = self.propagate(edges, x=x, e=e)  # type: ignore[operator]
        total, step = out.tensor_split([out.shape[1] - x.shape[1]], dim=1)
        update = self.phi_s(torch.cat([h, total], dim=1))
        return h + self.c_weight * update, x + self.c_weight * step, e

    def edge_update(self, h_i: Tensor, h_j: Tensor, x_i: Tensor, x_j: Tensor, e: Tensor) -> Tensor:
        """e'."""
        _, square, product = _invariants(x_i, x_j, x_i.new_ones(()))
        return self.phi_e(torch.cat([psi(square).to(e.dtype), psi(product).to(e.dtype), h_i, h_j, e], dim=1))

    def message(self, x_i: Tensor, x_j: Tensor, e: Tensor) -> Tensor:
        """[m, what moves x]."""
        m = self.phi_m(e)
        return torch.cat([m, ((x_i - x_j) * self.phi_x(m)).clamp(-CLAMP, CLAMP)], dim=1)


class InteractionConv(InteractionBlock, MessagePassing):
    """:class:`InteractionBlock` (arXiv 2103.16701): arguments and state dict are its own."""

    def forward(self, x: Tensor, edge_index: Edges, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """(x', E) as :meth:`InteractionBlock.forward`."""
        graph = as_graph("InteractionConv", edge_index, x.shape[0])
        if not _watched(self):
            return super().forward(x, graph, edge_attr)
        edges = _edge_index(edge_index)
        effects = self.edge_updater(edges, x=x, edge_attr=edge_attr)  # type: ignore[operator]
        total = self.propagate(edges, effects=effects, size=(x.shape[0], x.shape[0]))  # type: ignore[operator]
        return self.O(torch.cat([x, total], dim=1)), effects

    def edge_update(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        """E."""
        return self.R1(torch.cat([x_i, x_j, edge_attr], dim=1))

    def message(self, effects: Tensor) -> Tensor:
        """E."""
        return effects
