"""VecNet (arXiv 2202.06941) on an edge list: LorentzNet's published block and a free stream that reads its messages. No
code was released."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .lorentznet import LorentzNet, scatter_sum


class FreeStream(nn.Module):
    """One round of messages over everything: equivariant features, four-momenta and free features."""

    def __init__(self, n_hidden: int, n_free: int) -> None:
        super().__init__()
        n_read = n_hidden + 4 + n_free
        self.phi_g = nn.Sequential(
            nn.Linear(2 * n_read + n_hidden, n_free), nn.ReLU(), nn.Linear(n_free, n_free), nn.ReLU()
        )
        self.phi_f = nn.Sequential(nn.Linear(n_read + n_free, n_free), nn.ReLU(), nn.Linear(n_free, n_free))

    def forward(self, f: Tensor, h: Tensor, x: Tensor, message: Tensor, edges: tuple[Tensor, Tensor]) -> Tensor:
        i, j = edges
        u = torch.cat([h, x, f], dim=1)
        received = scatter_sum(self.phi_g(torch.cat([u[i], u[j], message], dim=1)), i, len(u))
        return f + self.phi_f(torch.cat([u, received], dim=1))


class VecNet(LorentzNet):
    """The jet tagger on packed events, with the state-dict keys of :class:`equikernels.models.VecNet`."""

    def __init__(
        self,
        n_scalar: int,
        n_hidden: int,
        n_free: int,
        n_free_input: int,
        n_class: int = 2,
        n_layers: int = 6,
        c_weight: float = 1e-3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(n_scalar, n_hidden, n_class, n_layers, c_weight, dropout)
        self.free_encoder = nn.Linear(n_free_input, n_free)
        self.free = nn.ModuleList(FreeStream(n_hidden, n_free) for _ in range(n_layers))
        self.graph_dec[0] = nn.Linear(n_hidden + n_free, n_hidden)

    def forward(  # type: ignore[override]
        self, x: Tensor, scalars: Tensor, edges: tuple[Tensor, Tensor], events: tuple[Tensor, Tensor], free: Tensor
    ) -> Tensor:
        """Logits [B, n_class]; the readout averages over the particles of an event.

        Args:
            x: [n, 4]; scalars: [n, n_scalar]; free: [n, n_free_input].
            edges: receivers and senders [E].
            events: that of each particle [n], and their sizes [B, 1].
        """
        h, f = self.embedding(scalars), self.free_encoder(free)
        for block, stream in zip(self.LGEBs, self.free, strict=True):
            h, x, message = block.with_messages(h, x, edges, scalars)  # type: ignore[operator]
            f = stream(f, h, x, message, edges)
        event, count = events
        return self.graph_dec(scatter_sum(torch.cat([h, f], dim=1), event, len(count)) / count)
