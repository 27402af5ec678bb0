"""The packed formulation of heidelberg-hepml/pelican (arXiv 2307.16506): an edge list of all pairs, 15 aggregates per
edge stacked to [E, C, 15], one product with the coefficients. Aggregates over a node or an event are scattered, then
gathered back to the edges."""

from __future__ import annotations

import torch
from torch import Tensor


def maps_2to2(T: Tensor, i: Tensor, j: Tensor, reverse: Tensor, event: Tensor, n: int, events: int) -> Tensor:
    """[E, C, 15] of T [E, C]; event [n], reverse [E] the edge (j, i)."""
    own = i == j
    of_edge = event[i]
    width = T.shape[1]

    def scatter(values: Tensor, index: Tensor, size: int) -> Tensor:
        return values.new_zeros(size, width).index_add_(0, index, values)

    diagonal = scatter(T[own], i[own], n)
    rows, columns = scatter(T, i, n), scatter(T, j, n)
    trace, total = scatter(diagonal, event, events)[of_edge], scatter(T, of_edge, events)[of_edge]
    delta = own.to(T.dtype)[:, None]
    maps = [T, T[reverse], delta * T, diagonal[j], diagonal[i]]
    maps += [delta * columns[i], columns[j], columns[i], delta * rows[i], rows[j], rows[i]]
    maps += [trace, delta * trace, total, delta * total]
    return torch.stack(maps, dim=-1)


def linear_2to2(
    T: Tensor, coefs: Tensor, bias: Tensor, diag_bias: Tensor, nbar: float, edges: tuple[Tensor, ...], n: int, b: int
) -> Tensor:
    """Sums over nbar, once per summed index, then the map and a leaky ReLU: [E, D]."""
    i, j, _, _ = edges
    scale = torch.tensor([1.0] * 5 + [1 / nbar] * 8 + [1 / nbar**2] * 2, dtype=T.dtype, device=T.device)
    out = torch.einsum("ecb,cdb->ed", maps_2to2(T, *edges, n, b), coefs * scale) + bias
    out = out + (i == j).to(T.dtype)[:, None] * diag_bias
    return torch.nn.functional.leaky_relu(out, 0.01)
