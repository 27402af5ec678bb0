"""The packed formulation of heidelberg-hepml/pelican (arXiv 2307.16506): an edge list of all pairs, 15 aggregates per
edge stacked to [E, C, 15], one product with the coefficients. Aggregates over a node or an event are scattered, then
gathered back to the edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from equikernels.baselines import PELICANClassifier


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
    return F.leaky_relu(out, 0.01)


def make_edges(ptr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(i, j, reverse, event) of all pairs of packed events, row-major inside each."""
    count = ptr.diff()
    event = torch.repeat_interleave(torch.arange(len(count)), count)
    i = torch.repeat_interleave(torch.arange(len(event)), count[event])
    first = torch.cat([count.new_zeros(1), count.square().cumsum(0)])[:-1]
    of_edge = event[i]
    place = torch.arange(len(i)) - first[of_edge]
    row, column = place // count[of_edge], place % count[of_edge]
    return i, ptr[of_edge] + column, first[of_edge] + column * count[of_edge] + row, event


class Classifier(PELICANClassifier):
    """The published network of letters "s" in this formulation: same Parameters, edges in place of padded pairs."""

    def forward(self, p4: Tensor, labels: Tensor, edges: tuple[Tensor, ...], events: int) -> Tensor:  # type: ignore[override]
        """Logits [events, classes]; p4 [n, 4] and one-hot labels [n, 1 + spurions], spurions included."""
        i, j, _, event = edges
        of_edge, own = event[i], (i == j).to(labels.dtype)[:, None]

        def total(values: Tensor, index: Tensor) -> Tensor:
            return values.new_zeros(events, values.shape[1]).index_add_(0, index, values) / self.nbar

        products = (p4[i] * p4[j] * p4.new_tensor([1.0, -1, -1, -1])).sum(1, keepdim=True)
        T = self.encode(products.to(labels.dtype))
        if labels.shape[1] > 1:
            everywhere = total(labels, event)[of_edge]
            maps = [own * labels[i], labels[j], labels[i], own * everywhere, everywhere]
            scalars = torch.einsum("ecb,cdb->ed", torch.stack(maps, dim=-1), self.eq1to2.coefs) + self.eq1to2.bias
            T = torch.cat([T, F.leaky_relu(scalars, 0.01)], dim=1)
        for message, layer in self.blocks():
            T = self.message(message, T)
            arguments = layer.weights(), layer.bias, layer.diag_bias, self.nbar
            T = linear_2to2(T, *arguments, edges, len(labels), events)
        T = self.message(self.msg_2to0, T)
        aggregates = torch.stack([total(T, of_edge) / self.nbar, total(own * T, of_edge)], dim=2)
        y = torch.einsum("dsb,ndb->ns", self.agg_2to0.coefs, F.leaky_relu(aggregates, 0.01)) + self.agg_2to0.bias
        return self.classify(y)

    @staticmethod
    def message(layer: Any, T: Tensor) -> Tensor:
        for linear in layer.linear:
            T = F.leaky_relu(linear(T), 0.01)
        norm = layer.normlayer
        statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
        return F.batch_norm(T, *statistics, norm.training, 0.1, norm.eps)
