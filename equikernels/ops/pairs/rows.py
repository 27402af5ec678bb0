"""Ops on every pair by itself: a linear map with its activation, the batch norm behind it, and the norm's parts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _native, _triton
from ...backend import COMPOSED, KERNELS, use_shortcut
from ...checks import REAL, check_tensor, fail
from ..autograd import call, register_autograd
from ..common import given, promote, stored_as
from ..fused_op import Call, FusedOp, Spec, Tensors
from . import reference
from .batch import negative_slope_of
from .reference import BATCH, NO_NORM, RUNNING, RowsOptions

OP, NETWORK, AFFINE = "pairwise_linear", "pairwise_network", "pairwise_affine"
SERIAL = 1 << 15  # PyTorch sums fewer numbers with one thread, and with less overhead
KERNELS[OP] = KERNELS[NETWORK] = ("cpu", "cuda")
KERNELS[AFFINE] = ("cpu",)
COMPOSED.update((OP, NETWORK, AFFINE))
for _op in (OP, NETWORK):
    _triton.provide(_op, "equikernels.ops.pairs.triton", ("rows_network", "rows_network_backward"))


class PairNorm(NamedTuple):
    """A batch norm over pairs, as its layer holds it.

    Attributes:
        weight, bias: [D] or None.
        running_mean, running_var: [D] or None, used where ``of_batch`` is False.
        eps: added to the variance.
        of_batch: whether the statistics are those of the batch (of at least two rows).
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    eps: float
    of_batch: bool


NORM = tuple(f"norm.{name}" for name in PairNorm._fields)


def pairwise_network(
    T: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    norm: PairNorm,
    *,
    activation: str = "identity",
    negative_slope: float = 0.01,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""PELICAN's message layer: a linear layer on every row, its activation, and the batch norm of the result as a
    scale and a shift, in one pass.

    .. math:: \mathrm{out}_r = \mathrm{act}(W T_r + b), \quad
              \mathrm{scale} = \gamma / \sqrt{\sigma^2 + \epsilon}, \quad \mathrm{shift} = \beta - \mu\, \mathrm{scale}

    with the mean and the biased variance of out over all rows, or the running ones. :func:`linear_2to2` takes
    the norm in as it is; :func:`pairwise_affine` applies it. arXiv 2307.16506, section 3.2.

    Args:
        T: [R, C] float32 or float64 (CUDA: bfloat16 or float16 too): pairs, or any rows.
        weight: W [D, C], as torch.nn.Linear holds it; None: out is T.
        bias: b [D] or None.
        norm: see :class:`PairNorm`.
        activation: "identity", "relu" or "leaky_relu"; "identity" without a weight.
        negative_slope: of leaky_relu, > 0.

    Returns:
        out [R, D] in the dtype of T; affine [2, D], scale and shift; statistics [2, D], mean and unbiased variance of
        the batch for running averages, not differentiable, or [0] where running statistics are used.

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    T = promote(NETWORK, "T", T)
    check_tensor(NETWORK, "T", T, ["R", "C"], stored_as(T))
    if norm.of_batch and not T.shape[0] > 1:
        fail(NETWORK, "T", "at least two rows for their variance", T.shape[0])
    if weight is None and activation != "identity":
        fail(NETWORK, "activation", "'identity' without a weight", repr(activation))
    weight, bias, width = _check_layer(NETWORK, T, weight, bias)
    of_norm: Tensors = [norm.weight, norm.bias, *((None, None) if norm.of_batch else norm[2:4])]
    for k, t in enumerate(of_norm):
        if t is not None:
            of_norm[k] = given(NETWORK, NORM[k], t, (width,), T)
        elif k > 1 and not norm.of_batch:
            fail(NETWORK, NORM[k], "a tensor where statistics are not of the batch", "None")
    slope = negative_slope_of(NETWORK, activation, negative_slope)
    options = RowsOptions(BATCH if norm.of_batch else RUNNING, slope, norm.eps)
    out, affine, _, statistics = _run(NETWORK, [T, weight, bias, *of_norm], options)
    return (T if weight is None else out), affine, statistics


def pairwise_linear(
    T: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "identity",
    negative_slope: float = 0.01,
) -> Tensor:
    r"""A linear layer on every row and its activation, act(W T_r + b), in one pass; the same numbers on any number of
    threads.

    Args:
        T: [*, C] float32 or float64 (CUDA: bfloat16 or float16 too): pairs, or any rows.
        weight: W [D, C], as torch.nn.Linear holds it.
        bias: b [D].
        activation: "identity", "relu" or "leaky_relu".
        negative_slope: of leaky_relu, > 0.

    Returns:
        [*, D] in the dtype of T (under autocast at least float32).

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    T = promote(OP, "T", T)
    check_tensor(OP, "T", T, dtypes=stored_as(T))
    if T.dim() == 0:
        fail(OP, "T", "shape [*, C]", [])
    matrix, bias, width = _check_layer(OP, T, weight, bias)
    slope = negative_slope_of(OP, activation, negative_slope)
    rows = T if T.dim() == 2 else T.reshape(-1, T.shape[-1])
    out = _run(OP, [rows, matrix, bias, None, None, None, None], RowsOptions(NO_NORM, slope))[0]
    return out if T.dim() == 2 else out.view(*T.shape[:-1], width)


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
    T = promote(AFFINE, "T", T)
    check_tensor(AFFINE, "T", T, ["n_pairs", "C"], stored_as(T))
    scale = given(AFFINE, "scale", scale, (T.shape[1],), T)
    shift = given(AFFINE, "shift", shift, (T.shape[1],), T)
    return affine(T, scale, shift)


def affine(T: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    kernel = use_shortcut(AFFINE, T, scale, shift)
    return call("row_affine", T, scale, shift) if kernel else torch.addcmul(shift, T, scale)


def _check_layer(
    op: str, T: Tensor, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, int]:
    """Weight and bias, and the number of channels that come out."""
    if weight is None:
        if bias is not None:
            fail(op, "bias", "None without a weight", "a tensor")
        return None, None, T.shape[-1]
    weight = promote(op, "weight", weight)
    check_tensor(op, "weight", weight, ["D", T.shape[-1]], like=T)
    if bias is not None:
        bias = given(op, "bias", bias, (weight.shape[0],), T)
    return weight, bias, weight.shape[0]


def _run(op: str, tensors: Tensors, options: RowsOptions) -> list[Tensor]:
    """out, affine, moments, statistics, each empty where there is none."""
    x, weight = tensors[:2]
    assert x is not None
    empty = weight is not None and weight.numel() == 0  # kernels multiply by matrices of some numbers
    kernel = not empty and use_shortcut(op, *[t for t in tensors if t is not None])
    return FUSED(tensors, x.shape[0], Call(options, None, *options.encoded(), False), kernel)


def _shapes(tensors: Tensors, rows: Any, options: RowsOptions) -> list[Tensor]:
    x, weight = tensors[:2]
    assert x is not None
    width = x.shape[1] if weight is None else weight.shape[0]
    norm, batch = ((2, width) if asked else 0 for asked in (options.norm != NO_NORM, options.norm == BATCH))
    return [
        x.new_empty(0 if weight is None else (x.shape[0], width)),
        x.new_empty(norm),
        x.new_empty(batch, dtype=torch.float64),
        x.new_empty(batch),
    ]


FUSED = FusedOp(Spec("rows_network", RowsOptions, reference.rows_network, _shapes, differentiable=2, saved=(0, 2)))


def _setup_affine(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, _ = inputs
    ctx.save_for_backward(x, scale)


def _column_sums(x: Tensor) -> Tensor:
    """[C] of x [R, C]. The bits do not depend on the number of threads, while those of PyTorch's sums over many rows
    do."""
    tall = torch.compiler.is_compiling() or x.numel() >= SERIAL
    if tall and x.device.type == "cpu" and x.dtype in REAL and use_shortcut(OP, x):
        return call("rows_outer", x.new_ones(x.shape[0], 1), x)[0]
    return x.sum(0)


def _affine_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, scale = ctx.saved_tensors
    of_x, of_scale, of_shift, _ = ctx.needs_input_grad
    grad_x = affine(grad, scale, torch.zeros_like(scale)) if of_x else None
    return grad_x, _column_sums(grad * x) if of_scale else None, _column_sums(grad) if of_shift else None


if _native.cpu_reason is None:
    torch.library.register_fake("equikernels::row_affine", lambda x, scale, shift: x.new_empty(x.shape))
    register_autograd("row_affine", _affine_backward, _setup_affine)
