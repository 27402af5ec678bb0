"""Linear maps of aggregates, applied where the aggregates live, and broadcast to pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...backend import use_kernel
from ...graph import Graph
from ..autograd import call
from .op import MIX, mix_table, spread_events
from .reference import activate


def mix_2to2(
    T: Tensor,
    diagonal: Tensor,
    aggregates: Sequence[tuple[Tensor, Tensor]],
    coefs: Tensor,
    bias: Tensor | None,
    diag_bias: Tensor | None,
    pairs: Graph,
    slope: float = 1.0,
    inner: float = 1.0,
) -> Tensor:
    """act(sum over maps of act'(map) coefs + biases), [n_pairs, D].

    Args:
        T: [n_pairs, C].
        diagonal: T_ii, [n, C].
        aggregates: for each letter maps 6 to 11 as [n, (cols, rows), (diagonal, column, row), C] and maps 12 to 15 as
            [n_events, (trace, total), (everywhere, diagonal), C]; the third dimension is 1 where its entries agree.
        coefs: [C, D, 15 + 10 (letters - 1)].
        bias, diag_bias: [D].
        slope, inner: of the activations of the result and of the maps.
    """
    width = coefs.shape[1]
    zero = coefs.new_zeros(width)
    # a table is [n, 3, D]: what goes to the diagonal, to columns, to rows
    per_event: Tensor = torch.stack([zero if b is None else b for b in (diag_bias, None, bias)])
    terms = []
    for k, (nodes, events) in enumerate(aggregates):
        first, end = 5 + 10 * k, 15 + 10 * k
        if k == 0:  # maps 3 to 5, of the diagonal, come with the first letter
            nodes = torch.cat([diagonal[:, None, None].expand(-1, 1, nodes.shape[2], -1), nodes], dim=1)
            first = 2
        of_nodes, of_events = coefs[:, :, first : end - 4], coefs[:, :, end - 4 : end]
        terms.append(apply(activate(nodes, inner), of_nodes.unflatten(2, (-1, 3))))
        everywhere, diag = apply(activate(events, inner), of_events.unflatten(2, (2, 2))).unbind(1)
        per_event = per_event + torch.stack([diag, torch.zeros_like(diag), everywhere], dim=1)
    terms.append(spread_events(per_event.reshape(-1, 3 * width), pairs).view(-1, 3, width))
    table = terms[0]
    for term in terms[1:]:
        table = table + term
    return mix_table(activate(T, inner), coefs[:, :, 0], coefs[:, :, 1], table, pairs, slope)


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
    return call("rows_product", rows, matrix)
