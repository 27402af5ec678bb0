"""PELICAN-nano as published (arXiv 2310.16121): padded, the six maps of a symmetric matrix, one einsum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..models.pelican_inputs import STABILIZERS
from .pelican import Aggregators, MessageLayer, columns, minkowski_products, mixed, pairs_of, rows, with_spurions


class SymmetricAggregators(Aggregators):
    """One 2 -> 2 layer of letter "s" and six maps, for a symmetric tensor: its rows and columns have the same sums."""

    def __init__(self, width: int, out: int, average_nobj: float = 49.0) -> None:
        super().__init__("2to2", width, out, activation=nn.ReLU(), average_nobj=average_nobj)
        self.coefs = nn.Parameter(torch.randn(width, out, 6))

    def forward(  # type: ignore[override]
        self, inputs: Tensor, mask: Tensor | None = None, nobj: Any = None
    ) -> Tensor:
        x, nbar = inputs.movedim(-1, 1), self.average_nobj
        side, total = x.sum(2) / nbar, (x.sum((2, 3)) / nbar**2)[:, :, None].expand(-1, -1, x.shape[2])
        maps = [x, torch.diag_embed(side), columns(side), rows(side), rows(total), torch.diag_embed(total)]
        out = self.activation_fn(mixed(torch.stack(maps, 4).movedim(4, 2), self.coefs, self.bias, self.diag_bias))
        return out if mask is None else out * mask


class PELICANNano(nn.Module):
    """The published network of letter "s" with BatchNorm and two beams, no dropout. State-dict keys and results are the
    published ones; weights are to be loaded."""

    spurions: Tensor

    def __init__(self, n_hidden: int, average_nobj: float = 49.0) -> None:
        super().__init__()
        self.register_buffer("spurions", torch.tensor(STABILIZERS["so2_0"].spurions).float(), persistent=False)
        layer = SymmetricAggregators(1, n_hidden, average_nobj)
        parts = {"message_layers": MessageLayer([1]), "eq_layers": layer}
        self.net2to2 = nn.ModuleDict({name: nn.ModuleList([part]) for name, part in parts.items()})
        self.msg_2to0 = MessageLayer([n_hidden])
        self.agg_2to0 = Aggregators("2to0", n_hidden, 1, activate_lin=False, average_nobj=average_nobj)

    def forward(self, p4: Tensor, mask: Tensor) -> Tensor:
        """Logits (-y, +y) [B, 2] of p4 [B, N, 4] and mask [B, N] of real particles."""
        p4, mask = with_spurions(p4, mask, self.spurions)
        pairs, (message, layer) = pairs_of(mask), (part[0] for part in self.net2to2.values())  # type: ignore[index]
        T = message(minkowski_products(p4).to(layer.bias.dtype), pairs)
        T = self.msg_2to0(layer(T), pairs)
        y = self.agg_2to0(T)
        return torch.cat([-y, y], dim=1)
