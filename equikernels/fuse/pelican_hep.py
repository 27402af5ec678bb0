"""The aggregators of pelican-hep (arXiv 2307.16506) on edge lists: [E, C] with edge_index and batch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import FLOATING, check_tensor
from ..graph import Graph
from ..ops.common import promote, without_autocast
from ..ops.pairs import product, rank2_broadcast, rank2_mix, rank2_reduce, spread_events
from ..ops.segment import segment_reduce
from .edges import GraphCache
from .pairs import EdgeRows, edge_rows
from .probe import Numbers, Probe
from .recipe import NotRecognisedError, OwnForward, Recipe, expect
from .takes import cast

REDUCE_OF = {"sum": "sum", "mean": "sum", "amax": "max", "amin": "min"}
RANKS_OF = {15: ("2to2",), 5: ("2to1", "1to2"), 2: ("2to0", "0to2")}


@dataclass
class EdgeAggregators(Recipe):
    """forward(x, edge_index, batch[, G]) of the aggregators from and to rank 2; edges (i, j) in any order.

    A mean over the diagonal divides by the number of edges, as one over all pairs does.
    """

    name = "pelican-hep aggregator"
    attributes = ("aggregator", "aggr", "num_maps", "coeffs")

    ranks: str = "2to2"

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        if module.aggr not in REDUCE_OF:
            raise NotRecognisedError(f"aggr is {module.aggr!r}")
        coefs = module.coeffs
        if not isinstance(coefs, Tensor) or coefs.dim() != 3 or coefs.shape[2] not in RANKS_OF:
            raise NotRecognisedError("coeffs is no tensor [in, out, maps]")
        return [cls(cache, ranks=ranks) for ranks in RANKS_OF[coefs.shape[2]]]

    def describe(self, module: nn.Module) -> None:
        """Its own forward takes (x, *args, **kwargs): the names are those of the aggregators."""
        super().describe(module)
        self.fixed = {}
        self.parameters = tuple(
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None)
            for name in ("x", "edge_index", "batch", "G")
        )

    def call_own(self, module: nn.Module, arguments: list[Any]) -> Any:
        x, *rest = arguments
        names = ("edge_index", "batch", "G")
        given = {name: value for name, value in zip(names, rest, strict=True) if value is not None}
        own: Any = type(module).forward
        return own(module, x, given.pop("edge_index"), given.pop("batch"), **given)

    def run(self, module: Any, arguments: list[Any]) -> Any:
        x, edge_index, batch, size = arguments
        expect(not torch.compiler.is_compiling())  # which edge is where needs values
        expect(isinstance(x, Tensor) and isinstance(edge_index, Tensor) and isinstance(batch, Tensor))
        expect(x.dim() == 2 and (x.dtype == module.coeffs.dtype or cast(x)) and x.dtype in FLOATING, "its input")
        expect(edge_index.dtype == batch.dtype == torch.int64 and edge_index.dim() == 2, "edges that are not int64")
        where = edge_rows(edge_index, batch, self.cache)
        if not where.self_loops and REDUCE_OF[module.aggr] != "sum" and self.ranks[0] == "2":
            raise OwnForward("an extremum over pairs without their diagonal")
        coefs = module.coeffs  # [C, D, maps] whose numbers are used as those of [D, C, maps]
        weights = coefs.reshape(coefs.shape[1], coefs.shape[0], -1).permute(2, 1, 0)
        x = promote("fuse_", "x", x)
        check_tensor("fuse_", "x", x, ["rows", coefs.shape[0]], like=coefs)
        with without_autocast(x.device.type):
            return (getattr(self, f"_{self.ranks}")(x, weights, where, module.aggr, size),)

    @staticmethod
    def _2to2(x: Tensor, weights: Tensor, where: EdgeRows, aggr: str, _: int | None) -> Tensor:
        rows, pairs = where.pack(x), where.pairs
        nodes, events = _aggregates(rows, where, aggr)
        return where.unpack(
            rank2_mix(
                rows,
                pairs,
                weights[0],
                weights[1],
                row=_mixed(nodes, weights, 3, 7, 9),
                col=_mixed(nodes, weights, 4, 8, 10),
                diag=_mixed(nodes, weights, 2, 5, 6) + spread_events(_mixed(events, weights, 12, 14), pairs),
                event=_mixed(events, weights, 11, 13),
            )
        )

    @staticmethod
    def _2to1(x: Tensor, weights: Tensor, where: EdgeRows, aggr: str, _: int | None) -> Tensor:
        nodes, events = _aggregates(where.pack(x), where, aggr)
        return _mixed(nodes, weights, 0, 2, 1) + spread_events(_mixed(events, weights, 4, 3), where.pairs)

    @staticmethod
    def _2to0(x: Tensor, weights: Tensor, where: EdgeRows, aggr: str, size: int | None) -> Tensor:
        out = _mixed(_aggregates(where.pack(x), where, aggr)[1], weights, 1, 0)
        return out if size is None else F.pad(out, (0, 0, 0, size - out.shape[0]))  # events without particles

    @staticmethod
    def _1to2(x: Tensor, weights: Tensor, where: EdgeRows, aggr: str, _: int | None) -> Tensor:
        pairs = where.pairs
        total = segment_reduce(x, pairs.events, "mean" if aggr == "mean" else REDUCE_OF[aggr])
        diag = _mixed(x, weights, 0) + spread_events(_mixed(total, weights, 3), pairs)
        row, col, event = _mixed(x, weights, 1), _mixed(x, weights, 2), _mixed(total, weights, 4)
        return where.unpack(rank2_broadcast(row, col, diag, event, ptr=pairs))

    @staticmethod
    def _0to2(x: Tensor, weights: Tensor, where: EdgeRows, aggr: str, _: int | None) -> Tensor:
        pairs = where.pairs
        x = x[: _counts(pairs).shape[0]]
        diag = spread_events(_mixed(x, weights, 1), pairs)
        return where.unpack(rank2_broadcast(diag=diag, event=_mixed(x, weights, 0), ptr=pairs))

    def probes(self, module: Any) -> Iterator[Probe]:
        device = module.coeffs.device
        batch = torch.tensor([0, 0, 0, 1, 2, 2, 2, 2], device=device)
        ptr = torch.tensor([0, 3, 4, 8], device=device)
        numbers = Numbers(device)
        for self_loops in (True, False):
            if not self_loops and REDUCE_OF[module.aggr] != "sum" and self.ranks[0] == "2":
                continue
            edges = Graph.complete(ptr, self_loops).edge_index.flip(0)
            shuffled = edges[:, numbers.table(edges.shape[1]).argsort()]
            rows = {"2": edges.shape[1], "1": batch.shape[0], "0": 3}[self.ranks[0]]
            x = numbers.table(rows, module.coeffs.shape[0])
            for size in (None, 3) if self.ranks == "2to0" else (None,):
                yield Probe([x, shuffled, batch, size], f"all pairs with{'' if self_loops else 'out'} self-loops")


def _mixed(values: Tensor, weights: Tensor, *maps: int) -> Tensor:
    """[m, D] of [m, len(maps) C]."""
    return product(values, torch.cat([weights[k] for k in maps]))


def _counts(pairs: Graph) -> Tensor:
    assert pairs.ptr is not None
    return pairs.ptr.diff()


def _aggregates(rows: Tensor, where: EdgeRows, aggr: str) -> tuple[Tensor, Tensor]:
    """Diagonal, columns and rows [n, 3 C]; trace and total [n_events, 2 C]."""
    reduce, pairs = REDUCE_OF[aggr], where.pairs
    over_rows, over_columns, diagonal = rank2_reduce(rows, pairs, reduce)
    trace, total = (segment_reduce(t, pairs.events, reduce) for t in (diagonal, over_rows))
    counts = _counts(pairs).unsqueeze(1)
    if reduce != "sum":  # the trace is of T_ij delta_ij, which has zeros where there are two particles
        zeros = trace.clamp(min=0) if reduce == "max" else trace.clamp(max=0)
        trace = torch.where(counts > 1, zeros, trace)
    if aggr == "mean":
        width = (counts if where.self_loops else counts - 1).clamp(min=1)
        of_nodes = width[pairs.events.receiver].to(rows.dtype)
        over_rows, over_columns = over_rows / of_nodes, over_columns / of_nodes
        edges = (counts * width).to(rows.dtype).clamp(min=1)
        trace, total = trace / edges, total / edges
    return torch.cat([diagonal, over_columns, over_rows], 1), torch.cat([trace, total], 1)
