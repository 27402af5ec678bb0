"""Top taggers without symmetry: ParticleNet (arXiv 1902.08570) and PFN (arXiv 1810.05165).

Events are padded: features [B, C, P], mask [B, 1, P].
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

FAR = 1e9  # position of padding, so that no particle has it as a neighbour


class EdgeConv(nn.Module):
    """Three 1x1 convolutions on (x_i, x_j - x_i) of the k nearest, their mean, and a shortcut."""

    def __init__(self, k: int, n_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.k = k
        sizes = [2 * n_in, *widths]
        pairs = list(itertools.pairwise(sizes))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in pairs)
        self.bns = nn.ModuleList(nn.BatchNorm2d(b) for _, b in pairs)
        self.sc = nn.Conv1d(n_in, widths[-1], 1, bias=False) if n_in != widths[-1] else nn.Identity()
        self.sc_bn = nn.BatchNorm1d(widths[-1]) if n_in != widths[-1] else nn.Identity()

    def forward(self, points: Tensor, x: Tensor) -> Tensor:
        """[B, D, P], [B, C, P] -> [B, C', P]."""
        square = points.square().sum(1)
        distance = square[:, :, None] + square[:, None] - 2 * points.transpose(1, 2) @ points
        near = distance.topk(self.k + 1, largest=False).indices[:, :, 1:]  # a particle is its own nearest
        batch, width, n = x.shape
        index = near.reshape(batch, 1, n * self.k).expand(-1, width, -1)
        neighbour = x.gather(2, index).view(batch, width, n, self.k)
        own = x[..., None].expand_as(neighbour)
        message = torch.cat([own, neighbour - own], dim=1)
        for conv, norm in zip(self.convs, self.bns, strict=True):
            message = norm(conv(message)).relu()
        return (self.sc_bn(self.sc(x)) + message.mean(3)).relu()


class ParticleNet(nn.Module):
    """366,160 parameters on seven features. The first block finds neighbours in (Delta eta, Delta phi)."""

    def __init__(
        self,
        n_features: int = 7,
        k: int = 16,
        widths: Sequence[Sequence[int]] = ((64,) * 3, (128,) * 3, (256,) * 3),
        n_hidden: int = 256,
    ) -> None:
        super().__init__()
        self.bn_fts = nn.BatchNorm1d(n_features)
        inputs = [n_features, *(block[-1] for block in widths)]
        self.edge_convs = nn.ModuleList(EdgeConv(k, a, block) for a, block in zip(inputs[:-1], widths, strict=True))
        hidden = nn.Sequential(nn.Linear(inputs[-1], n_hidden), nn.ReLU(), nn.Dropout(0.1))
        self.fc = nn.Sequential(hidden, nn.Linear(n_hidden, 2))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, 2]."""
        far = torch.where(mask, 0.0, FAR).to(features.dtype)
        points, x = features[:, -2:], self.bn_fts(features) * mask
        for number, block in enumerate(self.edge_convs):
            x = block((points if number == 0 else x) + far, x) * mask
        return self.fc(x.sum(2) / mask.sum(2).clamp(min=1))


def dense(sizes: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return layers


class PFN(nn.Module):
    """82,458 parameters on three features: a network of each particle, their sum, a network of the sum."""

    def __init__(
        self, n_features: int = 3, phi: Sequence[int] = (100, 100, 256), f: Sequence[int] = (100, 100, 100)
    ) -> None:
        super().__init__()
        self.phi = nn.Sequential(*dense([n_features, *phi]))
        self.f = nn.Sequential(*dense([phi[-1], *f]), nn.Linear(f[-1], 2))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, 2]."""
        return self.f((self.phi(features.transpose(1, 2)) * mask.transpose(1, 2)).sum(1))
