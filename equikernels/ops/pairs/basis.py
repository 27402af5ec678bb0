"""The maps of PELICAN's layers as they are, one after another: what linear_2to2 and the other three mix without making
them. For tests and for networks that need the maps themselves: 15 times the memory of T."""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import Graph
from ..common import promote
from .aggregation import KINDS, Aggregates, Aggregation, PairBatch, aggregates_of
from .batch import Pairs
from .reference import transposed
from .tables import broadcast_table, spread_events

DEFAULT = Aggregation()


def aggregate_2to2(T: Tensor, ptr: Pairs | PairBatch, how: Aggregation = DEFAULT) -> Tensor:
    r"""The 15 permutation-equivariant maps of a rank-2 tensor.

    With R_i, C_j, Tr and S the aggregates over rows, columns, the diagonal and all pairs, they are, in order,

    .. math:: T_{ij}, T_{ji}, \delta_{ij} T_{ii}, T_{jj}, T_{ii}, \delta_{ij} C_i, C_j, C_i, \delta_{ij} R_i, R_j, R_i,
              \mathrm{Tr}, \delta_{ij} \mathrm{Tr}, S, \delta_{ij} S

    PELICAN, arXiv 2307.16506, section 3.2.

    Args:
        T: [n_pairs, C] float32 or float64, pairs row-major inside each event.
        ptr: as in :func:`rank2_reduce`, or a :class:`PairBatch`.
        how: see :class:`Aggregation`.

    Returns:
        [n_pairs, C, 15 + 10 (len(config) - 1)].

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    T, of = _aggregates("2to2", T, ptr, how)
    diag, pairs = of.diagonal(T), of.pairs
    ops = [T, T[transposed(pairs)], *(_place(diag, slot, pairs) for slot in range(3))]
    for nodes, events in of.basis_2to2(T):
        nodes, events = nodes.expand(-1, 2, 3, -1), events.expand(-1, 2, 2, -1)
        ops += [_place(nodes[:, side, slot], slot, pairs) for side in range(2) for slot in range(3)]
        spread = [[spread_events(events[:, k, slot], pairs) for slot in range(2)] for k in range(2)]
        ops += [_place(spread[k][slot], 0 if slot else 2, pairs) for k in range(2) for slot in range(2)]
    return torch.stack(ops, dim=-1)


def aggregate_2to1(T: Tensor, ptr: Pairs | PairBatch, how: Aggregation = DEFAULT) -> Tensor:
    """The 5 maps T_ii, R_i, C_i, Tr, S of a rank-2 tensor to particles, [n, C, 5]; arguments as in
    :func:`aggregate_2to2`."""
    T, of = _aggregates("2to1", T, ptr, how)
    nodes, events = of.basis_2to1(T)
    width = T.shape[1]
    spread = spread_events(events.reshape(-1, 2 * width), of.pairs).view(-1, 2, width)
    return torch.cat([nodes, spread], dim=1).transpose(1, 2)


def aggregate_2to0(T: Tensor, ptr: Pairs | PairBatch, how: Aggregation = DEFAULT) -> Tensor:
    """The 2 maps S, Tr of a rank-2 tensor to events, for each letter of config: [n_events, C, 2 len(config)]; arguments
    as in :func:`aggregate_2to2`."""
    T, of = _aggregates("2to0", T, ptr, how)
    return of.basis_2to0(T)


def aggregate_1to2(x: Tensor, ptr: Pairs | PairBatch, how: Aggregation = DEFAULT) -> Tensor:
    r"""The 5 maps of particles x [n, C] to pairs, [n_pairs, C, 5]:

    .. math:: \delta_{ij} x_i, x_j, x_i, \delta_{ij} \mathrm{Sum}, \mathrm{Sum}, \quad \mathrm{Sum} = \mathrm{agg}_i x_i

    Further arguments as in :func:`aggregate_2to2`.
    """
    x, of = _aggregates("1to2", x, ptr, how)
    pairs, (nodes, events) = of.pairs, of.basis_1to2(x)
    spread = spread_events(events.reshape(-1, 2 * x.shape[1]), pairs).view(-1, 2, x.shape[1])
    slots = ((nodes, 0, 0), (nodes, 1, 1), (nodes, 2, 2), (spread, 0, 0), (spread, 1, 2))
    return torch.stack([_place(t[:, k], slot, pairs) for t, k, slot in slots], dim=-1)


def _aggregates(ranks: str, source: Tensor, ptr: Pairs | PairBatch, how: Aggregation) -> tuple[Tensor, Aggregates]:
    op, kind = f"aggregate_{ranks}", KINDS[ranks]
    source = promote(op, kind.source, source)
    return source, aggregates_of(op, kind, source, ptr, how)


def _place(values: Tensor, slot: int, pairs: Graph) -> Tensor:
    """[n_pairs, C]: values [n, C] on the diagonal (slot 0), down columns (1) or along rows (2)."""
    zeros = torch.zeros_like(values)
    return broadcast_table(torch.stack([values if k == slot else zeros for k in range(3)], dim=1), pairs)
