"""LorentzNet as published (arXiv 2201.08187): padded events, an edge list, an [E, 2H + 2] gather and index_add_."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..graph import Graph
from ..packing import unpack


def minkowski_norm(x: Tensor) -> Tensor:
    squares = x * x
    return 2 * squares[..., 0] - squares.sum(-1)


def minkowski_dot(x: Tensor, y: Tensor) -> Tensor:
    products = x * y
    return 2 * products[..., 0] - products.sum(-1)


def psi(z: Tensor) -> Tensor:
    return torch.sign(z) * torch.log(torch.abs(z) + 1)


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    return values.new_zeros(size, values.shape[1]).index_add_(0, index, values)


class LGEB(nn.Module):
    """One message-passing block; without equivariance messages read the four-momenta of both ends."""

    def __init__(self, width: int, n_scalar: int, c_weight: float, last_layer: bool, equivariant: bool = True) -> None:
        super().__init__()
        self.c_weight = c_weight
        self.equivariant = equivariant
        self.phi_e = nn.Sequential(
            nn.Linear(2 * width + (2 if equivariant else 8), width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
        )
        self.phi_h = nn.Sequential(
            nn.Linear(2 * width + n_scalar, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, width)
        )
        self.phi_x: nn.Module | None = None
        if not last_layer:
            self.phi_x = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1, bias=False))
        self.phi_m = nn.Sequential(nn.Linear(width, 1), nn.Sigmoid())

    def forward(self, h: Tensor, x: Tensor, edges: tuple[Tensor, Tensor], scalars: Tensor) -> tuple[Tensor, Tensor]:
        h, x, _ = self.with_messages(h, x, edges, scalars)
        return h, x

    def with_messages(
        self, h: Tensor, x: Tensor, edges: tuple[Tensor, Tensor], scalars: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(h', x', messages [E, width])."""
        i, j = edges
        difference = x[i] - x[j]
        if self.equivariant:
            norms = psi(minkowski_norm(difference)).unsqueeze(1).to(h.dtype)  # x may be wider
            dots = psi(minkowski_dot(x[i], x[j])).unsqueeze(1).to(h.dtype)
            inputs = [h[i], h[j], norms, dots]
        else:
            inputs = [h[i], psi(x[i]).to(h.dtype), h[j], psi(x[j]).to(h.dtype)]
        message = self.phi_e(torch.cat(inputs, dim=1))
        message = message * self.phi_m(message)
        if self.phi_x is not None:
            shift = (difference * self.phi_x(message)).clamp(-100, 100)
            degree = scatter_sum(torch.ones_like(shift), i, x.shape[0]).clamp(min=1)
            x = x + self.c_weight * scatter_sum(shift, i, x.shape[0]) / degree
        h = h + self.phi_h(torch.cat([h, scatter_sum(message, i, h.shape[0]), scalars], dim=1))
        return h, x, message


class LorentzNet(nn.Module):
    """The published network, on padded events. State-dict keys and results are the published ones.

    The release divides by the number of slots; with readout "masked_mean" this one divides by that of real nodes.
    """

    def __init__(
        self,
        n_scalar: int,
        n_hidden: int,
        n_class: int = 2,
        n_layers: int = 6,
        c_weight: float = 1e-3,
        dropout: float = 0.0,
        readout: str = "padded_mean",
        *,
        equivariant: bool = True,
    ) -> None:
        super().__init__()
        self.readout = readout
        self.embedding = nn.Linear(n_scalar, n_hidden)
        self.LGEBs = nn.ModuleList(
            LGEB(n_hidden, n_scalar, c_weight, last_layer=layer == n_layers - 1, equivariant=equivariant)
            for layer in range(n_layers)
        )
        self.graph_dec = nn.Sequential(
            nn.Linear(n_hidden, n_hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(n_hidden, n_class)
        )

    def forward(
        self, scalars: Tensor, x: Tensor, edges: tuple[Tensor, Tensor], node_mask: Tensor, n_nodes: int
    ) -> Tensor:
        """Logits [B, n_class].

        Args:
            scalars: [B * N, n_scalar], padded rows 0.
            x: [B * N, 4] four-momenta (E, px, py, pz) in GeV, padded rows 0.
            edges: receivers and senders, int64 [E] each: every ordered pair of real nodes of an event.
            node_mask: [B * N, 1], 1 for real nodes.
            n_nodes: N.
        """
        h = self.embedding(scalars)
        for block in self.LGEBs:
            h, x = block(h, x, edges, scalars)
        h = (h * node_mask).view(-1, n_nodes, h.shape[1])
        if self.readout == "masked_mean":
            return self.graph_dec(h.sum(1) / node_mask.view(-1, n_nodes, 1).sum(1).clamp(min=1))
        return self.graph_dec(h.mean(1))

    @staticmethod
    def padded_inputs(
        x: Tensor, scalars: Tensor, ptr: Tensor, padded_to: int | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor, int]:
        """Makes the arguments of :meth:`forward` from packed events; ``padded_to`` defaults to the longest event."""
        padded_x, mask = unpack(x, ptr, padded_to)
        padded_scalars, _ = unpack(scalars, ptr, padded_to)
        n_nodes = mask.shape[1]
        slot = mask.flatten().nonzero().squeeze(1)  # padded row of each packed row
        sender, receiver = slot[Graph.complete(ptr, num_nodes=x.shape[0]).edge_index]
        node_mask = mask.reshape(-1, 1).to(scalars.dtype)
        return padded_scalars.flatten(0, 1), padded_x.flatten(0, 1), (receiver, sender), node_mask, n_nodes
