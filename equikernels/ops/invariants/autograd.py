"""Fakes and derivatives of the ops on invariants, which all take (x, graph, metric, psi)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import _native
from ..autograd import call, double_backward, register_autograd
from ..common import graph_from


def register(name: str, reference: Callable[..., Tensor], fake: Callable[..., Tensor]) -> None:
    """Registers fakes and derivatives of the native ops ``name`` and ``name_backward``; the latter differentiates the
    reference."""
    if _native.cpu_reason is not None:
        return
    qualified, backward_op = f"equikernels::{name}", f"{name}_backward"

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, table, *ctx.rest = inputs
        ctx.save_for_backward(x, table)

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return call(backward_op, grad, *ctx.saved_tensors, *ctx.rest), None, None, None, None, None

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, x, table, *ctx.rest = inputs
        ctx.save_for_backward(grad, x, table)

    def backward_backward(ctx: Any, grad_grad: Tensor) -> tuple[Any, ...]:
        grad, x, table = ctx.saved_tensors
        num_edges, kind, metric, psi = ctx.rest
        graph = graph_from(table, num_edges, kind, x.shape[0])
        grads = double_backward(lambda x: reference(x, graph, metric, psi), [x], [grad], [grad_grad])
        return *grads, None, None, None, None, None

    torch.library.register_fake(qualified, fake)
    torch.library.register_fake(f"{qualified}_backward", lambda grad, x, *rest: x.new_empty(x.shape))
    register_autograd(name, backward, setup)
    register_autograd(backward_op, backward_backward, setup_backward)
