"""Plain PyTorch: advanced indexing gathers, index_add_ scatters."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_invariants(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    d, products = x[i] - x[j], x[i] * x[j]
    z = torch.stack([2 * d[:, 0] ** 2 - (d * d).sum(1), 2 * products[:, 0] - products.sum(1)], dim=1)
    return z.sign() * torch.log(z.abs() + 1)


def coordinate_update(x: Tensor, weight: Tensor, i: Tensor, j: Tensor) -> Tensor:
    shift = ((x[i] - x[j]) * weight).clamp(-100, 100)
    degree = segment_sum(torch.ones_like(shift), i, len(x)).clamp(min=1)
    return x + segment_sum(shift, i, len(x)) / degree


def segment_sum(values: Tensor, i: Tensor, n: int) -> Tensor:
    return values.new_zeros(n, values.shape[1]).index_add_(0, i, values)


def segment_max(values: Tensor, i: Tensor, n: int) -> Tensor:
    index = i[:, None].expand_as(values)
    return values.new_zeros(n, values.shape[1]).scatter_reduce(0, index, values, "amax", include_self=False)


def segment_softmax(values: Tensor, i: Tensor, n: int) -> Tensor:
    e = (values - segment_max(values.detach(), i, n)[i]).exp()
    return e / segment_sum(e, i, n)[i]


def gather_segment_sum(nodes: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return segment_sum(nodes[j], i, len(nodes))
