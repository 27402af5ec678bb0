"""Defines pairwise_invariants. float32 coordinates are multiplied in float64, as in the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import Graph
from ...metric import psi as squash


def pairwise_invariants(x: Tensor, graph: Graph, metric: list[float], psi: bool) -> Tensor:
    return _in_float64(x, graph, metric, psi).to(x.dtype)


def invariant_moments(x: Tensor, graph: Graph, metric: list[float], psi: bool) -> Tensor:
    s = _in_float64(x, graph, metric, psi)
    received = torch.cat([s, s[:, :1] * s, s[:, 1:] * s[:, 1:]], dim=-1)  # s, s0 s0, s0 s1, s1 s1
    at_receiver = received.new_zeros(graph.num_nodes, 5).index_add(0, graph.receiver, received)
    at_sender = s.new_zeros(graph.num_nodes, 2).index_add(0, graph.sender, s)
    return torch.cat([at_receiver[:, :2], at_sender, at_receiver[:, 2:]], dim=-1)


def _in_float64(x: Tensor, graph: Graph, metric: list[float], psi: bool) -> Tensor:
    wide = x.double()
    eta = torch.tensor(metric, dtype=wide.dtype, device=x.device)
    x_i, x_j = wide[graph.receiver], wide[graph.sender]
    d = x_i - x_j
    z = torch.stack([(d * d * eta).sum(-1), (x_i * x_j * eta).sum(-1)], dim=-1)
    return squash(z) if psi else z
