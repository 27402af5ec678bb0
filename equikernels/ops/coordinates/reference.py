"""What coordinate_update means."""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import Graph


def coordinate_update(
    x: Tensor, weight: Tensor, graph: Graph, c: float, clamp: float | None, mean: bool, difference: bool
) -> Tensor:
    x_j = x[graph.sender]
    t = weight.unsqueeze(-1) * (x[graph.receiver] - x_j if difference else x_j)
    if clamp is not None:
        t = t.clamp(-clamp, clamp)
    total = torch.zeros_like(x).index_add(0, graph.receiver, t)
    if mean:
        total = total / graph.in_degree().clamp(min=1).unsqueeze(-1)
    return x + c * total
