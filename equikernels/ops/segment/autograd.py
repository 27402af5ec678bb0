"""Derivatives of the segment kernels, in terms of the same kernels: every order, no further kernel.

    sum of edges' rows      <->  gather_to_edges: a node's row for each edge it receives
    sum of senders' rows    <->  sum of receivers' rows (the transposed graph) for the rows, edge_dot for the weights
    edge_dot                <->  sum of senders' rows, sum of receivers' rows
    softmax                 <->  its gradient, which is symmetric; beyond, sums and gather_to_edges

An extremum is a sum over the one edge ``arg`` names for each node and channel: its derivatives are those of the sum,
with ``arg``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import _native
from ..autograd import call, register_autograd
from ..common import GraphArguments, graph_from

EDGES, SENDERS, RECEIVERS = 0, 1, 2  # whose rows are summed, as the kernels number them


def _sum(
    rows: Tensor, weight: Tensor | None, arg: Tensor | None, graph: GraphArguments, n: int, rows_of: int
) -> Tensor:
    return call("segment_sum", rows, weight, arg, *graph, n, rows_of, False)


def _sum_adjoint(
    needs: tuple[bool, bool],
    grad: Tensor,
    rows: Tensor | None,
    weight: Tensor | None,
    arg: Tensor | None,
    graph: GraphArguments,
    rows_of: int,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of a sum (or, with its arg, an extremum) with respect to its rows and its weights."""
    grad_rows = grad_weight = None
    if rows_of == EDGES:
        return call("gather_to_edges", grad, arg, *graph) if needs[0] else None, None
    if needs[0]:
        back = RECEIVERS if rows_of == SENDERS else SENDERS
        grad_rows = _sum(grad, weight, arg, graph, grad.shape[0], back)
    if weight is not None and needs[1]:
        assert rows is not None
        ends = (grad, rows) if rows_of == SENDERS else (rows, grad)
        grad_weight = call("edge_dot", *ends, arg, *graph, weight.dim() == 2)
    return grad_rows, grad_weight


def _setup_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, weight, arg, table, num_edges, kind, ctx.num_nodes, ctx.rows_of, ctx.mean = inputs
    ctx.graph = num_edges, kind
    ctx.save_for_backward(None if weight is None else rows, weight, arg, table)


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rows, weight, arg, table = ctx.saved_tensors
    num_edges, kind = ctx.graph
    graph = table, num_edges, kind
    if ctx.mean:
        degree = graph_from(*graph, ctx.num_nodes).in_degree().clamp(min=1)
        wide = torch.promote_types(grad.dtype, torch.float32)  # a float16 cannot count to 65520
        grad = (grad / degree.to(wide)[:, None]).to(grad.dtype)
    grads = _sum_adjoint(ctx.needs_input_grad[:2], grad, rows, weight, arg, graph, ctx.rows_of)
    return *grads, None, None, None, None, None, None, None


def _setup_extremum(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    rows, weight, table, num_edges, kind, _, ctx.rows_of, _ = inputs
    ctx.graph = num_edges, kind
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(None if weight is None else rows, weight, output[1], table)


def _extremum_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    rows, weight, arg, table = ctx.saved_tensors
    grads = _sum_adjoint(ctx.needs_input_grad[:2], grad, rows, weight, arg, (table, *ctx.graph), ctx.rows_of)
    return *grads, None, None, None, None, None, None


def _setup_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, arg, table, *ctx.graph = inputs
    ctx.num_nodes = rows.shape[0]
    ctx.save_for_backward(arg, table)


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    arg, table = ctx.saved_tensors
    return _sum(grad, None, arg, (table, *ctx.graph), ctx.num_nodes, EDGES), None, None, None, None


def _setup_dot(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    receivers, senders, arg, table, num_edges, kind, _ = inputs
    ctx.graph = num_edges, kind
    ctx.save_for_backward(receivers, senders, arg, table)


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    receivers, senders, arg, table = ctx.saved_tensors
    graph, n = (table, *ctx.graph), receivers.shape[0]
    grad_receivers = _sum(senders, grad, arg, graph, n, SENDERS) if ctx.needs_input_grad[0] else None
    grad_senders = _sum(receivers, grad, arg, graph, n, RECEIVERS) if ctx.needs_input_grad[1] else None
    return grad_receivers, grad_senders, None, None, None, None, None


def _setup_softmax(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, table, *ctx.rest = inputs
    ctx.save_for_backward(output, table)


def _softmax_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return call("segment_softmax_backward", grad, *ctx.saved_tensors, *ctx.rest), None, None, None, None


def _setup_softmax_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, shares, table, *ctx.rest = inputs
    ctx.save_for_backward(grad, shares, table)


def _softmax_backward_backward(ctx: Any, grad_grad: Tensor) -> tuple[Any, ...]:
    grad, shares, table = ctx.saved_tensors
    *edges, num_nodes = ctx.rest
    graph = (table, *edges)

    def over_receiver(values: Tensor) -> Tensor:
        return call("gather_to_edges", _sum(values, None, None, graph, num_nodes, EDGES), None, *graph)

    # backward(g, y)_e = y_e (g_e - sum y g) is linear and symmetric in g, quadratic in y
    grad_g = call("segment_softmax_backward", grad_grad, shares, *graph, num_nodes)
    grad_y = grad_grad * (grad - over_receiver(shares * grad)) - grad * over_receiver(shares * grad_grad)
    return grad_g, grad_y, None, None, None, None


def _register() -> None:
    library = torch.library
    library.register_fake(
        "equikernels::segment_sum", lambda rows, weight, arg, graph, e, kind, n, *rest: rows.new_empty(n, rows.shape[1])
    )
    library.register_fake(
        "equikernels::segment_extremum",
        lambda rows, weight, graph, e, kind, n, *rest: (
            rows.new_empty(n, rows.shape[1]),
            rows.new_empty(n, rows.shape[1], dtype=torch.int64),
        ),
    )
    library.register_fake(
        "equikernels::gather_to_edges", lambda rows, arg, graph, e, kind: rows.new_empty(e, rows.shape[1])
    )
    library.register_fake(
        "equikernels::edge_dot",
        lambda receivers, senders, arg, graph, e, kind, per_channel: (
            receivers.new_empty(e, receivers.shape[1]) if per_channel else receivers.new_empty(e)
        ),
    )
    for name in ("segment_softmax", "segment_softmax_backward"):
        library.register_fake(f"equikernels::{name}", lambda values, *rest: values.new_empty(values.shape))

    for name, backward, setup in (
        ("segment_sum", _sum_backward, _setup_sum),
        ("segment_extremum", _extremum_backward, _setup_extremum),
        ("gather_to_edges", _gather_backward, _setup_gather),
        ("edge_dot", _dot_backward, _setup_dot),
        ("segment_softmax", _softmax_backward, _setup_softmax),
        ("segment_softmax_backward", _softmax_backward_backward, _setup_softmax_backward),
    ):
        register_autograd(name, backward, setup)


if _native.cpu_reason is None:
    _register()
