"""SchNet (arXiv 1706.08566) as its formula says, with a row of EGNN's comparison (arXiv 2102.09844, table 1) as block.

Edges are index tensors (row, col); messages go from col to row. State-dict keys are those of our network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .egnn import Edges
from .lorentznet import scatter_sum


class ShiftedSoftplus(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return F.softplus(z) - math.log(2)


class Interaction(nn.Module):
    """Continuous-filter convolution and update."""

    def __init__(self, hidden_nf: int, n_gaussians: int, reach: float) -> None:
        super().__init__()
        self.n_gaussians, self.reach = n_gaussians, reach
        self.phi_s = nn.Linear(hidden_nf, hidden_nf, bias=False)
        self.phi_cf = nn.Sequential(
            nn.Linear(n_gaussians, hidden_nf), ShiftedSoftplus(), nn.Linear(hidden_nf, hidden_nf)
        )
        self.phi_h = nn.Sequential(nn.Linear(hidden_nf, hidden_nf), ShiftedSoftplus(), nn.Linear(hidden_nf, hidden_nf))

    def forward(self, h: Tensor, x: Tensor, edges: Edges) -> Tensor:
        row, col = edges
        distance = (x[row] - x[col]).norm(dim=1, keepdim=True)
        centres = torch.linspace(0, self.reach, self.n_gaussians, dtype=x.dtype, device=x.device)
        basis = torch.exp(-((distance - centres) ** 2) / (2 * (centres[1] - centres[0]) ** 2))
        message = self.phi_cf(basis.to(h.dtype)) * self.phi_s(h)[col]
        return h + self.phi_h(scatter_sum(message, row, len(h)))


class SchNet(nn.Module):
    """Interaction blocks between two linear maps."""

    def __init__(
        self,
        in_node_nf: int,
        hidden_nf: int,
        out_node_nf: int,
        n_layers: int = 3,
        n_gaussians: int = 300,
        reach: float = 30.0,
    ) -> None:
        super().__init__()
        self.embedding_in = nn.Linear(in_node_nf, hidden_nf)
        self.embedding_out = nn.Linear(hidden_nf, out_node_nf)
        self.blocks = nn.ModuleList(Interaction(hidden_nf, n_gaussians, reach) for _ in range(n_layers))

    def forward(self, h: Tensor, x: Tensor, edges: Edges) -> Tensor:
        h = self.embedding_in(h)
        for block in self.blocks:
            h = block(h, x, edges)
        return self.embedding_out(h)
