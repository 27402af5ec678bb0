"""What acts on every pair by itself: a linear map and an activation, the statistics of a norm, and the norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import _native, _triton
from ...backend import COMPOSED, KERNELS, use_shortcut
from ...checks import check_tensor, fail
from ..autograd import call, reference_vjp, register_autograd
from ..common import promote, stored_as
from ..sums import column_sums
from . import reference
from .op import slope_of

OP, MOMENTS, AFFINE = "pairwise_linear", "pairwise_moments", "pairwise_affine"
KERNELS[OP] = KERNELS[MOMENTS] = KERNELS[AFFINE] = ("cpu",)
COMPOSED.update((OP, MOMENTS, AFFINE))
_triton.provide(OP, "equikernels.ops.rank2.triton", ("rows_layer", "rows_layer_backward"))


def pairwise_linear(
    T: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "identity",
    negative_slope: float = 0.01,
    *,
    moments: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""A linear layer on every row, its activation and the statistics a batch norm needs, in one pass.

    .. math:: \mathrm{out}_{r} = \mathrm{act}(W T_r + b), \quad
              \mu = \tfrac{1}{R} \textstyle\sum_r \mathrm{out}_r, \quad
              \sigma^2 = \tfrac{1}{R} \textstyle\sum_r (\mathrm{out}_r - \mu)^2

    PELICAN's message layer, arXiv 2307.16506, section 3.2, up to its norm. The same numbers on any number of threads.

    Args:
        T: [*, C] float32 or float64 (CUDA: bfloat16 or float16 too): pairs, or any rows, R in all.
        weight: W [D, C], as torch.nn.Linear holds it.
        bias: b [D].
        activation: "identity", "relu" or "leaky_relu".
        negative_slope: of leaky_relu, > 0.
        moments: also return the statistics.

    Returns:
        out [*, D] in the dtype of T (under autocast at least float32); with ``moments``, (out, moments), moments
        float64 [2, D]: mean and biased variance of each channel, 0 over no rows.

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    T, weight = promote(OP, "T", T), promote(OP, "weight", weight)
    check_tensor(OP, "T", T, dtypes=stored_as(T))
    if T.dim() == 0:
        fail(OP, "T", "shape [*, C]", [])
    check_tensor(OP, "weight", weight, ["D", T.shape[-1]], like=T)
    if bias is not None:
        bias = promote(OP, "bias", bias)
        check_tensor(OP, "bias", bias, [weight.shape[0]], like=T)
    if not isinstance(moments, bool):
        fail(OP, "moments", "True or False", moments)
    slope = slope_of(OP, activation, negative_slope)
    rows = T if T.dim() == 2 else T.reshape(-1, T.shape[-1])
    # Kernels multiply tables that hold something.
    if weight.numel() > 0 and use_shortcut(OP, T, weight, *([] if bias is None else [bias])):
        out = call("rows_layer", rows, weight, bias, slope, moments)
    else:
        out = reference.rows_layer(rows, weight, bias, slope, moments)
    result = out[0] if T.dim() == 2 else out[0].view(*T.shape[:-1], weight.shape[0])
    return (result, out[1]) if moments else result


def pairwise_moments(T: Tensor) -> Tensor:
    r"""The statistics a batch norm needs: mean and biased variance of each channel, as :func:`pairwise_linear` gives
    them of what it makes.

    Args:
        T: [R, C] float32 or float64: pairs, or any rows.

    Returns:
        float64 [2, C], 0 over no rows. The same numbers on any number of threads.

    Raises:
        ValueError, TypeError: wrong shape or dtype; the message names the argument.
    """
    T = promote(MOMENTS, "T", T)
    check_tensor(MOMENTS, "T", T, ["n_pairs", "C"], stored_as(T))
    return call("row_moments", T) if use_shortcut(MOMENTS, T) else reference.row_moments(T)


def pairwise_affine(T: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale T + shift, channel by channel: a batch norm, its statistics known.

    Args:
        T: [R, C] float32 or float64: pairs, or any rows.
        scale, shift: [C].

    Returns:
        [R, C] in the dtype of T (under autocast at least float32).

    Raises:
        ValueError, TypeError: wrong shape, dtype or device; the message names the argument.
    """
    T, scale, shift = promote(AFFINE, "T", T), promote(AFFINE, "scale", scale), promote(AFFINE, "shift", shift)
    check_tensor(AFFINE, "T", T, ["n_pairs", "C"], stored_as(T))
    check_tensor(AFFINE, "scale", scale, [T.shape[1]], like=T)
    check_tensor(AFFINE, "shift", shift, [T.shape[1]], like=T)
    return affine(T, scale, shift)


def affine(T: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    kernel = use_shortcut(AFFINE, T, scale, shift)
    return call("row_affine", T, scale, shift) if kernel else torch.addcmul(shift, T, scale)


def _setup_moments(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(output, *inputs)


def _moments_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    moments, x = ctx.saved_tensors
    to_mean, to_out = _through_moments(grad, moments, x)
    return (affine(x, to_out, to_mean),)


def _through_moments(grad: Tensor, moments: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of x is to_mean + to_out x: d mean = dx / R, d variance = 2 (x - mean) dx / R."""
    per_mean, per_variance = grad / max(x.shape[0], 1)
    return (per_mean - 2 * per_variance * moments[0]).to(x.dtype), (2 * per_variance).to(x.dtype)


def _setup_affine(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])


def _affine_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, scale = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad_x = affine(grad, scale, torch.zeros_like(scale)) if needs[0] else None
    return grad_x, column_sums(grad * x) if needs[1] else None, column_sums(grad) if needs[2] else None


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, ctx.slope, ctx.moments = inputs
    ctx.save_for_backward(output[0], output[1], x, weight)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, grad_moments: Tensor | None) -> tuple[Any, ...]:
    out, moments, x, weight = ctx.saved_tensors
    if grad is None and grad_moments is None:
        return (None,) * 5
    to_mean = to_out = None
    if ctx.moments and grad_moments is not None:
        to_mean, to_out = _through_moments(grad_moments, moments, out)
    needs = ctx.needs_input_grad
    wanted = [needs[0], needs[1] or needs[2]]
    grads = call("rows_layer_backward", grad, to_mean, to_out, out, x, weight, ctx.slope, wanted)
    return *(g if need else None for g, need in zip(grads, needs, strict=False)), None, None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.slope, ctx.wanted = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _backward_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    given: list[Tensor | None] = list(ctx.saved_tensors)  # grad, to_mean, to_out, out, x, weight
    present = [k for k, t in enumerate(given) if t is not None]
    wanted = [g is not None and ctx.wanted[min(k, 1)] for k, g in enumerate(grads)]
    if not any(wanted):
        return (None,) * 8

    def function(*primals: Tensor) -> tuple[Tensor, ...]:
        full: list[Any] = [*[None] * 6, ctx.slope]
        for k, t in zip(present, primals, strict=True):
            full[k] = t
        results = reference.rows_layer_backward(*full)
        return tuple(r for r, want in zip(results, wanted, strict=True) if want)

    flowing = [g for g, want in zip(grads, wanted, strict=True) if want and g is not None]
    back = reference_vjp(function, [t for t in given if t is not None], flowing)
    by_input: list[Tensor | None] = [None] * 6
    for k, t in zip(present, back, strict=True):
        by_input[k] = t
    return *by_input, None, None


def _fake(x: Tensor, weight: Tensor, bias: Tensor | None, slope: float, moments: bool) -> tuple[Tensor, Tensor]:
    width = weight.shape[0]
    return x.new_empty(x.shape[0], width), x.new_empty((2, width) if moments else (0,), dtype=torch.float64)


def _fake_backward(
    grad: Tensor | None,
    to_mean: Tensor | None,
    to_out: Tensor | None,
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    slope: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    of_weight, of_bias = (weight.shape, weight.shape[:1]) if wanted[1] else (torch.Size([0]), torch.Size([0]))
    return x.new_empty(x.shape if wanted[0] else 0), x.new_empty(of_weight), x.new_empty(of_bias)


if _native.cpu_reason is None:
    torch.library.register_fake("equikernels::rows_layer", _fake)
    torch.library.register_fake("equikernels::rows_layer_backward", _fake_backward)
    torch.library.register_fake("equikernels::row_moments", lambda x: x.new_empty(2, x.shape[1], dtype=torch.float64))
    torch.library.register_fake("equikernels::row_affine", lambda x, scale, shift: x.new_empty(x.shape))
    register_autograd("row_moments", _moments_backward, _setup_moments)
    register_autograd("row_affine", _affine_backward, _setup_affine)
    register_autograd("rows_layer", _backward, _setup)
    register_autograd("rows_layer_backward", _backward_backward, _setup_backward)
