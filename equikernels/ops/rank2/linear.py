"""The aggregators followed by their linear map, without ever making them.

Aggregates live on particles and events. Their maps are applied there, and what comes out is broadcast to pairs
together with the two maps that live on pairs, the identity and the transpose: one pass over T to reduce it, one to mix.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import REAL, check_tensor, fail
from ..common import promote, without_autocast
from .aggregates import (
    REDUCE_OF,
    Aggregation,
    Alphas,
    aggregation,
    basis_1to2,
    basis_2to0,
    basis_2to1,
    check_rank1,
)
from .fused import fused_2to2
from .maps import apply, mix_2to2, product
from .op import Pairs, broadcast_table, check_rank2, pairs_of, slope_of, spread_events
from .reference import activate
from .rows import affine

LINEAR_2TO2, LINEAR_2TO1 = "linear_2to2", "linear_2to1"
LINEAR_2TO0, LINEAR_1TO2 = "linear_2to0", "linear_1to2"
SUMS = ("s", "m", "S", "M")


def linear_2to2(
    T: Tensor,
    ptr: Pairs,
    coefs: Tensor,
    bias: Tensor | None = None,
    diag_bias: Tensor | None = None,
    *,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Alphas = None,
    weight: Tensor | None = None,
    nobj: Tensor | None = None,
    padded_to: int | None = None,
    activation: str = "identity",
    aggregate_activation: str = "identity",
    negative_slope: float = 0.01,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    r"""PELICAN's 2 -> 2 layer: a linear map of all aggregators of :func:`aggregate_2to2`.

    .. math:: \mathrm{out}_{ij,d} = \mathrm{act}\Bigl(\sum_{c,k} W_{cdk}\, \mathrm{act}'(\mathrm{op}_k(T)_{ij,c})
              + \mathrm{bias}_d + \delta_{ij}\, \mathrm{diag\_bias}_d \Bigr)

    Two matrix products on pairs and fifteen on particles and events; no tensor of 15 C channels. PELICAN, arXiv
    2307.16506, section 3.2.

    Args:
        T: [n_pairs, C] float32 or float64 (CUDA: bfloat16 or float16 too), pairs row-major inside each event.
        ptr: as in :func:`rank2_reduce`.
        coefs: W [C, D, 15 + 10 (len(config) - 1)], the maps in the order of :func:`aggregate_2to2`.
        bias, diag_bias: [D].
        config, nbar, alphas, weight, nobj, padded_to: as in :func:`aggregate_2to2`.
        activation: of the output: "identity", "relu" or "leaky_relu".
        aggregate_activation: of every map before it is mixed.
        negative_slope: of leaky_relu.
        scale, shift: [C], both or neither: the layer acts on scale T + shift, channel by channel, which is what a batch
            norm makes of T. With one summed letter ("s", "m", "S", "M") that tensor is never made.

    Returns:
        [n_pairs, D] in the dtype of T (under autocast at least float32).

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    op = LINEAR_2TO2
    T = check_rank2(op, T)
    pairs = pairs_of(op, ptr, T, T.shape[0], None if weight is None else weight.shape[0])
    how = aggregation(op, T, pairs, config, nbar, alphas, 10, weight, nobj, padded_to)
    coefs, bias = _check_map(op, coefs, bias, T, 5 + 10 * len(config))
    diag_bias = _check_bias(op, "diag_bias", diag_bias, coefs)
    slope = slope_of(op, activation, negative_slope)
    inner = slope_of(op, aggregate_activation, negative_slope, "aggregate_activation")
    scale, shift = _check_affine(op, scale, shift, T)
    with without_autocast(T.device.type):
        if config in SUMS and weight is None and inner == 1:
            return fused_2to2(T, coefs, how.sum_factors(T), scale, shift, bias, diag_bias, pairs, slope)
        if scale is not None and shift is not None:
            T = affine(T, scale, shift)
        aggregates = how.to_pairs(T)
        return mix_2to2(T, how.diagonal(T), aggregates, coefs, bias, diag_bias, pairs, slope, inner)


def linear_2to1(
    T: Tensor,
    ptr: Pairs,
    coefs: Tensor,
    bias: Tensor | None = None,
    *,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Alphas = None,
    weight: Tensor | None = None,
    nobj: Tensor | None = None,
    padded_to: int | None = None,
    activation: str = "identity",
    aggregate_activation: str = "identity",
    negative_slope: float = 0.01,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """The 5 maps of :func:`aggregate_2to1`, mixed by coefs [C, D, 5]: [n, D]. Further arguments as in
    :func:`linear_2to2`."""
    op = LINEAR_2TO1
    T = check_rank2(op, T)
    pairs = pairs_of(op, ptr, T, T.shape[0], None if weight is None else weight.shape[0])
    how = aggregation(op, T, pairs, config, nbar, alphas, 5, weight, nobj, padded_to, one_letter=True)
    coefs, bias = _check_map(op, coefs, bias, T, 5)
    slope = slope_of(op, activation, negative_slope)
    inner = slope_of(op, aggregate_activation, negative_slope, "aggregate_activation")
    by = _check_affine(op, scale, shift, T)
    with without_autocast(T.device.type):
        T = _apply_affine(T, by, how)
        nodes, events = (activate(t.unsqueeze(2), inner) for t in basis_2to1(T, how))
        per_event = apply(events, coefs[:, :, 3:].unflatten(2, (2, 1))).squeeze(1)
        out = apply(nodes, coefs[:, :, :3].unflatten(2, (3, 1))).squeeze(1)
        out = out + spread_events(per_event if bias is None else per_event + bias, pairs)
        return activate(out, slope)


def linear_2to0(
    T: Tensor,
    ptr: Pairs,
    coefs: Tensor,
    bias: Tensor | None = None,
    *,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Alphas = None,
    weight: Tensor | None = None,
    nobj: Tensor | None = None,
    padded_to: int | None = None,
    activation: str = "identity",
    aggregate_activation: str = "identity",
    negative_slope: float = 0.01,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    """The maps of :func:`aggregate_2to0`, mixed by coefs [C, D, 2 len(config)]: [n_events, D]. Further arguments as in
    :func:`linear_2to2`."""
    op = LINEAR_2TO0
    T = check_rank2(op, T)
    pairs = pairs_of(op, ptr, T, T.shape[0], None if weight is None else weight.shape[0])
    how = aggregation(op, T, pairs, config, nbar, alphas, 2, weight, nobj, padded_to)
    coefs, bias = _check_map(op, coefs, bias, T, 2 * len(config))
    slope = slope_of(op, activation, negative_slope)
    inner = slope_of(op, aggregate_activation, negative_slope, "aggregate_activation")
    by = _check_affine(op, scale, shift, T)
    with without_autocast(T.device.type):
        T = _apply_affine(T, by, how)
        basis = activate(basis_2to0(T, how), inner).transpose(1, 2).unsqueeze(2)
        out = apply(basis, coefs.unsqueeze(3)).squeeze(1)
        return activate(out if bias is None else out + bias, slope)


def linear_1to2(
    x: Tensor,
    ptr: Pairs,
    coefs: Tensor,
    bias: Tensor | None = None,
    diag_bias: Tensor | None = None,
    *,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Alphas = None,
    weight: Tensor | None = None,
    nobj: Tensor | None = None,
    padded_to: int | None = None,
    activation: str = "identity",
    aggregate_activation: str = "identity",
    negative_slope: float = 0.01,
) -> Tensor:
    """The 5 maps of :func:`aggregate_1to2` of particles x [n, C], mixed by coefs [C, D, 5]: [n_pairs, D]. Further
    arguments as in :func:`linear_2to2`."""
    op = LINEAR_1TO2
    x, pairs = check_rank1(op, x, ptr)
    how = aggregation(op, x, pairs, config, nbar, alphas, 5, weight, nobj, padded_to, one_letter=True)
    coefs, bias = _check_map(op, coefs, bias, x, 5)
    diag_bias = _check_bias(op, "diag_bias", diag_bias, coefs)
    slope = slope_of(op, activation, negative_slope)
    inner = slope_of(op, aggregate_activation, negative_slope, "aggregate_activation")
    with without_autocast(x.device.type):
        nodes, events = (activate(t, inner) for t in basis_1to2(x, how))
        on_diagonal, everywhere = (product(events[:, k], coefs[:, :, 3 + k]) for k in range(2))
        per_event = torch.stack(
            [
                on_diagonal if diag_bias is None else on_diagonal + diag_bias,
                torch.zeros_like(everywhere),
                everywhere if bias is None else everywhere + bias,
            ],
            dim=1,
        )
        table = torch.stack([product(nodes[:, k], coefs[:, :, k]) for k in range(3)], dim=1)
        width = coefs.shape[1]
        table = table + spread_events(per_event.reshape(-1, 3 * width), pairs).view(-1, 3, width)
        return activate(broadcast_table(table, pairs), slope)


def _check_affine(
    op: str, scale: Tensor | None, shift: Tensor | None, like: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    if (scale is None) != (shift is None):
        fail(op, "shift", "a tensor with scale, none without", "None" if shift is None else "a tensor")
    if scale is not None and shift is not None:
        scale, shift = promote(op, "scale", scale), promote(op, "shift", shift)
        check_tensor(op, "scale", scale, [like.shape[1]], like=like)
        check_tensor(op, "shift", shift, [like.shape[1]], like=like)
    return scale, shift


def _apply_affine(T: Tensor, by: tuple[Tensor | None, Tensor | None], how: Aggregation) -> Tensor:
    """Sums of scale T + shift follow from those of T; extrema are of a tensor that is made, and so are sums that are
    kept in 16 bits."""
    scale, shift = by
    if scale is None or shift is None:
        return T
    if T.dtype not in REAL or any(REDUCE_OF[letter] != "sum" for letter, _ in how.letters):
        return affine(T, scale, shift)
    how.affine = scale, shift
    return T


def _check_map(op: str, coefs: Tensor, bias: Tensor | None, like: Tensor, maps: int) -> tuple[Tensor, Tensor | None]:
    coefs = promote(op, "coefs", coefs)
    check_tensor(op, "coefs", coefs, [like.shape[1], "D", maps], like=like)
    if 0 in coefs.shape[:2]:
        fail(op, "coefs", "at least one channel in and out", list(coefs.shape))
    return coefs, _check_bias(op, "bias", bias, coefs)


def _check_bias(op: str, name: str, bias: Tensor | None, coefs: Tensor) -> Tensor | None:
    if bias is None:
        return None
    bias = promote(op, name, bias)
    check_tensor(op, name, bias, [coefs.shape[1]], like=coefs)
    return bias
