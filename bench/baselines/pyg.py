"""PyTorch Geometric: index_select gathers (as MessagePassing does), torch_geometric.utils.scatter and softmax."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.utils import scatter, softmax


def pairwise_invariants(x: Tensor, i: Tensor, j: Tensor) -> Tensor:
    x_i, x_j = x.index_select(0, i), x.index_select(0, j)
    d, products = x_i - x_j, x_i * x_j
    z = torch.stack([2 * d[:, 0] ** 2 - (d * d).sum(1), 2 * products[:, 0] - products.sum(1)], dim=1)
    return z.sign() * torch.log(z.abs() + 1)


def coordinate_update(x: Tensor, weight: Tensor, i: Tensor, j: Tensor) -> Tensor:
    shift = ((x.index_select(0, i) - x.index_select(0, j)) * weight).clamp(-100, 100)
    return x + scatter(shift, i, dim_size=len(x), reduce="mean")


def segment_sum(values: Tensor, i: Tensor, n: int) -> Tensor:
    return scatter(values, i, dim_size=n, reduce="sum")


def segment_max(values: Tensor, i: Tensor, n: int) -> Tensor:
    return scatter(values, i, dim_size=n, reduce="max")


def segment_softmax(values: Tensor, i: Tensor, n: int) -> Tensor:
    return softmax(values, i, num_nodes=n)


def gather_segment_sum(nodes: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return scatter(nodes.index_select(0, j), i, dim_size=len(nodes), reduce="sum")
