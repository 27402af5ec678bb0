"""SchNet's continuous-filter convolution (arXiv 1706.08566): filters of distances multiply the neighbours' features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..checks import fail
from ..graph import Graph
from ..ops.common import as_graph
from ..ops.invariants import pairwise_invariants
from ..ops.segment import gather_segment_reduce
from .linear import check_dtype, weight_of
from .radial_field import norm
from .rows import apply_layers, apply_linear


class ContinuousFilter(nn.Module):
    r"""An interaction block: h' is invariant under rotations, reflections and translations of x.

    .. math::
        W_{ij} = \phi_{cf}(b(\|x_i - x_j\|)), \quad
        m_i = \textstyle\sum_j W_{ij} \odot \phi_s(h_j), \quad h_i' = h_i + \phi_h(m_i)

    with :math:`b_k(d) = \exp(-(d - \mu_k)^2 / 2 s^2)`, centres :math:`\mu_k` from 0 to ``reach`` in steps of s, and
    the shifted softplus :math:`\ln(e^z / 2 + 1 / 2)` inside phi_cf and phi_h, both of two linear layers. The only
    tensors of edges are b and W. Edges as for :class:`EGCL`. At coincident points the derivative of the norm is taken
    as 0.

    Args:
        hidden_nf: width of h and W.
        n_gaussians: how many functions b has, at least 2.
        reach: the last centre, in the unit of x.

    Raises:
        ValueError: fewer than 2 functions, or no positive reach.
    """

    def __init__(self, hidden_nf: int, n_gaussians: int = 300, reach: float = 30.0) -> None:
        super().__init__()
        if n_gaussians < 2:
            fail("ContinuousFilter", "n_gaussians", "at least 2", n_gaussians)
        if not 0 < reach < math.inf:
            fail("ContinuousFilter", "reach", "a number above 0", reach)
        self.hidden_nf = hidden_nf
        self.n_gaussians = n_gaussians
        self.spacing = reach / (n_gaussians - 1)
        self.phi_s = nn.Linear(hidden_nf, hidden_nf, bias=False)
        self.phi_cf = nn.Sequential(nn.Linear(n_gaussians, hidden_nf), nn.Softplus(), nn.Linear(hidden_nf, hidden_nf))
        self.phi_h = nn.Sequential(nn.Linear(hidden_nf, hidden_nf), nn.Softplus(), nn.Linear(hidden_nf, hidden_nf))

    def forward(self, h: Tensor, x: Tensor, graph: Graph | Tensor) -> Tensor:
        """Updates node features.

        Args:
            h: [n, hidden_nf], float32 or float64.
            x: [n, D] coordinates, D from 2 to 8, in the dtype of h or float64.
            graph: the edges, over n nodes; or an edge_index [2, E] of (sender, receiver).

        Returns:
            h' [n, hidden_nf].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        op = "ContinuousFilter"
        graph = as_graph(op, graph, x.shape[0])
        if h.shape != (graph.num_nodes, self.hidden_nf):
            fail(op, "h", f"shape [{graph.num_nodes}, {self.hidden_nf}]", list(h.shape))
        check_dtype(op, "h", h, self.phi_cf)
        distance = norm(pairwise_invariants(x, graph, metric="euclidean", psi=False)[:, :1])
        weight = shifted(self.phi_cf, self.basis(distance).to(weight_of(self.phi_s).dtype))
        summed = gather_segment_reduce(apply_linear(self.phi_s, h), graph, weight, "sum")
        return h + shifted(self.phi_h, summed)

    def basis(self, distance: Tensor) -> Tensor:
        """b [E, n_gaussians] of distances [E, 1]."""
        centres = torch.arange(self.n_gaussians, dtype=distance.dtype, device=distance.device)
        return torch.exp(-0.5 * (distance / self.spacing - centres).square())


def shifted(layers: nn.Sequential, rows: Tensor) -> Tensor:
    """Linear, shifted softplus, Linear of rows: the shift of the activation is one of the output."""
    return apply_layers(layers, rows) - math.log(2) * weight_of(layers[2]).sum(1)
