"""The aggregators followed by their linear map, without ever making them.

Aggregates live on particles and events. Their maps are applied there, and what comes out is broadcast to pairs
together with the two maps that live on pairs, the identity and the transpose: one pass over T to reduce it, one to mix.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from ...backend import use_kernel
from ...checks import check_tensor
from ..common import lift
from .aggregates import (
    Aggregation,
    Alphas,
    aggregation,
    basis_1to2,
    basis_2to0,
    basis_2to1,
    check_rank1,
)
from .op import MIX, Pairs, broadcast_table, check_rank2, mix_table, pairs_of, slope_of, spread_events
from .reference import activate

LINEAR_2TO2, LINEAR_2TO1 = "linear_2to2", "linear_2to1"
LINEAR_2TO0, LINEAR_1TO2 = "linear_2to0", "linear_1to2"


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
) -> Tensor:
    r"""PELICAN's 2 -> 2 layer: a linear map of all aggregators of :func:`aggregate_2to2`.

    .. math:: \mathrm{out}_{ij,d} = \mathrm{act}\Bigl(\sum_{c,k} W_{cdk}\, \mathrm{act}'(\mathrm{op}_k(T)_{ij,c})
              + \mathrm{bias}_d + \delta_{ij}\, \mathrm{diag\_bias}_d \Bigr)

    Two matrix products on pairs and fifteen on particles and events; no tensor of 15 C channels. PELICAN, arXiv
    2307.16506, section 3.2.

    Args:
        T: [n_pairs, C] float32 or float64, pairs row-major inside each event.
        ptr: as in :func:`rank2_reduce`.
        coefs: W [C, D, 15 + 10 (len(config) - 1)], the maps in the order of :func:`aggregate_2to2`.
        bias, diag_bias: [D].
        config, nbar, alphas, weight, nobj, padded_to: as in :func:`aggregate_2to2`.
        activation: of the output: "identity", "relu" or "leaky_relu".
        aggregate_activation: of every map before it is mixed.
        negative_slope: of leaky_relu.

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
    with _without_autocast(T.device.type):
        return _mixed_2to2(T, how, coefs, bias, diag_bias, slope, inner)


def _mixed_2to2(
    T: Tensor,
    how: Aggregation,
    coefs: Tensor,
    bias: Tensor | None,
    diag_bias: Tensor | None,
    slope: float,
    inner: float,
) -> Tensor:
    """A table is [n, 3, D]: what goes to the diagonal, to columns, to rows."""
    width = coefs.shape[1]
    zero = coefs.new_zeros(width)
    per_event: Tensor = torch.stack([zero if b is None else b for b in (diag_bias, None, bias)])
    terms = []
    for k, (nodes, events) in enumerate(how.to_pairs(T)):
        first, end = 5 + 10 * k, 15 + 10 * k
        if k == 0:  # maps 3 to 5, of the diagonal, come with the first letter
            diagonal = how.diagonal(T)[:, None, None].expand(-1, 1, nodes.shape[2], -1)
            nodes, first = torch.cat([diagonal, nodes], dim=1), 2
        of_nodes, of_events = coefs[:, :, first : end - 4], coefs[:, :, end - 4 : end]
        terms.append(apply(activate(nodes, inner), of_nodes.unflatten(2, (-1, 3))))
        per_event = per_event + _to_table(apply(activate(events, inner), of_events.unflatten(2, (2, 2))))
    terms.append(spread_events(per_event.reshape(-1, 3 * width), how.pairs).view(-1, 3, width))
    table = terms[0]
    for term in terms[1:]:
        table = table + term
    return mix_table(activate(T, inner), coefs[:, :, 0], coefs[:, :, 1], table, how.pairs, slope)


def _to_table(events: Tensor) -> Tensor:
    """[n_events, (everywhere, diagonal), D] -> [n_events, (diagonal, columns, rows), D]."""
    everywhere, diagonal = events.unbind(1)
    return torch.stack([diagonal, torch.zeros_like(diagonal), everywhere], dim=1)


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
    with _without_autocast(T.device.type):
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
    with _without_autocast(T.device.type):
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
    with _without_autocast(x.device.type):
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


def apply(values: Tensor, coefs: Tensor) -> Tensor:
    """[m, Q, D] = sum over p, c of values [m, P, Q or 1, C] and coefs [C, D, P, Q]."""
    width_in, width, sides, slots = coefs.shape
    if values.shape[2] == 1:
        matrix = coefs.permute(2, 0, 3, 1).reshape(sides * width_in, slots * width)
        return product(values.reshape(-1, sides * width_in), matrix).view(-1, slots, width)
    matrices = coefs.permute(3, 2, 0, 1).reshape(slots, sides * width_in, width)
    return torch.stack([product(values[:, :, q].flatten(1), matrices[q]) for q in range(slots)], dim=1)


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows @ matrix, on the CPU with the same sums on any number of threads."""
    if not use_kernel(MIX, rows, matrix):
        return rows @ matrix
    return torch.ops.equikernels.rows_product.default(rows, matrix)


def _without_autocast(device: str) -> AbstractContextManager[object]:
    """Sums over particles are not for 16 bits. Nothing where autocast is off: torch.export would nest a graph."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _check_map(op: str, coefs: Tensor, bias: Tensor | None, like: Tensor, maps: int) -> tuple[Tensor, Tensor | None]:
    coefs = lift(op, "coefs", coefs)
    check_tensor(op, "coefs", coefs, [like.shape[1], "D", maps], like=like)
    return coefs, _check_bias(op, "bias", bias, coefs)


def _check_bias(op: str, name: str, bias: Tensor | None, coefs: Tensor) -> Tensor | None:
    if bias is None:
        return None
    bias = lift(op, name, bias)
    check_tensor(op, name, bias, [coefs.shape[1]], like=coefs)
    return bias
