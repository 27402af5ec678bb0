"""Derivatives of the rank-2 kernels, in terms of the same kernels: every order, no further kernel.

    sum  <->  broadcast     with weights (per particle and channel) or, for max and min, with the arguments
    mix  <->  mix of the gradient with the weights transposed, its sum, and two outer products; these are bilinear
    product of rows  <->  product with the transpose, outer product

A table is [n, 3, C]: the diagonal, the columns, the rows. Weights and arguments are [n, 2, C]: what multiplies (or
picks) particle i in sums over columns' first index, and particle j in sums over rows' second.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import torch
from torch import Tensor

from ... import _native
from ..autograd import call, register_autograd
from ..common import GraphArguments
from .reference import through


def _sum(T: Tensor, weight: Tensor | None, arg: Tensor | None, pairs: GraphArguments, n: int) -> Tensor:
    return call("rank2_sum", T, weight, arg, *pairs, n)


def _weight_gradient(T: Tensor, table: Tensor, pairs: GraphArguments, n: int) -> Tensor:
    """Of sum(T table' ), table' made with the weights: each side's weight meets the other side's table."""
    return _sum(T, table[:, 1:].flip(1), None, pairs, n)[:, 1:].flip(1)


def _setup_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    T, weight, arg, graph, *ctx.edges, ctx.num_nodes = inputs
    ctx.save_for_backward(None if weight is None else T, weight, arg, graph)


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    T, weight, arg, graph = ctx.saved_tensors
    pairs = graph, *ctx.edges
    grad_T = call("rank2_broadcast", grad, weight, arg, *pairs) if ctx.needs_input_grad[0] else None
    wanted = weight is not None and ctx.needs_input_grad[1]
    grad_weight = _weight_gradient(T, grad, pairs, ctx.num_nodes) if wanted else None
    return grad_T, grad_weight, None, None, None, None, None


def _setup_extremum(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, graph, *ctx.edges, _, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], graph)


def _extremum_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    arg, graph = ctx.saved_tensors
    return call("rank2_broadcast", grad, None, arg, graph, *ctx.edges), None, None, None, None, None


def _setup_broadcast(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    table, weight, arg, graph, *ctx.edges = inputs
    ctx.num_nodes = table.shape[0]
    ctx.save_for_backward(None if weight is None else table, weight, arg, graph)


def _broadcast_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    table, weight, arg, graph = ctx.saved_tensors
    pairs = graph, *ctx.edges
    grad_table = _sum(grad, weight, arg, pairs, ctx.num_nodes) if ctx.needs_input_grad[0] else None
    wanted = weight is not None and ctx.needs_input_grad[1]
    grad_weight = _weight_gradient(grad, table, pairs, ctx.num_nodes) if wanted else None
    return grad_table, grad_weight, None, None, None, None


def _mix(T: Tensor, weights: Any, table: Tensor | None, pairs: GraphArguments, n: int, slope: float = 1.0) -> Tensor:
    return call("rank2_mix", T, *weights, table, *pairs, n, slope)


def _t(weight: Tensor | None) -> Tensor | None:
    return None if weight is None else weight.t()


def _setup_mix(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    T, identity, transpose, _, graph, *ctx.rest = inputs
    slope = ctx.rest[-1]
    ctx.save_for_backward(None if slope == 1 else output, T, identity, transpose, graph)


def _mix_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    needs = list(ctx.needs_input_grad[:4])
    wanted = [needs[0], needs[1] or needs[2], needs[3]]
    activated, *factors, graph = ctx.saved_tensors
    grads = call("rank2_mix_backward", grad, activated, *factors, None, graph, *ctx.rest, wanted)
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), None, None, None, None, None


def _setup_mix_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    grad, activated, T, identity, transpose, _, graph, num_edges, kind, ctx.num_nodes, ctx.slope, ctx.wanted = inputs
    ctx.edges = num_edges, kind
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, activated, T, identity, transpose, graph)


def _mix_backward_backward(
    ctx: Any, to_T: Tensor | None, to_identity: Tensor | None, to_transpose: Tensor | None, to_table: Tensor | None
) -> tuple[Any, ...]:
    grad, out, T, identity, transpose, graph = ctx.saved_tensors
    pairs, n = (graph, *ctx.edges), ctx.num_nodes
    want_T, want_weights, want_table = ctx.wanted
    weights = identity, transpose
    inner = through(grad, out, ctx.slope)

    # inner enters T's gradient, the weights' and the table's linearly, and nothing else enters the table's
    terms: list[Tensor] = []
    grad_T = grad_identity = grad_transpose = None
    if want_T and to_T is not None:
        terms.append(_mix(to_T, weights, None, pairs, n))
        if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
            _, grad_identity, grad_transpose, _ = call(
                "rank2_mix_backward", inner, None, to_T, *weights, None, *pairs, n, 1.0, [False, True, False]
            )
    to_weights = [
        g if w is not None and want_weights else None for g, w in zip((to_identity, to_transpose), weights, strict=True)
    ]
    if any(g is not None for g in to_weights):
        terms.append(_mix(T, to_weights, None, pairs, n))
        if ctx.needs_input_grad[2]:
            grad_T = _mix(inner, [_t(g) for g in to_weights], None, pairs, n)
    if want_table and to_table is not None:
        terms.append(call("rank2_broadcast", to_table, None, None, *pairs))
    grad_grad = through(functools.reduce(operator.add, terms), out, ctx.slope) if terms else None
    absent = [None if w is None else g for g, w in zip((grad_identity, grad_transpose), weights, strict=True)]
    return grad_grad, None, grad_T, *absent, None, None, None, None, None, None, None


def _fake_mix_backward(
    grad: Tensor, out: Tensor, T: Tensor, identity: Tensor, transpose: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    _, _, _, _, num_nodes, _, wanted = rest

    def weight(w: Tensor | None) -> Tensor:
        return grad.new_empty(w.shape if w is not None and wanted[1] else (0,))

    table = grad.new_empty((num_nodes, 3, grad.shape[1]) if wanted[2] else (0,))
    return grad.new_empty(T.shape if wanted[0] else (0,)), weight(identity), weight(transpose), table


def _setup_rows(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _product_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, weight = ctx.saved_tensors
    grad_x = call("rows_product", grad, weight.t()) if ctx.needs_input_grad[0] else None
    return grad_x, call("rows_outer", x, grad) if ctx.needs_input_grad[1] else None


def _outer_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, y = ctx.saved_tensors
    grad_x = call("rows_product", y, grad.t()) if ctx.needs_input_grad[0] else None
    return grad_x, call("rows_product", x, grad) if ctx.needs_input_grad[1] else None


def _register() -> None:
    library = torch.library
    library.register_fake("equikernels::rows_product", lambda x, weight: x.new_empty(x.shape[0], weight.shape[1]))
    library.register_fake("equikernels::rows_outer", lambda x, grad: x.new_empty(x.shape[1], grad.shape[1]))
    library.register_fake(
        "equikernels::rank2_sum", lambda T, weight, arg, graph, e, kind, n: T.new_empty(n, 3, T.shape[1])
    )
    library.register_fake(
        "equikernels::rank2_extremum",
        lambda T, graph, e, kind, n, largest: (
            T.new_empty(n, 3, T.shape[1]),
            T.new_empty(n, 2, T.shape[1], dtype=torch.int32),
        ),
    )
    library.register_fake(
        "equikernels::rank2_broadcast", lambda table, weight, arg, graph, e, kind: table.new_empty(e, table.shape[2])
    )
    library.register_fake(
        "equikernels::rank2_mix",
        lambda T, identity, transpose, *rest: T.new_empty(
            T.shape[0], (transpose if identity is None else identity).shape[1]
        ),
    )
    library.register_fake("equikernels::rank2_mix_backward", _fake_mix_backward)
    for name, backward, setup in (
        ("rank2_sum", _sum_backward, _setup_sum),
        ("rank2_extremum", _extremum_backward, _setup_extremum),
        ("rank2_broadcast", _broadcast_backward, _setup_broadcast),
        ("rank2_mix", _mix_backward, _setup_mix),
        ("rank2_mix_backward", _mix_backward_backward, _setup_mix_backward),
        ("rows_product", _product_backward, _setup_rows),
        ("rows_outer", _outer_backward, _setup_rows),
    ):
        register_autograd(name, backward, setup)


if _native.cpu_reason is None:
    _register()
