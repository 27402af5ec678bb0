"""The unconstrained stream of VecNet (arXiv 2202.06941): an ordinary graph network beside an equivariant one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..graph import Graph
from ..ops.message_passing import EdgeMLP, message_passing
from ..ops.segment import segment_reduce
from .chain import chain_itself
from .plain import obstacle, warn_once
from .rows import apply_layers


class FreeStream(nn.Module):
    r"""One round of messages that see everything, and that nothing equivariant sees.

    .. math::
        u_i = (s_i, x_i, f_i), \quad g_{ij} = \phi_g(u_i, u_j, m_{ij}), \quad
        f_i' = f_i + \phi_f(u_i, \textstyle\sum_j g_{ij})

    Args:
        n_scalar: width of s, the equivariant stream's features.
        n_vector: dimensions of x, its vectors.
        n_edge: width of m, its messages.
        n_free: width of f and g.
    """

    def __init__(self, n_scalar: int, n_vector: int, n_edge: int, n_free: int) -> None:
        super().__init__()
        n_read = n_scalar + n_vector + n_free
        self.phi_g = nn.Sequential(
            nn.Linear(2 * n_read + n_edge, n_free), nn.ReLU(), nn.Linear(n_free, n_free), nn.ReLU()
        )
        self.phi_f = nn.Sequential(nn.Linear(n_read + n_free, n_free), nn.ReLU(), nn.Linear(n_free, n_free))

    def forward(self, f: Tensor, s: Tensor, x: Tensor, m: Tensor, graph: Graph) -> Tensor:
        """f' [n, n_free].

        Args:
            f: [n, n_free].
            s: [n, n_scalar], x: [n, n_vector]: the equivariant stream after its round; m: [E, n_edge]: its messages.
            graph: the edges, over n nodes.
        """
        nodes = torch.cat([s, x.to(s.dtype), f], dim=1)
        if reason := obstacle(self.phi_g, chain_itself):
            warn_once(self, "FreeStream", reason)
            g = self.phi_g(torch.cat([nodes[graph.receiver], nodes[graph.sender], m], dim=1))
            total: Tensor | None = segment_reduce(g, graph, "sum")
        else:
            mlp = EdgeMLP.of(self.phi_g, order=("receiver", "sender", "edge_attr"))
            total = message_passing(mlp, graph, h=nodes, edge_attr=m).messages
        assert total is not None
        return apply_layers(self.phi_f, nodes, total, residual=f)
