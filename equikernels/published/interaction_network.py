"""The Interaction Network as published (arXiv 2103.16701): edge_index = (sender, receiver)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .lorentznet import scatter_sum


class Model(nn.Module):
    """Three linear layers."""

    def __init__(self, n_in: int, n_out: int, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_in, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, n_out),
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)


class InteractionNetwork(nn.Module):
    """R1, O, R2; n_layers passes with the same weights."""

    def __init__(self, hidden_size: int = 40, n_layers: int = 1) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.R1 = Model(10, 4, hidden_size)
        self.O = Model(7, 3, hidden_size)
        self.R2 = Model(10, 1, hidden_size)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        sender, receiver = edge_index
        for _ in range(self.n_layers):
            effects = self.R1(torch.cat([x[receiver], x[sender], edge_attr], dim=1))
            x = self.O(torch.cat([x, scatter_sum(effects, receiver, len(x))], dim=1))
        return torch.sigmoid(self.R2(torch.cat([x[receiver], x[sender], effects], dim=1)))
