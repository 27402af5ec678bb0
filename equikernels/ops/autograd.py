"""Calls and differentiates ops: kernels for the first order, the reference for every higher order.

The backward of an op is an op with its own kernel. The backward of that one is the derivative of the reference,
taken by PyTorch: it costs O(E) memory, needs no kernel, and can itself be differentiated any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from .. import _native
from ..backend import current, use_backend
from .common import graph_from, through_dispatcher

_library = Library("equikernels", "IMPL")  # registrations live as long as this library
_kernels: dict[str, Callable[..., Any]] = {}  # what is registered for autograd


def register_autograd(name: str, backward: Callable[..., tuple[Any, ...]], setup_context: Callable[..., None]) -> None:
    """Registers the derivative of our op ``name``.

    Equivalent to ``torch.library.register_autograd`` for ops whose schemas have no defaults, no keyword-only arguments
    and no lists of tensors. The general function takes more time than a small op.

    Args:
        name: of the op, without its namespace.
        backward: (ctx, *grads) -> a gradient or None for each argument.
        setup_context: (ctx, inputs, output): saves tensors for backward.
    """
    op = getattr(torch.ops.equikernels, name).default

    def below(keyset: torch._C.DispatchKeySet | None, arguments: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            if keyset is None:  # from call(), not from the dispatcher
                return op(*arguments)
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    def differentiable(ctx: Any, *arguments: Any) -> Any:
        ctx.backend = current()
        inputs = arguments[:-1]  # the keyset comes last, so that needs_input_grad counts the inputs from 0
        output = below(arguments[-1], inputs)
        setup_context(ctx, inputs, output)
        return output

    def adjoint(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        if ctx.backend == current():
            return *backward(ctx, *grads), None
        with use_backend(ctx.backend):
            return *backward(ctx, *grads), None

    members = {"forward": staticmethod(differentiable), "backward": staticmethod(adjoint)}
    function = type(name, (torch.autograd.Function,), members)

    def kernel(keyset: torch._C.DispatchKeySet | None, *arguments: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            return function.apply(*arguments, keyset)  # type: ignore[attr-defined]
        return below(keyset, arguments)

    _kernels[name] = kernel
    _library.impl(name, kernel, "Autograd", with_keyset=True)


def register_op(
    name: str, differentiable: int, reference: Callable[..., Tensor], fake: Callable[..., Tensor], on_graph: bool = True
) -> None:
    """Registers fakes and derivatives of an op with one output, and of its backward ``name_backward``.

    The backward takes the gradient of the output and the op's arguments, and gives a gradient for each differentiable
    tensor; it differentiates the reference.

    Args:
        name: of the op.
        differentiable: how many tensors are; they come first, the first one a row per node.
        reference: (differentiable tensors, graph, options) -> output.
        fake: the op's arguments -> its output, uninitialised.
        on_graph: whether the op and its reference take a graph, next to the tensors.
    """
    if _native.cpu_reason is not None:
        return
    backward_op = f"{name}_backward"
    kept = differentiable + on_graph  # with the graph's table

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:kept])
        ctx.rest = inputs[kept:]

    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        grads = call(backward_op, grad, *ctx.saved_tensors, *ctx.rest)
        grads = (grads,) if isinstance(grads, Tensor) else grads
        return *grads, *(None,) * (on_graph + len(ctx.rest))

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[: kept + 1])
        ctx.rest = inputs[kept + 1 :]

    def backward_backward(ctx: Any, *flowing: Tensor) -> tuple[Any, ...]:
        grad, *tensors = ctx.saved_tensors
        primals, options = tensors[:differentiable], ctx.rest
        if on_graph:
            num_edges, kind, *options = ctx.rest
            options = [graph_from(tensors[-1], num_edges, kind, primals[0].shape[0]), *options]
        grads = double_backward(lambda *local: reference(*local, *options), primals, [grad], flowing)
        return *grads, *(None,) * (on_graph + len(ctx.rest))

    def fake_backward(grad: Tensor, *arguments: Any) -> Tensor | tuple[Tensor, ...]:
        found = tuple(t.new_empty(t.shape) for t in arguments[:differentiable])
        return found[0] if differentiable == 1 else found

    torch.library.register_fake(f"equikernels::{name}", fake)
    torch.library.register_fake(f"equikernels::{backward_op}", fake_backward)
    register_autograd(name, backward, setup)
    register_autograd(backward_op, backward_backward, setup_backward)


def call(name: str, *arguments: Any) -> Any:
    """Calls our op ``name``; skips autograd if nothing needs a gradient.

    Autograd is called directly where it can be: to get there through the dispatcher takes longer than a small kernel.
    """
    if through_dispatcher():
        return getattr(torch.ops.equikernels, name).default(*arguments)
    return _kernels[name](None, *arguments)


def reference_vjp(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    primals: Sequence[Tensor],
    cotangents: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Gradients of ``sum(cotangents * function(primals))`` with respect to the primals, differentiable."""
    with torch.enable_grad():
        local = [_alias(p) for p in primals]
        out = function(*local)
        outputs = (out,) if isinstance(out, Tensor) else out
        return torch.autograd.grad(outputs, local, cotangents, create_graph=True, materialize_grads=True)


def double_backward(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    primals: Sequence[Tensor],
    cotangents: Sequence[Tensor],
    grads: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    """Backward of an op's backward.

    Args:
        function: the op's reference, as a function of the primals only.
        primals: the op's differentiable inputs.
        cotangents: the arguments of its backward.
        grads: cotangents of the gradients from its backward, one per primal.

    Returns:
        Gradients with respect to the cotangents, then the primals.
    """
    keep_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        local_primals = [_alias(p) for p in primals]
        local_cotangents = [_alias(c) for c in cotangents]
        first = reference_vjp(function, local_primals, local_cotangents)
        return torch.autograd.grad(
            first, (*local_cotangents, *local_primals), grads, create_graph=keep_graph, materialize_grads=True
        )


def _alias(t: Tensor) -> Tensor:
    # A separate node in the graph: partial derivatives stop here instead of continuing into the inputs' history,
    # while derivatives of the result still reach it.
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
