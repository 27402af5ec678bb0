"""The radial field layer, the baseline of EGNN's N-body experiment (arXiv 2102.09844, table 1; arXiv 1910.00753)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import fail
from ..graph import Graph
from ..ops.common import as_graph
from ..ops.coordinates import coordinate_update
from ..ops.invariants import pairwise_invariants
from .gcl import check_attributes
from .linear import weight_and_bias
from .rows import apply_layers


class RadialFieldLayer(nn.Module):
    r"""Moves points along their differences, by weights that see distances only.

    .. math::
        x_i' = x_i + \mathrm{mean}_j \, (x_i - x_j) \tanh(\phi(\|x_i - x_j\|, a_{ij})) + \phi_v(\|v_i\|) v_i

    The norm itself enters, not its square, and phi has one hidden layer: not a setting of the fused message op, so
    this is composed of ``pairwise_invariants``, phi on a tensor of edges, [E, hidden_nf], and ``coordinate_update``.
    Edges as for :class:`EGCL`. At coincident points the derivative of the norm is taken as 0, where the published
    formula gives NaN.

    Args:
        hidden_nf: width of both networks.
        edge_attr_nf: width of the edge attributes a.
        act_fn: any activation module; SiLU with velocities and LeakyReLU(0.2) without in the published code.
        velocity: whether points have velocities.
    """

    def __init__(
        self,
        hidden_nf: int,
        edge_attr_nf: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008 (it has no state)
        velocity: bool = True,
    ) -> None:
        super().__init__()
        self.edge_attr_nf = edge_attr_nf
        self.velocity = velocity
        if velocity:
            self.coord_mlp_vel = nn.Sequential(nn.Linear(1, hidden_nf), act_fn, nn.Linear(hidden_nf, 1))
        head = nn.Linear(hidden_nf, 1, bias=False)
        nn.init.xavier_uniform_(head.weight, gain=0.001)  # x hardly moves at first
        bound = [nn.Tanh()] if velocity else []
        self.phi = nn.Sequential(nn.Linear(1 + edge_attr_nf, hidden_nf), act_fn, head, *bound)

    def forward(
        self, x: Tensor, graph: Graph | Tensor, vel: Tensor | None = None, edge_attr: Tensor | None = None
    ) -> Tensor:
        """Updates coordinates.

        Args:
            x: [n, D] coordinates, D from 2 to 8, in the dtype of the weights or float64.
            graph: the edges, over n nodes; or an edge_index [2, E] of (sender, receiver).
            vel: [n, D] velocities v; None for the plain layer.
            edge_attr: [E, edge_attr_nf], in the graph's order.

        Returns:
            x' [n, D].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        op = type(self).__name__
        graph = as_graph(op, graph, x.shape[0])
        got: Any = None if vel is None else list(vel.shape)
        expected = list(x.shape) if self.velocity else None
        if got != expected:
            fail(op, "vel", f"shape {expected}" if self.velocity else "None", got)
        check_attributes(op, edge_attr, graph, self.edge_attr_nf)
        dtype = weight_and_bias(self.phi[0])[0].dtype
        square = pairwise_invariants(x, graph, metric="euclidean", psi=False)[:, :1]
        edge = norm(square).to(dtype)
        weight = apply_layers(self.phi, edge if edge_attr is None else torch.cat([edge, edge_attr], dim=1))
        moved = coordinate_update(x, weight, graph, clamp=None)
        if vel is None:
            return moved
        speed = norm(vel.square().sum(1, keepdim=True)).to(dtype)
        return moved + apply_layers(self.coord_mlp_vel, speed) * vel


def norm(square: Tensor) -> Tensor:
    """The root of squares, whose derivative at 0, which does not exist, is set to 0."""
    return torch.where(square > 0, square, 1).sqrt() * (square > 0)
