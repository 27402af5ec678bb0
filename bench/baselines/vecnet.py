"""VecNet (arXiv 2202.06941), of which no code was released: LorentzNet's published block and a free stream that reads
its messages, in eager PyTorch with an edge list."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equikernels import models
from equikernels.baselines.lorentznet import minkowski_dot, minkowski_norm, psi, scatter_sum


class VecNet(models.VecNet):
    """The Parameters of :class:`equikernels.models.VecNet`, in this formulation; packed events, masked mean."""

    def forward(  # type: ignore[override]
        self, x: Tensor, scalars: Tensor, edges: tuple[Tensor, Tensor], events: tuple[Tensor, Tensor], free: Tensor
    ) -> Tensor:
        """Logits; edges are receivers and senders, events that of each particle [n] and their sizes [B, 1]."""
        n, (i, j) = x.shape[0], edges
        h, f = self.embedding(scalars), self.free_encoder(free)
        for block, stream in zip(self.LGEBs, self.free, strict=True):
            b: Any = block
            difference = x[i] - x[j]
            norms, dots = psi(minkowski_norm(difference)), psi(minkowski_dot(x[i], x[j]))
            m = b.phi_e(torch.cat([h[i], h[j], norms[:, None], dots[:, None]], dim=1))
            m = m * b.phi_m(m)
            if getattr(b, "phi_x", None) is not None:
                shift = (difference * b.phi_x(m)).clamp(-100, 100)
                degree = scatter_sum(torch.ones_like(shift), i, n).clamp(min=1)
                x = x + b.c_weight * scatter_sum(shift, i, n) / degree
            h = h + b.phi_h(torch.cat([h, scatter_sum(m, i, n), scalars], dim=1))
            u = torch.cat([h, x, f], dim=1)
            g: Any = stream
            heard = scatter_sum(g.phi_g(torch.cat([u[i], u[j], m], dim=1)), i, n)
            f = f + g.phi_f(torch.cat([u, heard], dim=1))
        event, count = events
        return self.graph_dec(scatter_sum(torch.cat([h, f], dim=1), event, len(count)) / count)
