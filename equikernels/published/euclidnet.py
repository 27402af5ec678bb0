"""EuclidNet as published (arXiv 2304.05293): edges = (i, j), messages summed at i, everything gathered by edge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .egnn import scatter_mean
from .lorentznet import psi, scatter_sum

Edges = Sequence[Tensor]


def make_mlp(n_in: int, sizes: Sequence[int], output: nn.Module | None = None, norm: bool = True) -> nn.Sequential:
    modules: list[nn.Module] = []
    for k, width in enumerate(sizes):
        modules.append(nn.Linear(n_in, width))
        act = nn.SiLU() if k < len(sizes) - 1 else output
        if act is not None:
            modules += [nn.LayerNorm(width, elementwise_affine=False), act] if norm else [act]
        n_in = width
    return nn.Sequential(*modules)


def geometry(x: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
    """psi of squared distance and product [E, 1] each, and x_i - x_j."""
    x_i, x_j = x[edges[0]], x[edges[1]]
    d = x_i - x_j
    return psi((d * d).sum(1, keepdim=True)), psi((x_i * x_j).sum(1, keepdim=True)), d


class EB(nn.Module):
    """The SO(2) block."""

    def __init__(self, n_hidden: int, n_layers: int, c_weight: float) -> None:
        super().__init__()
        self.c_weight = c_weight
        h = [n_hidden] * n_layers
        self.phi_e = make_mlp(3 * n_hidden + 2, h)
        self.phi_x = make_mlp(n_hidden, [*h, 1])
        self.phi_m = make_mlp(n_hidden, h, nn.Sigmoid())
        self.phi_s = make_mlp(2 * n_hidden, h)

    def forward(self, v: Tensor, edge_index: Edges, s: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        i, j = edge_index
        norms, dots, d = geometry(v, edge_index)
        e = self.phi_e(torch.cat([norms, dots, s[i], s[j], e], dim=1))
        m = self.phi_m(e)
        step = (d * self.phi_x(m)).clamp(-100, 100)
        update = self.phi_s(torch.cat([s, scatter_sum(m, i, len(s))], dim=1))
        return v + scatter_sum(step, i, len(v)) * self.c_weight, s + update * self.c_weight, e


class EuclidNetSO2(nn.Module):
    """The SO(2) network."""

    def __init__(
        self,
        n_hidden: int = 8,
        n_layers: int = 3,
        n_graph_iters: int = 5,
        c_weight: float = 0.005,
        equi_output: bool = True,
    ) -> None:
        super().__init__()
        self.n_graph_iters = n_graph_iters
        self.equi_output = equi_output
        h = [n_hidden] * n_layers
        self.node_encoder = make_mlp(1, h)
        self.edge_encoder = make_mlp(2 * n_hidden, h)
        self.EB = EB(n_hidden, n_layers, c_weight)
        self.edge_mlp = make_mlp(3 * n_hidden if equi_output else n_hidden + 4, [*h, 1])

    def forward(self, x: Tensor, edge_index: Edges) -> Tensor:
        i, j = edge_index
        v, s = x[:, :2], self.node_encoder(x[:, 2:])
        e = self.edge_encoder(torch.cat([s[i], s[j]], dim=1))
        for _ in range(self.n_graph_iters):
            v, s, e = self.EB(v, edge_index, s, e)
        u = s if self.equi_output else v
        return torch.sigmoid(self.edge_mlp(torch.cat([u[j], u[i], e], dim=1)))


class PaperEB(nn.Module):
    """Equations 3.1-3.4."""

    def __init__(self, n_hidden: int, n_layers: int, c_weight: float) -> None:
        super().__init__()
        self.c_weight = c_weight
        h = [n_hidden] * n_layers
        self.phi_e = make_mlp(n_hidden + 2, h, norm=False)
        self.phi_m = make_mlp(3 * n_hidden + 2, h, norm=False)
        self.phi_x = make_mlp(n_hidden, [*h, 1], norm=False)
        self.phi_h = make_mlp(2 * n_hidden, h, norm=False)

    def forward(self, x: Tensor, edges: Edges, h: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        i, j = edges
        norms, dots, d = geometry(x, edges)
        e = self.phi_e(torch.cat([norms, dots, e], dim=1))
        m = self.phi_m(torch.cat([h[i], h[j], e, norms, dots], dim=1))
        x = x + self.c_weight * scatter_sum(self.phi_x(m) * d, i, len(x))
        return x, h + self.phi_h(torch.cat([h, scatter_sum(m, i, len(h))], dim=1)), e


class PaperEuclidNet(nn.Module):
    """The paper's network, with the released encoders without LayerNorm."""

    def __init__(self, n_hidden: int = 8, n_layers: int = 3, n_graph_iters: int = 5, c_weight: float = 0.005) -> None:
        super().__init__()
        h = [n_hidden] * n_layers
        self.node_encoder = make_mlp(1, h, norm=False)
        self.edge_encoder = make_mlp(2 * n_hidden, h, norm=False)
        self.EBs = nn.ModuleList(PaperEB(n_hidden, n_layers, c_weight) for _ in range(n_graph_iters))
        self.edge_mlp = make_mlp(2 * n_hidden, [n_hidden, n_hidden, 1], norm=False)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        i, j = edges
        v, h = x[:, :2], self.node_encoder(x[:, 2:])
        e = self.edge_encoder(torch.cat([h[i], h[j]], dim=1))
        for block in self.EBs:
            v, h, e = block(v, edges, h, e)
        return torch.sigmoid(self.edge_mlp(torch.cat([h[j], h[i]], dim=1)))


class EB3(nn.Module):
    """The SO(3) block."""

    def __init__(self, n_hidden: int, c_weight: float) -> None:
        super().__init__()
        self.c_weight = c_weight
        self.phi_e = nn.Sequential(
            nn.Linear(2, n_hidden, bias=False),
            nn.BatchNorm1d(n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_hidden),
            nn.ReLU(),
        )
        head = nn.Linear(n_hidden, 1, bias=False)
        nn.init.xavier_uniform_(head.weight, gain=0.001)
        self.phi_x = nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.ReLU(), head)
        self.phi_m = nn.Sequential(nn.Linear(n_hidden, 1), nn.Sigmoid())

    def forward(self, x: Tensor, edge_index: Edges) -> tuple[Tensor, Tensor]:
        norms, dots, d = geometry(x, edge_index)
        m = self.phi_e(torch.cat([norms, dots], dim=1))
        m = m * self.phi_m(m)
        step = (d * self.phi_x(m)).clamp(-100, 100)
        return x + scatter_mean(step, edge_index[0], len(x)) * self.c_weight, m


class EuclidNetSO3(nn.Module):
    """The SO(3) network."""

    def __init__(self, n_hidden: int = 8, n_layers: int = 3, c_weight: float = 0.005) -> None:
        super().__init__()
        self.EBs = nn.ModuleList(EB3(n_hidden, c_weight) for _ in range(n_layers))
        self.edge_mlp = nn.Sequential(
            nn.Linear(6 + n_hidden, n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, 1),
        )

    def forward(self, x: Tensor, edge_index: Edges) -> Tensor:
        for block in self.EBs:
            x, m = block(x, edge_index)
        return torch.sigmoid(self.edge_mlp(torch.cat([x[edge_index[1]], x[edge_index[0]], m], dim=1)))
