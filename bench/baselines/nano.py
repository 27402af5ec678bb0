"""PELICAN-nano (arXiv 2310.16121), padded, in eager PyTorch: the six maps of a symmetric matrix, one einsum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from equikernels.baselines.pelican import MaskedBatchNorm, pairs_of
from equikernels.models import PELICANNano

NBAR = 49.0


class Nano(PELICANNano):
    """The Parameters of :class:`equikernels.models.PELICANNano` of letter "s", in this formulation; no dropout."""

    def forward(self, p4: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Logits [B, 2] of p4 [B, N, 4] and mask [B, N] of real particles."""
        beams = self.spurions.to(p4.dtype)
        p4 = torch.cat([beams.expand(len(p4), -1, -1), p4], dim=1)
        mask = torch.cat([mask.new_ones(len(mask), len(beams)), mask], dim=1)
        pairs, layer = pairs_of(mask), self.net2to2.eq_layers[0]
        products = ((p4 * p4.new_tensor([1.0, -1, -1, -1])) @ p4.transpose(1, 2))[..., None].to(layer.bias.dtype)
        T = normed(self.net2to2.message_layers[0].normlayer, products * pairs, pairs)[..., 0]
        size = T.shape[1]
        eye = torch.eye(size, dtype=T.dtype, device=T.device)
        columns, total = T.sum(1) / NBAR, (T.sum((1, 2)) / NBAR**2)[:, None, None].expand(-1, size, size)
        received, sent = columns[:, None, :].expand(-1, size, -1), columns[:, :, None].expand(-1, -1, size)
        maps = torch.stack([T, eye * columns[:, :, None], received, sent, total, eye * total], dim=3)
        T = torch.einsum("dsb,nijb->nijs", layer.coefs, maps) + layer.bias + eye[..., None] * layer.diag_bias
        T = normed(self.msg_2to0.normlayer, F.relu(T) * pairs, pairs)
        trace = T.diagonal(dim1=1, dim2=2).sum(2) / NBAR
        both = torch.stack([T.sum((1, 2)) / NBAR**2, trace], dim=2)
        y = torch.einsum("dsb,ndb->ns", self.agg_2to0.coefs, both) + self.agg_2to0.bias
        return torch.cat([-y, y], dim=1)


def normed(norm: Any, T: Tensor, pairs: Tensor) -> Tensor:
    """The published masked BatchNorm with the Parameters of another one."""
    masked = MaskedBatchNorm(T.shape[-1])
    for name in ("running_mean", "running_var", "weight", "bias"):
        tensor = getattr(norm, name)
        (masked._buffers if name.startswith("running") else masked._parameters)[name] = tensor
    masked.train(norm.training)
    return masked(T, pairs)
