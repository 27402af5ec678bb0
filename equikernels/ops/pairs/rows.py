"""Ops on every pair by itself: a linear map with its activation, the batch norm behind it, and the norm's parts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ... import _native, _triton
from ...backend import COMPOSED, KERNELS, use_shortcut
from ...checks import check_tensor, fail
from ..autograd import call, double_backward, register_autograd
from ..common import promote, stored_as
from ..sums import column_sums
from . import reference
from .batch import negative_slope_of
from .reference import BATCH, NO_NORM, RUNNING

OP, NETWORK, AFFINE = "pairwise_linear", "pairwise_network", "pairwise_affine"
KERNELS[OP] = KERNELS[NETWORK] = KERNELS[AFFINE] = ("cpu",)
COMPOSED.update((OP, NETWORK, AFFINE))
for _op in (OP, NETWORK):
    _triton.provide(_op, "equikernels.ops.pairs.triton", ("rows_network", "rows_network_backward"))


class PairNorm(NamedTuple):
    """A batch norm over pairs, as its layer holds it.

    Args:
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
    of_norm = dict.fromkeys(("weight", "bias") if norm.of_batch else ("weight", "bias", "running_mean", "running_var"))
    for name in of_norm:
        t = getattr(norm, name)
        if t is not None:
            of_norm[name] = t = promote(NETWORK, f"norm.{name}", t)
            check_tensor(NETWORK, f"norm.{name}", t, [width], like=T)
        elif name.startswith("running"):
            fail(NETWORK, f"norm.{name}", "a tensor where statistics are not of the batch", "None")
    slope = negative_slope_of(NETWORK, activation, negative_slope)
    parameters = (
        weight,
        bias,
        of_norm["weight"],
        of_norm["bias"],
        of_norm.get("running_mean"),
        of_norm.get("running_var"),
    )
    kind = BATCH if norm.of_batch else RUNNING
    out, affine, _, statistics = _run(NETWORK, Inputs(T, *parameters, slope, norm.eps, kind))
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
    out = _run(OP, Inputs(rows, matrix, bias, None, None, None, None, slope, 0.0, NO_NORM))[0]
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
    T, scale, shift = promote(AFFINE, "T", T), promote(AFFINE, "scale", scale), promote(AFFINE, "shift", shift)
    check_tensor(AFFINE, "T", T, ["n_pairs", "C"], stored_as(T))
    check_tensor(AFFINE, "scale", scale, [T.shape[1]], like=T)
    check_tensor(AFFINE, "shift", shift, [T.shape[1]], like=T)
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
        bias = promote(op, "bias", bias)
        check_tensor(op, "bias", bias, [weight.shape[0]], like=T)
    return weight, bias, weight.shape[0]


class Inputs(NamedTuple):
    """Of the op, in the order of its schema."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    gamma: Tensor | None
    beta: Tensor | None
    mean: Tensor | None
    variance: Tensor | None
    slope: float
    eps: float
    norm: int


DIFFERENTIABLE = ("x", "weight", "bias", "gamma", "beta")
TENSORS = (*DIFFERENTIABLE, "mean", "variance")
NO_TENSORS: dict[str, Any] = dict.fromkeys(TENSORS)
NOT_DIFFERENTIABLE = (None,) * (len(Inputs._fields) - len(DIFFERENTIABLE))


def _run(op: str, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(out, affine, moments, statistics), each empty where there is none."""
    tensors = [t for t in (getattr(inputs, name) for name in TENSORS) if t is not None]
    empty = inputs.weight is not None and inputs.weight.numel() == 0  # kernels multiply by matrices of some numbers
    if empty or not use_shortcut(op, *tensors):
        return reference.rows_network(*inputs)
    out: tuple[Tensor, Tensor, Tensor, Tensor] = call("rows_network", *inputs)
    return out


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    given = Inputs(*inputs)
    out, _, moments, statistics = output
    ctx.mark_non_differentiable(moments, statistics)
    ctx.set_materialize_grads(False)
    ctx.options = given._replace(**NO_TENSORS)
    ctx.save_for_backward(out, moments, *(getattr(given, name) for name in TENSORS))


def _backward(ctx: Any, grad: Tensor | None, to_affine: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    out, moments, *tensors = ctx.saved_tensors
    given: Inputs = ctx.options._replace(**dict(zip(TENSORS, tensors, strict=True)))
    if given.norm == NO_NORM:
        to_affine = None
    if given.weight is None:
        grad, out = None, given.x
    if grad is None and to_affine is None:
        return (None,) * len(Inputs._fields)
    needs = ctx.needs_input_grad
    wanted = [needs[0], any(needs[1:])]
    grads = call("rows_network_backward", grad, to_affine, out, moments, *given, wanted)
    return *(g if need else None for g, need in zip(grads, needs, strict=False)), *NOT_DIFFERENTIABLE


COTANGENTS = ("grad", "grad_affine")


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, to_affine, _, _, *given, _ = inputs
    options = Inputs(*given)
    ctx.set_materialize_grads(False)
    ctx.options = options._replace(**NO_TENSORS)
    ctx.save_for_backward(grad, to_affine, *(getattr(options, name) for name in TENSORS))


def _backward_backward(ctx: Any, *to_grads: Tensor | None) -> tuple[Any, ...]:
    grad, to_affine, *tensors = ctx.saved_tensors
    given: Inputs = ctx.options._replace(**dict(zip(TENSORS, tensors, strict=True)))
    primals = {name: getattr(given, name) for name in DIFFERENTIABLE if getattr(given, name) is not None}
    cotangents = {name: t for name, t in zip(COTANGENTS, (grad, to_affine), strict=True) if t is not None}

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        replaced: dict[str, Any] = dict(zip(primals, tensors, strict=True))
        results = reference.rows_network(*given._replace(**replaced))
        return tuple(t for name, t in zip(COTANGENTS, results, strict=False) if name in cotangents)

    by_name = dict(zip(DIFFERENTIABLE, to_grads, strict=True))
    flowing = [
        g if (g := by_name[name]) is not None and g.shape == p.shape else torch.zeros_like(p)
        for name, p in primals.items()
    ]
    back = iter(double_backward(function, list(primals.values()), list(cotangents.values()), flowing))
    to_cotangents = {name: next(back) for name in cotangents}
    to_primals = {name: next(back) for name in primals}
    return (
        *(to_cotangents.get(name) for name in COTANGENTS),
        None,
        None,
        *(to_primals.get(name) for name in DIFFERENTIABLE),
        *NOT_DIFFERENTIABLE,
        None,
    )


def _fake(*inputs: Any) -> tuple[Tensor, ...]:
    given = Inputs(*inputs)
    x, weight, norm = given.x, given.weight, given.norm
    width = x.shape[1] if weight is None else weight.shape[0]
    return (
        x.new_empty(0 if weight is None else (x.shape[0], width)),
        x.new_empty((2, width) if norm != NO_NORM else 0),
        x.new_empty((2, width) if norm == BATCH else 0, dtype=torch.float64),
        x.new_empty((2, width) if norm == BATCH else 0),
    )


def _fake_backward(*inputs: Any) -> tuple[Tensor, ...]:
    _, _, _, _, *rest, wanted = inputs
    given = Inputs(*rest)
    likes = [getattr(given, name) for name in DIFFERENTIABLE]
    wants = (wanted[0], *(wanted[1],) * 4)
    return tuple(
        given.x.new_empty(0 if t is None or not want else t.shape) for t, want in zip(likes, wants, strict=True)
    )


def _setup_affine(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, _ = inputs
    ctx.save_for_backward(x, scale)


def _affine_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    x, scale = ctx.saved_tensors
    of_x, of_scale, of_shift, _ = ctx.needs_input_grad
    grad_x = affine(grad, scale, torch.zeros_like(scale)) if of_x else None
    return grad_x, column_sums(grad * x) if of_scale else None, column_sums(grad) if of_shift else None


if _native.cpu_reason is None:
    torch.library.register_fake("equikernels::rows_network", _fake)
    torch.library.register_fake("equikernels::rows_network_backward", _fake_backward)
    torch.library.register_fake("equikernels::row_affine", lambda x, scale, shift: x.new_empty(x.shape))
    register_autograd("row_affine", _affine_backward, _setup_affine)
    register_autograd("rows_network", _backward, _setup)
    register_autograd("rows_network_backward", _backward_backward, _setup_backward)
