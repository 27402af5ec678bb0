"""A tensor field network of orders 0 and 1 (arXiv 1802.08219) as released code runs it: a kernel matrix for every edge.

Edges are index tensors (row, col); messages go from col to row. State-dict keys are those of our network.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .egnn import Edges, scatter_mean

Features = dict[int, Tensor]  # order l -> [n, channels, 2 l + 1]


def bases(unit: Tensor) -> dict[tuple[int, int], Tensor]:
    """(k, l) -> [E, 2 l + 1, 2 k + 1, functions]: the kernels from order k to order l, of directions [E, 3]."""
    one, (a, b, c) = torch.ones_like(unit[:, 0]), unit.unbind(1)
    zero = torch.zeros_like(one)
    cross = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], dim=1).view(-1, 3, 3)
    same = torch.eye(3, dtype=unit.dtype, device=unit.device).expand_as(cross)
    outer = unit[:, :, None] * unit[:, None]
    return {
        (0, 0): one.view(-1, 1, 1, 1),
        (0, 1): unit.view(-1, 3, 1, 1),
        (1, 0): unit.view(-1, 1, 3, 1),
        (1, 1): torch.stack([same, cross, outer - same / 3], dim=3),
    }


class Convolution(nn.Module):
    """Messages of the neighbours and of the node itself, and their mean."""

    def __init__(self, n_in: Sequence[int], n_out: Sequence[int], edge_attr_nf: int, act_fn: nn.Module) -> None:
        super().__init__()
        self.n_in, self.n_out = tuple(n_in), tuple(n_out)
        self.radial = nn.ModuleDict()
        self.self_interaction: Any = nn.ModuleDict()
        for k, l in ((0, 0), (0, 1), (1, 0), (1, 1)):
            outputs = (2 * min(k, l) + 1) * n_out[l] * n_in[k]
            if outputs:
                self.radial[f"{k}{l}"] = nn.Sequential(
                    nn.Linear(1 + edge_attr_nf, 32), nn.LayerNorm(32), act_fn,
                    nn.Linear(32, 32), nn.LayerNorm(32), act_fn, nn.Linear(32, outputs),
                )  # fmt: skip
        for k in (0, 1):
            if n_in[k] and n_out[k]:
                self.self_interaction[str(k)] = nn.Linear(n_in[k], n_out[k], bias=False)

    def forward(self, h: Features, x: Tensor, edges: Edges, edge_attr: Tensor | None) -> Features:
        row, col = edges
        d = x[row] - x[col]
        distance = d.norm(dim=1, keepdim=True)
        basis = bases(d / distance)
        edge = distance if edge_attr is None else torch.cat([distance, edge_attr], dim=1)
        out = {}
        for l in (0, 1):
            message = x.new_zeros(len(row), self.n_out[l], 2 * l + 1)
            for k in (0, 1):
                if f"{k}{l}" in self.radial:
                    sizes = (2 * min(k, l) + 1, self.n_out[l], self.n_in[k])
                    radial = self.radial[f"{k}{l}"](edge).unflatten(1, sizes)
                    kernel = torch.einsum("efoc,elkf->eolck", radial, basis[k, l]).flatten(3).flatten(1, 2)
                    message = message + (kernel @ h[k][col].flatten(1)[:, :, None]).view_as(message)
            if str(l) in self.self_interaction:
                message = message + self.self_interaction[str(l)].weight @ h[l][row]
            out[l] = scatter_mean(message.flatten(1), row, len(x)).view(len(x), self.n_out[l], 2 * l + 1)
        return out


class NormNonlinearity(nn.Module):
    """A network of the norms; directions stay."""

    def __init__(self, widths: Sequence[int], act_fn: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleDict(
            {str(l): nn.Sequential(nn.LayerNorm(n), act_fn, nn.Linear(n, n)) for l, n in enumerate(widths) if n}
        )

    def forward(self, h: Features) -> Features:
        out = {}
        for l, v in h.items():
            length = v.norm(dim=2).clamp(min=1e-12)
            out[l] = self.nets[str(l)](length)[:, :, None] * v / length[:, :, None] if v.shape[1] else v
        return out


class TFN(nn.Module):
    """Convolutions with norm nonlinearities between them."""

    def __init__(
        self,
        n_in: Sequence[int],
        width: int,
        n_out: Sequence[int],
        order: int = 1,
        edge_attr_nf: int = 0,
        act_fn: nn.Module = nn.ReLU(),  # noqa: B008
        n_layers: int = 4,
    ) -> None:
        super().__init__()
        between = (width, width * order)
        widths = [n_in, *[between] * (n_layers - 1), n_out]
        self.layers = nn.ModuleList(Convolution(a, b, edge_attr_nf, act_fn) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(NormNonlinearity(between, act_fn) for _ in range(n_layers - 1))

    def forward(
        self, s: Tensor, v: Tensor, x: Tensor, edges: Edges, edge_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        h: Features = {0: s[:, :, None], 1: v}
        for k, layer in enumerate(self.layers):
            h = layer(self.norms[k - 1](h) if k else h, x, edges, edge_attr)
        return h[0].squeeze(2), h[1]
