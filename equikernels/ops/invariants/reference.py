"""Defines pairwise_invariants. float32 coordinates are multiplied in float64, as in the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import Graph
from ...metric import psi as squash


def pairwise_invariants(x: Tensor, graph: Graph, metric: list[float], psi: bool) -> Tensor:
    wide = x.double()
    eta = torch.tensor(metric, dtype=wide.dtype, device=x.device)
    x_i, x_j = wide[graph.receiver], wide[graph.sender]
    d = x_i - x_j
    z = torch.stack([(d * d * eta).sum(-1), (x_i * x_j * eta).sum(-1)], dim=-1)
    return (squash(z) if psi else z).to(x.dtype)
