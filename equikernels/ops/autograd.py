"""How ops are differentiated: kernels for the first order, the reference for every order above.

The backward of an op is an op with its own kernel. The backward of that one is the derivative of the reference,
taken by PyTorch: it costs O(E) memory, needs no kernel, and can itself be differentiated any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


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
        function: the op's reference, of the primals alone.
        primals: the op's differentiable inputs.
        cotangents: what its backward was called with.
        grads: cotangents of the gradients its backward gave, one per primal.

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
    # A node of its own in the graph: partial derivatives stop here instead of running on into the inputs' history,
    # while a derivative of the result still finds its way back to them.
    return t.view_as(t) if t.requires_grad else t.detach().requires_grad_()
