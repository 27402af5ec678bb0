"""invariant_moments: sums of the invariants over each node's edges; what statistics over all edges are made of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import _native
from ...backend import KERNELS, use_kernel
from ...graph import Graph
from ..autograd import double_backward
from ..common import graph_arguments, graph_from
from . import reference

OP = "invariant_moments"
KERNELS[OP] = ("cpu",)


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
    return torch.ops.equikernels.invariant_moments.default(x, *graph_arguments(graph, need_edges=False), metric, psi)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, table, *ctx.rest = inputs
    ctx.save_for_backward(x, table)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grad_x = torch.ops.equikernels.invariant_moments_backward.default(grad, *ctx.saved_tensors, *ctx.rest)
    return grad_x, None, None, None, None, None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, table, *ctx.rest = inputs
    ctx.save_for_backward(grad, x, table)


def _backward_backward(ctx: Any, grad_grad: Tensor) -> tuple[Any, ...]:
    grad, x, table = ctx.saved_tensors
    num_edges, kind, metric, psi = ctx.rest
    graph = graph_from(table, num_edges, kind, x.shape[0])
    grad_g, grad_x = double_backward(
        lambda x: reference.invariant_moments(x, graph, metric, psi), [x], [grad], [grad_grad]
    )
    return grad_g, grad_x, None, None, None, None, None


if _native.cpu_reason is None:
    torch.library.register_fake(
        "equikernels::invariant_moments", lambda x, *rest: x.new_empty(x.shape[0], 7, dtype=torch.float64)
    )
    torch.library.register_fake("equikernels::invariant_moments_backward", lambda grad, x, *rest: x.new_empty(x.shape))
    torch.library.register_autograd("equikernels::invariant_moments", _backward, setup_context=_setup)
    torch.library.register_autograd(
        "equikernels::invariant_moments_backward", _backward_backward, setup_context=_setup_backward
    )
