"""How PELICAN's layers aggregate over particles: what is fixed for a layer, what belongs to a batch, and the sums,
means and extrema of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...checks import check_integer, check_tensor, fail
from ...graph import Graph
from ..common import promote, stored_as
from ..segment import segment_reduce
from .batch import Pairs, pairs_of
from .tables import check_weight, reduce_table, spread_events

REDUCE_OF = {"s": "sum", "m": "sum", "x": "max", "n": "min"}
LETTERS = "smxnSMXN"


class Aggregation(NamedTuple):
    """How a layer aggregates over particles.

    Attributes:
        config: letters, one an aggregation: "s" sum / nbar, "m" sum / nobj (both once per summed index), "x" max -
            ln nobj, "n" min + ln nobj. An upper-case letter multiplies by (nobj / nbar)^alpha. The first letter makes
            all maps of a layer; each further one makes those that are aggregated again (2 -> 2: maps 6 to 15; 2 -> 0:
            both). 2 -> 1 and 1 -> 2 take one letter.
        nbar: average number of particles of an event.
        alphas: for each upper-case letter in order, [C, k] or a shape with as many entries, as (1, C, 10, 1, 1): k is
            10 for 2 -> 2, 5 for 2 -> 1 and 1 -> 2, 2 for 2 -> 0.
        maps: numbers (from 1, rising) of the maps that the coefficients are of; all by default.
        activation: of every map before it is mixed: "identity", "relu" or "leaky_relu".
    """

    config: str = "s"
    nbar: float = 49.0
    alphas: Sequence[Tensor] = ()
    maps: Sequence[int] | None = None
    activation: str = "identity"


class PairBatch(NamedTuple):
    """The pairs of a batch of events, and what is known of its particles.

    Attributes:
        ptr: as in :func:`rank2_reduce`.
        weight: [n], multiplies every summand of particle i, for "s", "m", "S" and "M" (IRC safety).
        nobj: [n_events], used as the number of particles; their number by default. Of integers torch takes the
            logarithm in its default dtype.
        padded_to: for max and min, also include the zeros that padding every event to this length brings, as the
            published code does.
    """

    ptr: Pairs
    weight: Tensor | None = None
    nobj: Tensor | None = None
    padded_to: int | None = None


class Kind(NamedTuple):
    """A linear layer between ranks."""

    op: str
    source: str  # its argument
    maps: int  # of the first letter
    further: int  # of each further one; 0 where config is one letter
    alphas: int  # exponents of a channel

    def all_maps(self, config: str) -> int:
        return self.maps + self.further * (len(config) - 1)


KINDS = {
    "2to2": Kind("linear_2to2", "T", 15, 10, 10),
    "2to1": Kind("linear_2to1", "T", 5, 0, 5),
    "2to0": Kind("linear_2to0", "T", 2, 2, 2),
    "1to2": Kind("linear_1to2", "x", 5, 0, 5),
}


@dataclass
class Aggregates:
    """Sums, means and extrema over one batch, normalised."""

    pairs: Graph
    batch: PairBatch
    how: Aggregation
    like: Tensor  # has the dtype of the tensor that is aggregated
    affine: Tensor | None = None  # (scale, shift) [2, C]: of scale T + shift; with sums alone
    sizes: Tensor | None = None  # see raw_nobj
    made: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def raw_nobj(self) -> Tensor:
        """[n_events], at least 1, in the dtype it was given in."""
        if self.sizes is None:
            nobj = self.batch.nobj
            self.sizes = (self.pairs._ptr.diff().to(self.like.dtype) if nobj is None else nobj).clamp(min=1)
        return self.sizes

    @property
    def nobj(self) -> Tensor:
        return self.raw_nobj.to(self.like.dtype)

    @property
    def letters(self) -> list[tuple[str, Tensor | None]]:
        """In lower case, with alpha [C, k] for a letter given in upper case."""
        rest, width = iter(self.how.alphas), self.like.shape[1]
        return [(c.lower(), next(rest).reshape(width, -1) if c.isupper() else None) for c in self.how.config]

    @property
    def sums_alone(self) -> bool:
        return not self.how.config.strip("smSM")

    def to_particles(self, T: Tensor, letter: str) -> tuple[Tensor, Tensor]:
        """Columns and rows [n, 2, C], trace and total [n_events, 2, C] of a rank-2 tensor."""
        sides = self.reduced(T, REDUCE_OF[letter])[0][:, 1:]
        if self.affine is not None:
            sides = sides * self.affine[0] + spread_events(self.count(T), self.pairs)[:, None] * self.affine[1]
        return self.normalise(sides, letter, spread=True), self.to_events(T, letter)

    def to_events(self, T: Tensor, letter: str) -> Tensor:
        """Trace and total [n_events, 2, C]."""
        reduce = REDUCE_OF[letter]
        trace, total = self.reduced(T, reduce)[1].unbind(1)
        if self.affine is not None:
            scale, shift = self.affine
            count = self.count(T)
            trace, total = trace * scale + count * shift, total * scale + count * count * shift
        if reduce == "sum":
            total = total / (self.nobj[:, None] if letter == "m" else self.how.nbar)
        return self.normalise(torch.stack([trace, total], dim=1), letter)

    def reduced(self, T: Tensor, reduce: str) -> tuple[Tensor, Tensor]:
        """Diagonal, columns and rows [n, 3, C], trace and total [n_events, 2, C]: of T itself, not normalised."""
        if reduce not in self.made:
            table = reduce_table(T, self.pairs, reduce, self.batch.weight)
            self.made[reduce] = table, self.over_event(table, reduce)[:, ::2]
        return self.made[reduce]

    def count(self, like: Tensor) -> Tensor:
        """[n_events, 1]: particles that count in a sum, by their weights."""
        weight = self.batch.weight
        if weight is not None:
            return segment_reduce(weight[:, None], self.pairs.events, "sum")
        return self.pairs._ptr.diff().to(like.dtype)[:, None]

    def of_particles(self, x: Tensor, letter: str) -> Tensor:
        """[n_events, C] of a rank-1 tensor."""
        total = self.over_event(x[:, None], REDUCE_OF[letter])
        return self.normalise(total, letter).squeeze(1)

    def diagonal(self, T: Tensor) -> Tensor:
        """[n, C]"""
        if not self.made:
            self.reduced(T, REDUCE_OF[self.how.config[0].lower()])
        diagonal = next(iter(self.made.values()))[0][:, 0]
        return diagonal if self.affine is None else diagonal * self.affine[0] + self.affine[1]

    def over_event(self, values: Tensor, reduce: str) -> Tensor:
        """[n_events, k, C] from [n, k, C]."""
        weight = self.batch.weight
        if reduce == "sum" and weight is not None:
            values = values * weight[:, None, None]
        _, k, width = values.shape
        return segment_reduce(values.reshape(-1, k * width), self.pairs.events, reduce).view(-1, k, width)

    def normalise(self, values: Tensor, letter: str, spread: bool = False) -> Tensor:
        """[n or n_events, k, C], over one index."""
        if letter == "s":
            return values / self.how.nbar
        event = self.pairs.events.receiver
        # of integers torch takes the logarithm in its default dtype
        nobj = self.nobj if letter == "m" else self.raw_nobj.log().to(values.dtype)
        nobj = (nobj[event] if spread else nobj)[:, None, None]
        if letter == "m":
            return values / nobj
        padded_to = self.batch.padded_to
        if padded_to is not None:  # the zeros of the padding take part
            short = self.pairs._ptr.diff() < padded_to
            short = (short[event] if spread else short)[:, None, None]
            with_zero = values.clamp(min=0) if letter == "x" else values.clamp(max=0)
            values = torch.where(short, with_zero, values)
        return values - nobj if letter == "x" else values + nobj

    def factors(self, alpha: Tensor) -> Tensor:
        """(nobj / nbar)^alpha, [n_events, k, C]."""
        return (alpha.t() * (self.nobj / self.how.nbar).log()[:, None, None]).exp()

    def basis_2to2(self, T: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each letter, maps 6 to 11 as [n, (cols, rows), (diagonal, column, row), C] and maps 12 to 15 as
        [n_events, (trace, total), (everywhere, diagonal), C]; the third dimension is 1 where all its entries agree."""
        out = []
        for letter, alpha in self.letters:
            nodes, events = (t.unsqueeze(2) for t in self.to_particles(T, letter))
            if alpha is not None:
                f = self.factors(alpha)
                width = T.shape[1]
                nodes = nodes * spread_events(f[:, :6].reshape(-1, 6 * width), self.pairs).view(-1, 2, 3, width)
                events = events * f[:, 6:].view(-1, 2, 2, width)
            out.append((nodes, events))
        return out

    def basis_2to1(self, T: Tensor) -> tuple[Tensor, Tensor]:
        """Maps 1 to 3 as [n, 3, C], maps 4 and 5 as [n_events, 2, C]."""
        letter, alpha = self.letters[0]
        sides, events = self.to_particles(T, letter)
        nodes = torch.stack([self.diagonal(T), sides[:, 1], sides[:, 0]], dim=1)
        return self._times_factors(nodes, events, alpha)

    def basis_2to0(self, T: Tensor) -> Tensor:
        """[n_events, C, 2 letters]: of each letter the total and the trace."""
        ops = []
        for letter, alpha in self.letters:
            events = self.to_events(T, letter).flip(1)
            ops.append(events if alpha is None else events * self.factors(alpha))
        return torch.cat(ops, dim=1).transpose(1, 2)

    def basis_1to2(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x for the diagonal, columns, rows, [n, 3, C]; the sum for the diagonal and everywhere, [n_events, 2, C]."""
        letter, alpha = self.letters[0]
        nodes = x[:, None].expand(-1, 3, -1)
        events = self.of_particles(x, letter)[:, None].expand(-1, 2, -1)
        return self._times_factors(nodes, events, alpha)

    def _times_factors(self, nodes: Tensor, events: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
        if alpha is None:
            return nodes, events
        f, width = self.factors(alpha), nodes.shape[2]
        nodes = nodes * spread_events(f[:, :3].reshape(-1, 3 * width), self.pairs).view(-1, 3, width)
        return nodes, events * f[:, 3:]


def aggregates_of(op: str, kind: Kind, source: Tensor, ptr: Pairs | PairBatch, how: Aggregation) -> Aggregates:
    """Checks what a layer, or its maps, are given beside coefficients."""
    check_tensor(op, kind.source, source, ["n" if kind.source == "x" else "n_pairs", "C"], stored_as(source))
    batch = ptr if isinstance(ptr, PairBatch) else PairBatch(ptr)
    weight, nobj, padded_to = batch.weight, batch.nobj, batch.padded_to
    if kind.source == "x":
        pairs = pairs_of(op, batch.ptr, source, None, source.shape[0])
        if pairs.num_nodes != source.shape[0]:
            fail(op, "x", f"{pairs.num_nodes} rows, one per particle", source.shape[0])
    else:
        pairs = pairs_of(op, batch.ptr, source, source.shape[0], None if weight is None else weight.shape[0])
    config = how.config
    if not config or config.strip(LETTERS):
        fail(op, "config", f"letters from {LETTERS}", repr(config))
    if not kind.further and len(config) != 1:
        fail(op, "config", "one letter", repr(config))
    if not how.nbar > 0:
        fail(op, "nbar", "a number > 0", how.nbar)
    if padded_to is not None:
        padded_to = check_integer(op, "padded_to", padded_to, "a number >= 0 or None", 0)
    alphas = _check_alphas(op, kind, how, source) if how.alphas or not config.islower() else ()
    weight = check_weight(op, weight, pairs, source)
    if weight is not None and any(letter in "xnXN" for letter in config):
        fail(op, "weight", "none with max and min", f"a tensor with config={config!r}")
    if nobj is not None:
        check_tensor(op, "nobj", nobj, [pairs._indices.shape[0] // 2 - 1])
        if nobj.device != source.device:
            fail(op, "nobj", f"device {source.device}", nobj.device)
    if alphas or how.alphas:
        how = how._replace(alphas=alphas)
    return Aggregates(pairs, PairBatch(batch.ptr, weight, nobj, padded_to), how, source)


def _check_alphas(op: str, kind: Kind, how: Aggregation, like: Tensor) -> list[Tensor]:
    upper = [letter for letter in how.config if letter.isupper()]
    alphas, width = list(how.alphas), like.shape[1]
    if len(alphas) != len(upper):
        fail(op, "alphas", f"{len(upper)} tensors, one per upper-case letter of config", len(alphas))
    for k, alpha in enumerate(alphas):
        alphas[k] = promote(op, f"alphas[{k}]", alpha)
        check_tensor(op, f"alphas[{k}]", alphas[k], like=like)
        if alpha.numel() != width * kind.alphas:
            fail(op, f"alphas[{k}]", f"shape [{width}, {kind.alphas}]", list(alpha.shape))
    return alphas
