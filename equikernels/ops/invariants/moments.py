"""invariant_moments: sums of the invariants over each node's edges, for statistics over all edges."""

from __future__ import annotations

import torch
from torch import Tensor

from ...backend import KERNELS, use_kernel
from ...graph import Graph
from ..autograd import call
from ..common import graph_arguments
from . import reference
from .autograd import register

OP = "invariant_moments"
KERNELS[OP] = ("cpu", "cuda")


def invariant_moments(x: Tensor, graph: Graph, metric: list[float], psi: bool) -> Tensor:
    """Sums over edges of the invariants s of :func:`pairwise_invariants`, without storing them.

    Args:
        x: [n, D] float32 or float64.
        graph: over n nodes.
        metric: the diagonal.
        psi: squash the invariants.

    Returns:
        float64 [n, 7]: sum of s over received edges (2) and over sent edges (2), and over received edges of
        s_0^2, s_0 s_1, s_1^2 (3).
    """
    if not use_kernel(OP, x):
        return reference.invariant_moments(x, graph, metric, psi)
    return call("invariant_moments", x, *graph_arguments(graph, need_edges=False), metric, psi)


register(
    "invariant_moments",
    reference.invariant_moments,
    lambda x, *rest: x.new_empty(x.shape[0], 7, dtype=torch.float64),
)
