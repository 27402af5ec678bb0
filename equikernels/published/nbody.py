"""The N-body baselines of EGNN (arXiv 2102.09844, table 1) without symmetry or features: an edge list and index_add_.

Edges are index tensors (row, col), as in the published code; messages go from col to row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .egnn import Edges, scatter_mean, small_head
from .lorentznet import scatter_sum


class GCL(nn.Module):
    """The layer without symmetry."""

    def __init__(self, hidden_nf: int, edges_in_d: int = 0, act_fn: nn.Module = nn.SiLU()) -> None:  # noqa: B008
        super().__init__()
        self.edge_mlp = nn.Sequential(
            nn.Linear(2 * hidden_nf + edges_in_d, hidden_nf), act_fn, nn.Linear(hidden_nf, hidden_nf), act_fn
        )
        self.node_mlp = nn.Sequential(nn.Linear(2 * hidden_nf, hidden_nf), act_fn, nn.Linear(hidden_nf, hidden_nf))

    def forward(self, h: Tensor, edges: Edges, edge_attr: Tensor | None = None) -> Tensor:
        row, col = edges
        gathered = [h[row], h[col]] + ([] if edge_attr is None else [edge_attr])
        message = self.edge_mlp(torch.cat(gathered, dim=1))
        return h + self.node_mlp(torch.cat([h, scatter_sum(message, row, len(h))], dim=1))


class GNN(nn.Module):
    """The network without symmetry."""

    def __init__(
        self,
        in_node_nf: int,
        hidden_nf: int,
        out_node_nf: int = 3,
        in_edge_nf: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008
        n_layers: int = 4,
    ) -> None:
        super().__init__()
        self.n_layers = n_layers
        for k in range(n_layers):
            self.add_module(f"gcl_{k}", GCL(hidden_nf, in_edge_nf, act_fn))
        self.decoder = nn.Sequential(nn.Linear(hidden_nf, hidden_nf), act_fn, nn.Linear(hidden_nf, out_node_nf))
        self.embedding = nn.Sequential(nn.Linear(in_node_nf, hidden_nf))

    def forward(self, h: Tensor, edges: Edges, edge_attr: Tensor | None = None) -> Tensor:
        h = self.embedding(h)
        for k in range(self.n_layers):
            h = self.get_submodule(f"gcl_{k}")(h, edges, edge_attr)
        return self.decoder(h)


class GCL_rf(nn.Module):
    """The radial field layer of points without velocities (its optional clamp and decay are left out)."""

    def __init__(
        self,
        nf: int,
        edge_attr_nf: int = 0,
        act_fn: nn.Module = nn.LeakyReLU(0.2),  # noqa: B008
    ) -> None:
        super().__init__()
        head = small_head(nf)
        self.phi = nn.Sequential(nn.Linear(1 + edge_attr_nf, nf), act_fn, head)

    def forward(self, x: Tensor, edges: Edges, edge_attr: Tensor | None = None) -> Tensor:
        row, col = edges
        d = x[row] - x[col]
        edge = (d * d).sum(1, keepdim=True).sqrt()
        weight = self.phi(edge if edge_attr is None else torch.cat([edge, edge_attr], dim=1))
        return x + scatter_mean(d * weight, row, len(x))


class RF(nn.Module):
    """The radial field network of points without velocities."""

    def __init__(
        self,
        hidden_nf: int,
        edge_attr_nf: int = 0,
        act_fn: nn.Module = nn.LeakyReLU(0.2),  # noqa: B008
        n_layers: int = 4,
    ) -> None:
        super().__init__()
        self.n_layers = n_layers
        for k in range(n_layers):
            self.add_module(f"gcl_{k}", GCL_rf(hidden_nf, edge_attr_nf, act_fn))

    def forward(self, x: Tensor, edges: Edges, edge_attr: Tensor | None = None) -> Tensor:
        for k in range(self.n_layers):
            x = self.get_submodule(f"gcl_{k}")(x, edges, edge_attr)
        return x
