"""A 2 -> 2 layer with one summed aggregation as one op: sum over pairs, maps of particles and events, mix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import _native
from ...backend import COMPOSED, KERNELS, use_shortcut
from ...graph import Graph
from ..autograd import call, double_backward, register_autograd
from ..common import graph_arguments, graph_from
from ..segment import segment_reduce
from .maps import mix_2to2
from .op import reduce_table, spread_events
from .reference import through
from .rows import affine

OP = "linear_2to2"
KERNELS[OP] = ("cpu",)
COMPOSED.add(OP)


def fused_2to2(
    T: Tensor,
    coefs: Tensor,
    factors: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    bias: Tensor | None,
    diag_bias: Tensor | None,
    pairs: Graph,
    slope: float,
) -> Tensor:
    """The layer on scale T + shift, channel by channel, which is never made.

    Args:
        T: [n_pairs, C].
        coefs: [C, D, 15].
        factors: [n_events, 10, C], multiply maps 6 to 15 of plain sums.
        scale, shift: [C], both or neither.
        bias, diag_bias: [D].
    """
    tensors = [t for t in (T, coefs, factors, scale, shift, bias, diag_bias) if t is not None]
    if not use_shortcut(OP, *tensors):
        return composed(T, coefs, factors, scale, shift, bias, diag_bias, pairs, slope)
    arguments = *graph_arguments(pairs), pairs.num_nodes, slope
    maps = coefs.permute(2, 0, 1)  # one after another
    return call("linear_2to2", T, maps, factors, scale, shift, bias, diag_bias, *arguments)[0]


def composed(
    T: Tensor,
    coefs: Tensor,
    factors: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    bias: Tensor | None,
    diag_bias: Tensor | None,
    pairs: Graph,
    slope: float,
) -> Tensor:
    """The same, of smaller ops."""
    if scale is not None and shift is not None:
        T = affine(T, scale, shift)
    width = T.shape[1]
    table = reduce_table(T, pairs, "sum", None)
    sums = segment_reduce(table.reshape(-1, 3 * width), pairs.events, "sum").view(-1, 3, width)
    of_nodes = spread_events(factors[:, :6].reshape(-1, 6 * width), pairs).view(-1, 2, 3, width)
    nodes = table[:, 1:, None] * of_nodes
    events = torch.stack([sums[:, 0], sums[:, 2]], dim=1)[:, :, None] * factors[:, 6:].unflatten(1, (2, 2))
    return mix_2to2(T, table[:, 0], [(nodes, events)], coefs, bias, diag_bias, pairs, slope)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    T, maps, factors, scale, shift, _, _, table, *ctx.rest = inputs
    out, aggregates = output
    ctx.mark_non_differentiable(aggregates)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(None if ctx.rest[-1] == 1 else out, aggregates, T, maps, factors, scale, shift, table)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 12
    *tensors, scale, shift, table = ctx.saved_tensors
    grads = call("linear_2to2_backward", grad, *tensors, scale, shift, table, *ctx.rest, ctx.needs_input_grad[0])
    needs = ctx.needs_input_grad[:7]
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), *(None,) * 5


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, out, _, T, maps, factors, scale, shift, table, *ctx.rest, ctx.want_tensor = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(grad, out, T, maps, factors, scale, shift, table)


def _backward_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    grad, out, *layer, table = ctx.saved_tensors
    num_edges, kind, num_nodes, slope = ctx.rest
    pairs = graph_from(table, num_edges, kind, num_nodes)

    zero = grad.new_zeros(grad.shape[1])
    given = [t for t in layer if t is not None]  # scale and shift come together

    def function(*primals: Tensor) -> Tensor:
        T, maps, *rest = primals
        arguments: list[Any] = [T, maps.permute(1, 2, 0), *rest, pairs, 1.0]
        if len(primals) == 5:
            arguments[3:3] = None, None
        return composed(*arguments)

    primals = [*given, zero, zero]
    found_grads = [g for g, t in zip(grads, [*layer, zero, zero], strict=True) if t is not None]
    flowing = [
        torch.zeros_like(p) if g is None or g.shape != p.shape else g for g, p in zip(found_grads, primals, strict=True)
    ]
    to_grad, *to_primals = double_backward(function, primals, [through(grad, out, slope)], flowing)
    found: Iterator[Tensor] = iter(to_primals)
    to_layer = [None if t is None else next(found) for t in layer]
    return through(to_grad, out, slope), None, None, *to_layer, *(None,) * 6


def _fake(T: Tensor, maps: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    num_nodes = rest[-2]
    return T.new_empty(T.shape[0], maps.shape[2]), T.new_empty(num_nodes, 3, T.shape[1])


def _fake_backward(
    grad: Tensor,
    out: Tensor | None,
    aggregates: Tensor,
    T: Tensor,
    maps: Tensor,
    factors: Tensor,
    scale: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, ...]:
    _, channels, width = maps.shape
    of_tensor = grad.new_empty(T.shape if rest[-1] else (0,))
    scaled = 0 if scale is None else channels
    of_channels = [grad.new_empty(n) for n in (scaled, scaled, width, width)]
    return of_tensor, grad.new_empty(maps.shape), grad.new_empty(factors.shape), *of_channels


if _native.cpu_reason is None:
    torch.library.register_fake("equikernels::linear_2to2", _fake)
    torch.library.register_fake("equikernels::linear_2to2_backward", _fake_backward)
    register_autograd("linear_2to2", _backward, _setup)
    register_autograd("linear_2to2_backward", _backward_backward, _setup_backward)
