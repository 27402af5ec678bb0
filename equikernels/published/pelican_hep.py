"""PELICAN in the packed formulation of heidelberg-hepml/pelican (arXiv 2307.16506): an edge list of all pairs, 15 maps
of each edge stacked to [E, C, 15], one product with the coefficients. Aggregates over a node or an event are scattered,
then gathered back to the edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .pelican import PELICANClassifier

# Places in edge_maps of the maps in the order of equikernels.published.pelican.
PELICAN_ORDER = (0, 1, 2, 4, 3, 5, 8, 7, 6, 10, 9, 11, 12, 13, 14)


def reduce(values: Tensor, index: Tensor, size: int, aggr: str = "sum") -> Tensor:
    """[size, C] of values [E, C], 0 for empty segments; "sum", "mean", "amax" or "amin"."""
    zeros = values.new_zeros(size, values.shape[1])
    if aggr in ("amax", "amin"):
        return zeros.scatter_reduce(0, index[:, None].expand_as(values), values, aggr, include_self=False)
    total = zeros.index_add_(0, index, values)
    return total if aggr == "sum" else total / torch.bincount(index, minlength=size).clamp(min=1)[:, None]


def edge_maps(
    ranks: str,
    x: Tensor,
    edge_index: Tensor | tuple[Tensor, Tensor],
    batch: Tensor,
    *,
    aggr: str = "sum",
    G: int | None = None,
    reverse: Tensor | None = None,
) -> list[Tensor]:
    """The maps [E, n or G, C] of x [E, n or G, C].

    Args:
        ranks: "2to2", "2to1", "2to0", "1to2" or "0to2".
        edge_index: (i, j) of every edge, in any order.
        batch: [n], the event of each node.
        aggr: "sum", "mean", "amax" or "amin"; a mean of the diagonal divides by the number of edges.
        G: number of events.
        reverse: [E], the edge (j, i); found here by default.
    """
    i, j = edge_index
    n, events, event = len(batch), int(batch.max()) + 1 if G is None else G, batch[i]
    own = i == j
    delta = own.to(x.dtype)[:, None]
    if ranks == "0to2":
        return [x[event], x[event] * delta]
    if ranks == "1to2":
        total = reduce(x, batch, events, aggr)[event]
        return [x[i] * delta, x[i], x[j], total * delta, total]
    diagonal, total = reduce(x[own], i[own], n), reduce(x, event, events, aggr)
    # The trace is that of x_ij delta_ij, over all edges.
    trace = reduce(diagonal, batch, events) if aggr == "sum" else reduce(x * delta, event, events, aggr)
    if ranks == "2to0":
        return [total, trace]
    rows, columns = reduce(x, i, n, aggr), reduce(x, j, n, aggr)
    if ranks == "2to1":
        return [diagonal, rows, columns, total[batch], trace[batch]]
    if reverse is None:
        order = (i * n + j).argsort()
        reverse = order[torch.searchsorted((i * n + j)[order], j * n + i)]
    trace, total = trace[event], total[event]
    maps = [x, x[reverse], x * delta, diagonal[i], diagonal[j], columns[i] * delta, rows[j] * delta]
    return [*maps, columns[i], columns[j], rows[i], rows[j], trace, trace * delta, total, total * delta]


def stacked_edge_maps(ranks: str, x: Tensor, edge_index: Tensor, batch: Tensor, **options: Any) -> Tensor:
    """[E, n or G, C, maps]; arguments as of :func:`edge_maps`."""
    return torch.stack(edge_maps(ranks, x, edge_index, batch, **options), dim=-1)


class EdgeAggregators(nn.Module):
    """One equivariant layer on an edge list; weights are random until loaded."""

    def __init__(self, ranks: str, width: int, out: int, aggr: str = "mean", factorize: bool = False) -> None:
        super().__init__()
        self.ranks, self.aggr, self.factorize = ranks, aggr, factorize
        self.aggregator = stacked_edge_maps
        self.num_maps = {"2to2": 15, "2to1": 5, "1to2": 5, "2to0": 2, "0to2": 2}[ranks]
        self.map_multipliers = nn.Parameter(torch.ones(self.num_maps))
        if factorize:
            shapes = ((width, self.num_maps), (out, self.num_maps), (width, out), (width, out))
            self.factors = nn.ParameterList(torch.randn(*shape) for shape in shapes)
        else:
            self.coeffs_direct = nn.Parameter(torch.randn(width, out, self.num_maps))

    @property
    def coeffs(self) -> Tensor:
        if not self.factorize:
            return self.coeffs_direct * self.map_multipliers
        a, b, c, d = self.factors
        return (a[:, None] * c[:, :, None] + b[None] * d[:, :, None]) * self.map_multipliers

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        maps = self.aggregator(self.ranks, x, *args, aggr=self.aggr, **kwargs).flatten(1)
        return maps @ self.coeffs.reshape(-1, maps.shape[1]).t()


def linear_2to2(
    T: Tensor, coefs: Tensor, bias: Tensor, diag_bias: Tensor, nbar: float, edges: tuple[Tensor, ...], b: int
) -> Tensor:
    """The layer of :func:`equikernels.published.pelican.linear_2to2` with letter "s", on b events' edges: [E, D]."""
    i, j, reverse, batch = edges
    maps = edge_maps("2to2", T, (i, j), batch, G=b, reverse=reverse)
    scale = torch.tensor([1.0] * 5 + [1 / nbar] * 8 + [1 / nbar**2] * 2, dtype=T.dtype, device=T.device)
    stacked = torch.stack([maps[k] for k in PELICAN_ORDER], dim=-1)
    out = torch.einsum("ecb,cdb->ed", stacked, coefs * scale) + bias
    out = out + (i == j).to(T.dtype)[:, None] * diag_bias
    return F.leaky_relu(out, 0.01)


def make_edges(ptr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(i, j, reverse, batch) of all pairs of packed events, row-major inside each."""
    count = ptr.diff()
    batch = torch.repeat_interleave(torch.arange(len(count)), count)
    i = torch.repeat_interleave(torch.arange(len(batch)), count[batch])
    first = torch.cat([count.new_zeros(1), count.square().cumsum(0)])[:-1]
    event = batch[i]
    place = torch.arange(len(i)) - first[event]
    row, column = place // count[event], place % count[event]
    return i, ptr[event] + column, first[event] + column * count[event] + row, batch


class PackedPELICANClassifier(PELICANClassifier):
    """The published network of letters "s" in this formulation: same parameters, edges in place of padded pairs."""

    def forward(self, p4: Tensor, labels: Tensor, edges: tuple[Tensor, ...], events: int) -> Tensor:  # type: ignore[override]
        """Logits [events, classes]; p4 [n, 4] and one-hot labels [n, 1 + spurions], spurions included."""
        i, j, _, batch = edges
        event, own = batch[i], (i == j).to(labels.dtype)[:, None]

        def total(values: Tensor, index: Tensor) -> Tensor:
            return reduce(values, index, events) / self.nbar

        products = (p4[i] * p4[j] * p4.new_tensor([1.0, -1, -1, -1])).sum(1, keepdim=True)
        T = self.encode(products.to(labels.dtype))
        if labels.shape[1] > 1:
            everywhere = total(labels, batch)[event]
            maps = [own * labels[i], labels[j], labels[i], own * everywhere, everywhere]
            scalars = torch.einsum("ecb,cdb->ed", torch.stack(maps, dim=-1), self.eq1to2.coefs) + self.eq1to2.bias
            T = torch.cat([T, F.leaky_relu(scalars, 0.01)], dim=1)
        for message, layer in zip(self.net2to2.message_layers, self.net2to2.eq_layers, strict=True):
            T = self.message(message, T)
            equivariant: Any = layer
            weights = equivariant.weights(), equivariant.bias, equivariant.diag_bias
            T = linear_2to2(T, *weights, self.nbar, edges, events)
        T = self.message(self.msg_2to0, T)
        aggregates = torch.stack([total(T, event) / self.nbar, total(own * T, event)], dim=2)
        y = torch.einsum("dsb,ndb->ns", self.agg_2to0.coefs, F.leaky_relu(aggregates, 0.01)) + self.agg_2to0.bias
        return self.classify(y)

    @staticmethod
    def message(layer: Any, T: Tensor) -> Tensor:
        for linear in layer.linear:
            T = F.leaky_relu(linear(T), 0.01)
        norm = layer.normlayer
        statistics = norm.running_mean, norm.running_var, norm.weight, norm.bias
        return F.batch_norm(T, *statistics, norm.training, 0.1, norm.eps)
