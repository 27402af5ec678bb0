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

from ..backend import current, transformed, use_backend

_library = Library("equikernels", "IMPL")  # registrations live as long as this library


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

    def below(keyset: torch._C.DispatchKeySet, arguments: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
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

    def kernel(keyset: torch._C.DispatchKeySet, *arguments: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            return function.apply(*arguments, keyset)  # type: ignore[attr-defined]
        return below(keyset, arguments)

    _library.impl(name, kernel, "Autograd", with_keyset=True)


def call(name: str, *arguments: Any) -> Any:
    """Calls our op ``name``; skips autograd if nothing needs a gradient."""
    op = getattr(torch.ops.equikernels, name).default
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments)):
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)


def recomputed(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor | None) -> tuple[Tensor, ...]:
    """``function(*tensors)``, recomputed in backward: only ``tensors`` are saved.

    Differentiable any number of times. Under compilers and torch.func's transforms, which choose what to save, the
    function is called directly.
    """
    given = tuple(t for t in tensors if t is not None)
    in_transform = torch._C._functorch.maybe_current_level() is not None or transformed(given)
    if torch.compiler.is_compiling() or in_transform or not torch.is_grad_enabled():
        return function(*tensors)
    return _Recomputed.apply(function, *tensors)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        ctx.function, ctx.backend = function, current()
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        wanted, again = ctx.needs_input_grad[1:], torch.is_grad_enabled()
        with torch.enable_grad(), use_backend(ctx.backend):
            local = [_alias(t) if want else t for t, want in zip(ctx.saved_tensors, wanted, strict=True)]
            out = ctx.function(*local)
            pairs = [(o, g) for o, g in zip(out, grads, strict=True) if g is not None and o.requires_grad]
            leaves = [t for t, want in zip(local, wanted, strict=True) if want]
            if not pairs:
                return None, *(None for _ in wanted)
            outputs, cotangents = zip(*pairs, strict=True)
            found = iter(torch.autograd.grad(outputs, leaves, cotangents, create_graph=again, allow_unused=True))
        return None, *(next(found) if want else None for want in wanted)


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
