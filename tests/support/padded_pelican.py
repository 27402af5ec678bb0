"""Stand-ins for the PELICAN layers of other people's repositories, from their formulas (arXiv 2307.16506)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from equikernels.baselines.pelican import aggregate

MAPS = {"2to2": (15, 10), "2to1": (5, 5), "1to2": (5, 5), "2to0": (2, 2)}  # of one letter; with an alpha each


def padded_maps(ranks: str, x: Tensor, letter: str, nobj: Tensor, nbar: float, weight: Tensor | None) -> Tensor:
    """[B, C, maps, ...] of x [B, C, N, N] or [B, C, N]."""
    size = x.shape[-1]
    w = x.new_ones(x.shape[0], 1, size) if weight is None else weight[:, None]

    def table(v: Tensor, where: str) -> Tensor:
        """v [B, C, N] or [B, C] on the diagonal, along rows (v_i), columns (v_j) or everywhere."""
        v = v if v.dim() == 3 else v[..., None].expand(-1, -1, size)
        spread = v[..., None, :] if where == "j" else v[..., None]
        spread = spread.expand(-1, -1, size, size)
        return spread * torch.eye(size, dtype=x.dtype) if where == "diagonal" else spread

    if ranks == "1to2":
        total = aggregate(x * w, (2,), letter, nobj, nbar)
        places = [(x, "diagonal"), (x, "j"), (x, "i"), (total, "diagonal"), (total, "i")]
        return torch.stack([table(*place) for place in places], 2)
    diagonal = x.diagonal(dim1=2, dim2=3)
    rows = aggregate(x * w[:, :, None, :], (3,), letter, nobj, nbar)
    columns = aggregate(x * w[:, :, :, None], (2,), letter, nobj, nbar)
    trace = aggregate(diagonal * w, (2,), letter, nobj, nbar)
    total = aggregate(x * w[:, :, None, :] * w[:, :, :, None], (2, 3), letter, nobj, nbar)
    if ranks == "2to0":
        return torch.stack([total, trace], 2)
    if ranks == "2to1":
        trace, total = (v[..., None].expand(-1, -1, size) for v in (trace, total))
        return torch.stack([diagonal, rows, columns, trace, total], 2)
    maps = [x, x.transpose(2, 3), *(table(diagonal, where) for where in ("diagonal", "j", "i"))]
    maps += [table(side, where) for side in (columns, rows) for where in ("diagonal", "j", "i")]
    maps += [table(v, where) for v in (trace, total) for where in ("i", "diagonal")]
    return torch.stack(maps, 2)


class Aggregators(nn.Module):
    """A layer of aggregators with the published attributes, parameters and arguments."""

    def __init__(
        self,
        ranks: str,
        width: int,
        out: int,
        config: str = "s",
        factorize: bool = False,
        activate_agg: bool = False,
        activate_lin: bool = True,
        activation: nn.Module | None = None,
        average_nobj: float = 3.5,
        cast: bool = False,
    ) -> None:
        super().__init__()
        self.ranks, self.config, self.average_nobj, self.cast = ranks, config, average_nobj, cast
        self.activate_agg, self.activate_lin = activate_agg, activate_lin
        self.activation_fn = nn.LeakyReLU(0.01) if activation is None else activation
        maps, alphas = MAPS[ranks]
        maps += (len(config) - 1) * alphas
        ones = [1] * int(ranks[-1])
        self.alphas = nn.ParameterList(
            [nn.Parameter(torch.rand(1, width, alphas, *ones)) if c.isupper() else None for c in config]
        )
        if factorize:
            self.coefs00, self.coefs01 = nn.Parameter(torch.randn(width, maps)), nn.Parameter(torch.randn(out, maps))
            self.coefs10, self.coefs11 = nn.Parameter(torch.randn(width, out)), nn.Parameter(torch.randn(width, out))
        else:
            self.coefs = nn.Parameter(torch.randn(width, out, maps))
        self.bias = nn.Parameter(torch.randn(1, out) if ranks == "2to0" else torch.randn(out))
        if ranks == "2to2":
            self.diag_bias = nn.Parameter(torch.randn(out))

    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        nobj: Any = None,
        softmask_ir: Tensor | None = None,
        irc_weight: Tensor | None = None,
    ) -> Tensor:
        x, nbar = inputs.movedim(-1, 1), self.average_nobj
        nobj = x.new_ones(x.shape[0], 1) if nobj is None else nobj.to(x.dtype) if self.cast else nobj
        maps = []
        for k, letter in enumerate(self.config):
            of_letter = padded_maps(self.ranks, x, letter.lower(), nobj, nbar, irc_weight)
            further = self.ranks == "2to2" and k > 0
            of_letter = of_letter[:, :, 5:] if further else of_letter
            if letter.isupper():
                alpha = self.alphas[k]
                if self.ranks == "2to2" and k == 0:
                    alpha = torch.cat([torch.zeros_like(alpha[:, :, :5]), alpha], 2)
                of_letter = of_letter * nobj.view(-1, *[1] * (of_letter.dim() - 1)) ** alpha / nbar**alpha
            if softmask_ir is not None:
                of_letter = torch.cat([of_letter[:, :, :3], of_letter[:, :, 3:] * softmask_ir], 2)
            maps.append(of_letter)
        stacked = torch.cat(maps, 2)
        stacked = self.activation_fn(stacked) if self.activate_agg else stacked
        coefs = getattr(self, "coefs", None)
        if coefs is None:
            coefs = torch.einsum("db,ds->dsb", self.coefs00, self.coefs10)
            coefs = coefs + torch.einsum("sb,ds->dsb", self.coefs01, self.coefs11)
        out = torch.einsum("dsb,ndb...->n...s", coefs, stacked) + self.bias
        if self.ranks == "2to2":
            out = out + torch.eye(x.shape[-1], dtype=x.dtype)[..., None] * self.diag_bias
        out = self.activation_fn(out) if self.activate_lin else out
        return out if mask is None else out * mask


class MaskedNorm(nn.BatchNorm2d):
    """BatchNorm over the rows of a mask; ``shares``: as a sum of mask / n times the rows, n an integer."""

    shares = False

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n = mask.sum()
        mean, variance = self.running_mean, self.running_var
        if self.training:
            self.num_batches_tracked += 1
        if self.training and n > 1:
            average = (
                (lambda v: (v * (mask / n)).sum((0, 1, 2)))
                if self.shares
                else (lambda v: (v * mask).sum((0, 1, 2)) / n)
            )
            mean = average(x)
            variance = average(x.square()) - mean.square()
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        return torch.where(mask, (x - mean) / (variance + self.eps).sqrt() * self.weight + self.bias, 0.0)


class Messages(nn.Module):
    """Linear layers, activations, mask, masked BatchNorm."""

    def __init__(self, widths: list[int], batchnorm: str | None = "b", masked: bool = True) -> None:
        super().__init__()
        self.batchnorm, self.masked = batchnorm, masked
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activations = nn.ModuleList(nn.LeakyReLU(0.01) for _ in self.linear)
        if batchnorm:
            self.normlayer = MaskedNorm(widths[-1]) if masked else nn.BatchNorm2d(widths[-1])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for linear, activation in zip(self.linear, self.activations, strict=True):
            x = activation(linear(x))
        x = x if mask is None else torch.where(mask, x, 0.0)
        if not self.batchnorm:
            return x
        return self.normlayer(x, mask) if self.masked else self.normlayer(x.movedim(-1, 1)).movedim(1, -1)


class Stack(nn.Module):
    """Messages and 2 -> 2 aggregators in turn."""

    def __init__(self, widths: list[tuple[int, int]], batchnorm: str | None = "b", masked: bool = True, **options: Any):
        super().__init__()
        outs = [a for a, _ in widths[1:]] + [widths[-1][1]]
        self.dropout, self.dropout_layer = True, nn.Dropout(0.0)
        self.message_layers = nn.ModuleList(Messages([a, b], batchnorm, masked) for a, b in widths)
        layers = (Aggregators("2to2", b, out, **options) for (_, b), out in zip(widths, outs, strict=True))
        self.eq_layers = nn.ModuleList(layers)

    def forward(
        self, x: Tensor, mask: Any = None, nobj: Any = None, softmask_ir: Any = None, irc_weight: Any = None
    ) -> Tensor:
        for layer, message in zip(self.eq_layers, self.message_layers, strict=True):
            x = self.dropout_layer(message(x, mask))
            x = layer(x, mask, nobj, irc_weight=irc_weight)
        return x


class EdgeAggregators(nn.Module):
    """Aggregators on edge lists, by event and in full; the mean of the diagonal divides by the number of edges."""

    def __init__(self, ranks: str, width: int, out: int, aggr: str = "mean", factorize: bool = False) -> None:
        super().__init__()
        self.ranks, self.aggr, self.factorize = ranks, aggr, factorize
        self.aggregator = edge_maps
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


def edge_maps(ranks: str, x: Tensor, edge_index: Tensor, batch: Tensor, *, aggr: str, G: int | None = None) -> Tensor:
    """[E, n or G, C, maps] of x [E, n or G, C]."""
    i, j = edge_index
    nodes, width = batch.shape[0], x.shape[-1]
    there = torch.zeros(nodes, nodes, 1, dtype=torch.bool).index_put((i, j), torch.tensor(True))
    own = torch.eye(nodes, dtype=torch.bool)[..., None]
    events = int(batch.max()) + 1 if G is None else G
    inside = batch == torch.arange(events)[:, None]  # [G, n]

    def reduce(values: Tensor, which: Tensor, dim: int) -> Tensor:
        """Over entries ``which``, 0 where there are none."""
        if aggr in ("sum", "mean"):
            total = (values * which).sum(dim)
            return total / which.sum(dim).clamp(min=1) if aggr == "mean" else total
        worst = -torch.inf if aggr == "amax" else torch.inf
        best = values.masked_fill(~which, worst)
        best = best.amax(dim) if aggr == "amax" else best.amin(dim)
        return best.masked_fill(~which.any(dim), 0.0)

    def of_pairs(values: Tensor) -> Tensor:
        pairs = (inside[:, :, None] & inside[:, None, :])[..., None] & there
        return reduce(values.expand(events, -1, -1, -1).flatten(1, 2), pairs.flatten(1, 2), 1)

    if ranks[0] == "2":
        T = torch.zeros(nodes, nodes, width, dtype=x.dtype).index_put((i, j), x)
        diagonal, rows, columns = (T * own).sum(1), reduce(T, there, 1), reduce(T, there, 0)
        trace, total = of_pairs(T * own), of_pairs(T)
    delta = (i == j)[:, None].to(x.dtype)
    if ranks == "2to0":
        maps = [total, trace]
    elif ranks == "2to1":
        maps = [diagonal, rows, columns, total[batch], trace[batch]]
    elif ranks == "0to2":
        maps = [x[batch[i]], x[batch[i]] * delta]
    elif ranks == "1to2":
        total = reduce(x.expand(events, -1, -1), inside[..., None], 1)[batch[i]]
        maps = [x[i] * delta, x[i], x[j], total * delta, total]
    else:
        trace, total = trace[batch[i]], total[batch[i]]
        maps = [x, T[j, i], x * delta, diagonal[i], diagonal[j], columns[i] * delta, rows[j] * delta]
        maps += [columns[i], columns[j], rows[i], rows[j], trace, trace * delta, total, total * delta]
    return torch.stack(maps, -1)
