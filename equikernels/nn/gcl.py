"""A graph network's layer without symmetry, the baseline of EGNN's N-body experiment (arXiv 2102.09844, table 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import fail
from ..graph import Graph
from ..ops.common import as_graph
from ..ops.message_passing import EdgeMLP, message_passing
from ..ops.segment import segment_reduce
from .chain import chain_itself
from .linear import check_dtype
from .plain import obstacle, warn_once
from .rows import apply_layers


class GCL(nn.Module):
    r"""Messages of features, their sum, and an update.

    .. math:: m_{ij} = \phi_e(h_i, h_j, a_{ij}), \quad h_i' = h_i + \phi_h(h_i, \textstyle\sum_j m_{ij})

    Edges j -> i as for :class:`EGCL`; memory is O(n). State-dict keys are the published ones.

    Args:
        hidden_nf: width of h and m, at most 512.
        edges_in_d: width of the edge attributes a.
        act_fn: an activation that :func:`equikernels.message_passing` has; others run one by one.
    """

    def __init__(self, hidden_nf: int, edges_in_d: int = 0, act_fn: nn.Module = nn.SiLU()) -> None:  # noqa: B008
        super().__init__()
        self.hidden_nf = hidden_nf
        self.edges_in_d = edges_in_d
        self.edge_mlp = nn.Sequential(
            nn.Linear(2 * hidden_nf + edges_in_d, hidden_nf), act_fn, nn.Linear(hidden_nf, hidden_nf), act_fn
        )
        self.node_mlp = nn.Sequential(nn.Linear(2 * hidden_nf, hidden_nf), act_fn, nn.Linear(hidden_nf, hidden_nf))

    def forward(self, h: Tensor, graph: Graph | Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Updates node features.

        Args:
            h: [n, hidden_nf], float32 or float64.
            graph: the edges, over n nodes; or an edge_index [2, E] of (sender, receiver).
            edge_attr: [E, edges_in_d], in the graph's order.

        Returns:
            h' [n, hidden_nf].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        graph = as_graph("GCL", graph, h.shape[0])
        if h.shape != (graph.num_nodes, self.hidden_nf):
            fail("GCL", "h", f"shape [{graph.num_nodes}, {self.hidden_nf}]", list(h.shape))
        check_dtype("GCL", "h", h, self.edge_mlp)
        check_attributes("GCL", edge_attr, graph, self.edges_in_d)
        if reason := obstacle(self.edge_mlp, chain_itself):
            warn_once(self, "GCL", reason)
            ends = [h[graph.receiver], h[graph.sender], *([] if edge_attr is None else [edge_attr])]
            total: Any = segment_reduce(self.edge_mlp(torch.cat(ends, dim=1)), graph, "sum")
        else:
            order = ("receiver", "sender", *(() if edge_attr is None else ("edge_attr",)))
            total = message_passing(EdgeMLP.of(self.edge_mlp, order=order), graph, h=h, edge_attr=edge_attr).messages
        return apply_layers(self.node_mlp, h, total, residual=h)


def check_attributes(op: str, edge_attr: Tensor | None, graph: Graph, width: int) -> None:
    """``edge_attr`` must be [E, width], or None where the width is 0."""
    got: Any = None if edge_attr is None else list(edge_attr.shape)
    if width == 0 and edge_attr is not None:
        fail(op, "edge_attr", "None", got)
    if width > 0 and got != [graph.num_edges, width]:
        fail(op, "edge_attr", f"shape [{graph.num_edges}, {width}]", got)
