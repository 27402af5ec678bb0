"""PELICAN's aggregators: the 15 maps from rank 2 to rank 2, the 5 to rank 1, the 2 to rank 0, the 5 from rank 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...checks import check_integer, check_tensor, fail
from ...graph import Graph
from ..common import promote, stored_as
from ..segment import segment_reduce
from .op import Pairs, broadcast_table, check_rank2, check_weight, pairs_of, reduce_table, spread_events
from .reference import transposed

AGGREGATE_2TO2, AGGREGATE_2TO1 = "aggregate_2to2", "aggregate_2to1"
AGGREGATE_2TO0, AGGREGATE_1TO2 = "aggregate_2to0", "aggregate_1to2"
REDUCE_OF = {"s": "sum", "m": "sum", "x": "max", "n": "min"}

Alphas = Sequence[Tensor] | None


@dataclass
class Aggregation:
    """How sums, means and extrema are normalised, for one batch."""

    pairs: Graph
    letters: list[tuple[str, Tensor | None]]  # lower case, with alpha [C, k] for a letter given in upper case
    nbar: float
    nobj: Tensor  # [n_events], at least 1
    raw_nobj: Tensor  # the same, in the dtype it was given in
    weight: Tensor | None
    padded_to: int | None
    affine: tuple[Tensor, Tensor] | None = None  # scale, shift [C]: of scale T + shift; with sums alone
    made: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

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
            total = total / (self.nobj[:, None] if letter == "m" else self.nbar)
        return self.normalise(torch.stack([trace, total], dim=1), letter)

    def reduced(self, T: Tensor, reduce: str) -> tuple[Tensor, Tensor]:
        """Diagonal, columns and rows [n, 3, C], trace and total [n_events, 2, C]: of T itself, not normalised."""
        if reduce not in self.made:
            table = reduce_table(T, self.pairs, reduce, self.weight)
            self.made[reduce] = table, self.over_event(table, reduce)[:, ::2]
        return self.made[reduce]

    def count(self, like: Tensor) -> Tensor:
        """[n_events, 1]: particles that count in a sum, by their weights."""
        if self.weight is not None:
            return segment_reduce(self.weight[:, None], self.pairs.events, "sum")
        ptr = self.pairs.ptr
        assert ptr is not None
        return ptr.diff().to(like.dtype)[:, None]

    def of_particles(self, x: Tensor, letter: str) -> Tensor:
        """[n_events, C] of a rank-1 tensor."""
        total = self.over_event(x[:, None], REDUCE_OF[letter])
        return self.normalise(total, letter).squeeze(1)

    def diagonal(self, T: Tensor) -> Tensor:
        """[n, C]"""
        if not self.made:
            self.reduced(T, REDUCE_OF[self.letters[0][0]])
        diagonal = next(iter(self.made.values()))[0][:, 0]
        return diagonal if self.affine is None else torch.addcmul(self.affine[1], diagonal, self.affine[0])

    def over_event(self, values: Tensor, reduce: str) -> Tensor:
        """[n_events, k, C] from [n, k, C]."""
        if reduce == "sum" and self.weight is not None:
            values = values * self.weight[:, None, None]
        _, k, width = values.shape
        return segment_reduce(values.reshape(-1, k * width), self.pairs.events, reduce).view(-1, k, width)

    def normalise(self, values: Tensor, letter: str, spread: bool = False) -> Tensor:
        """[n or n_events, k, C], over one index."""
        if letter == "s":
            return values / self.nbar
        event = self.pairs.events.receiver
        # of integers torch takes the logarithm in its default dtype
        nobj = self.nobj if letter == "m" else self.raw_nobj.log().to(values.dtype)
        nobj = (nobj[event] if spread else nobj)[:, None, None]
        if letter == "m":
            return values / nobj
        if self.padded_to is not None:  # the zeros of the padding take part
            assert self.pairs.ptr is not None
            short = self.pairs.ptr.diff() < self.padded_to
            short = (short[event] if spread else short)[:, None, None]
            with_zero = values.clamp(min=0) if letter == "x" else values.clamp(max=0)
            values = torch.where(short, with_zero, values)
        return values - nobj if letter == "x" else values + nobj

    def factors(self, alpha: Tensor) -> Tensor:
        """(nobj / nbar)^alpha, [n_events, k, C]."""
        return (alpha.t() * (self.nobj / self.nbar).log()[:, None, None]).exp()

    def sum_factors(self, T: Tensor) -> Tensor:
        """[n_events, 10, C]: what plain sums are multiplied by in maps 6 to 15, with one summed letter."""
        letter, alpha = self.letters[0]
        norm = self.nobj if letter == "m" else torch.full_like(self.nobj, self.nbar)
        once, twice = norm.reciprocal(), norm.square().reciprocal()
        powers = torch.cat([once.expand(8, -1), twice.expand(2, -1)]).t()[:, :, None]
        return (powers if alpha is None else powers * self.factors(alpha)).expand(-1, 10, T.shape[1])

    def to_pairs(self, T: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each letter, ops 6 to 11 as [n, (cols, rows), (diagonal, column, row), C] and ops 12 to 15 as
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


def aggregate_2to2(
    T: Tensor,
    ptr: Pairs,
    *,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Alphas = None,
    weight: Tensor | None = None,
    nobj: Tensor | None = None,
    padded_to: int | None = None,
) -> Tensor:
    r"""The 15 permutation-equivariant maps of a rank-2 tensor, as they are: 15 times the memory of T.

    :func:`linear_2to2` gives what a layer makes of them without making them. With R_i, C_j, Tr and S the aggregates
    over rows, columns, the diagonal and all pairs, they are, in order,

    .. math:: T_{ij}, T_{ji}, \delta_{ij} T_{ii}, T_{jj}, T_{ii}, \delta_{ij} C_i, C_j, C_i, \delta_{ij} R_i, R_j, R_i,
              \mathrm{Tr}, \delta_{ij} \mathrm{Tr}, S, \delta_{ij} S

    PELICAN, arXiv 2307.16506, section 3.2.

    Args:
        T: [n_pairs, C] float32 or float64, pairs row-major inside each event.
        ptr: as in :func:`rank2_reduce`.
        config: letters, one an aggregation: "s" sum / nbar, "m" sum / nobj (both once per summed index), "x" max -
            ln nobj, "n" min + ln nobj. An upper-case letter multiplies by (nobj / nbar)^alpha. The first letter makes
            15 maps, each further one maps 6 to 15 again.
        nbar: average number of particles of an event.
        alphas: for each upper-case letter in order, [C, 10] or a shape with as many entries, as (1, C, 10, 1, 1).
        weight: [n], multiplies every summand of particle i, for "s", "m", "S" and "M" (IRC safety).
        nobj: [n_events], what stands for the number of particles; their number by default. Of integers torch takes the
            logarithm in its default dtype.
        padded_to: for max and min, also see the zeros that padding every event to this length brings, as the published
            code does.

    Returns:
        [n_pairs, C, 15 + 10 (len(config) - 1)].

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    op = AGGREGATE_2TO2
    T = check_rank2(op, T)
    pairs = pairs_of(op, ptr, T, T.shape[0], None if weight is None else weight.shape[0])
    how = aggregation(op, T, pairs, config, nbar, alphas, 10, weight, nobj, padded_to)
    diag = how.diagonal(T)
    ops = [T, T[transposed(pairs)], *(_place(diag, slot, pairs) for slot in range(3))]
    for nodes, events in how.to_pairs(T):
        nodes, events = nodes.expand(-1, 2, 3, -1), events.expand(-1, 2, 2, -1)
        ops += [_place(nodes[:, side, slot], slot, pairs) for side in range(2) for slot in range(3)]
        spread = [[spread_events(events[:, k, slot], pairs) for slot in range(2)] for k in range(2)]
        ops += [_place(spread[k][slot], 0 if slot else 2, pairs) for k in range(2) for slot in range(2)]
    return torch.stack(ops, dim=-1)


def aggregate_2to1(
    T: Tensor,
    ptr: Pairs,
    *,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Alphas = None,
    weight: Tensor | None = None,
    nobj: Tensor | None = None,
    padded_to: int | None = None,
) -> Tensor:
    """The 5 maps T_ii, R_i, C_i, Tr, S of a rank-2 tensor to particles, [n, C, 5].

    Arguments as in :func:`aggregate_2to2`, but config is one letter, and an upper-case one takes alphas ([C, 5],) for
    all five maps.
    """
    op = AGGREGATE_2TO1
    T = check_rank2(op, T)
    pairs = pairs_of(op, ptr, T, T.shape[0], None if weight is None else weight.shape[0])
    how = aggregation(op, T, pairs, config, nbar, alphas, 5, weight, nobj, padded_to, one_letter=True)
    nodes, events = basis_2to1(T, how)
    width = T.shape[1]
    spread = spread_events(events.reshape(-1, 2 * width), pairs).view(-1, 2, width)
    return torch.cat([nodes, spread], dim=1).transpose(1, 2)


def basis_2to1(T: Tensor, how: Aggregation) -> tuple[Tensor, Tensor]:
    """Maps 1 to 3 as [n, 3, C], maps 4 and 5 as [n_events, 2, C]."""
    letter, alpha = how.letters[0]
    sides, events = how.to_particles(T, letter)
    nodes = torch.stack([how.diagonal(T), sides[:, 1], sides[:, 0]], dim=1)
    if alpha is None:
        return nodes, events
    f, width = how.factors(alpha), T.shape[1]
    return nodes * spread_events(f[:, :3].reshape(-1, 3 * width), how.pairs).view(-1, 3, width), events * f[:, 3:]


def aggregate_2to0(
    T: Tensor,
    ptr: Pairs,
    *,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Alphas = None,
    weight: Tensor | None = None,
    nobj: Tensor | None = None,
    padded_to: int | None = None,
) -> Tensor:
    """The 2 maps S, Tr of a rank-2 tensor to events, for each letter of config: [n_events, C, 2 len(config)].

    Arguments as in :func:`aggregate_2to2`; an upper-case letter takes an alpha [C, 2].
    """
    op = AGGREGATE_2TO0
    T = check_rank2(op, T)
    pairs = pairs_of(op, ptr, T, T.shape[0], None if weight is None else weight.shape[0])
    how = aggregation(op, T, pairs, config, nbar, alphas, 2, weight, nobj, padded_to)
    return basis_2to0(T, how)


def basis_2to0(T: Tensor, how: Aggregation) -> Tensor:
    ops = []
    for letter, alpha in how.letters:
        events = how.to_events(T, letter).flip(1)
        ops.append(events if alpha is None else events * how.factors(alpha))
    return torch.cat(ops, dim=1).transpose(1, 2)


def aggregate_1to2(
    x: Tensor,
    ptr: Pairs,
    *,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Alphas = None,
    weight: Tensor | None = None,
    nobj: Tensor | None = None,
    padded_to: int | None = None,
) -> Tensor:
    r"""The 5 maps of particles x [n, C] to pairs, [n_pairs, C, 5]:

    .. math:: \delta_{ij} x_i, x_j, x_i, \delta_{ij} \mathrm{Sum}, \mathrm{Sum}, \quad \mathrm{Sum} = \mathrm{agg}_i x_i

    Further arguments as in :func:`aggregate_2to1`.
    """
    op = AGGREGATE_1TO2
    x, pairs = check_rank1(op, x, ptr)
    how = aggregation(op, x, pairs, config, nbar, alphas, 5, weight, nobj, padded_to, one_letter=True)
    nodes, events = basis_1to2(x, how)
    spread = spread_events(events.reshape(-1, 2 * x.shape[1]), pairs).view(-1, 2, x.shape[1])
    slots = ((nodes, 0, 0), (nodes, 1, 1), (nodes, 2, 2), (spread, 0, 0), (spread, 1, 2))
    return torch.stack([_place(t[:, k], slot, pairs) for t, k, slot in slots], dim=-1)


def basis_1to2(x: Tensor, how: Aggregation) -> tuple[Tensor, Tensor]:
    """x for the diagonal, columns and rows, [n, 3, C]; the sum for the diagonal and everywhere, [n_events, 2, C]."""
    letter, alpha = how.letters[0]
    nodes = x[:, None].expand(-1, 3, -1)
    events = how.of_particles(x, letter)[:, None].expand(-1, 2, -1)
    if alpha is None:
        return nodes, events
    f, width = how.factors(alpha), x.shape[1]
    return nodes * spread_events(f[:, :3].reshape(-1, 3 * width), how.pairs).view(-1, 3, width), events * f[:, 3:]


def check_rank1(op: str, x: Tensor, ptr: Pairs) -> tuple[Tensor, Graph]:
    x = promote(op, "x", x)
    check_tensor(op, "x", x, ["n", "C"], stored_as(x))
    pairs = pairs_of(op, ptr, x, None, x.shape[0])
    if pairs.num_nodes != x.shape[0]:
        fail(op, "x", f"{pairs.num_nodes} rows, one per particle", x.shape[0])
    return x, pairs


def aggregation(
    op: str,
    like: Tensor,
    pairs: Graph,
    config: str,
    nbar: float,
    alphas: Alphas,
    maps: int,
    weight: Tensor | None,
    nobj: Tensor | None,
    padded_to: int | None,
    one_letter: bool = False,
) -> Aggregation:
    """Checks what all aggregators take; ``maps`` is the number of alphas of a channel."""
    if not config or any(letter.lower() not in REDUCE_OF for letter in config):
        fail(op, "config", "letters from smxnSMXN", repr(config))
    if one_letter and len(config) != 1:
        fail(op, "config", "one letter", repr(config))
    if not nbar > 0:
        fail(op, "nbar", "a number > 0", nbar)
    if padded_to is not None:
        padded_to = check_integer(op, "padded_to", padded_to, "a number >= 0 or None", 0)
    upper = [letter for letter in config if letter.isupper()]
    given = list(alphas or ())
    if len(given) != len(upper):
        fail(op, "alphas", f"{len(upper)} tensors, one per upper-case letter of config", len(given))
    width = like.shape[1]
    for k, alpha in enumerate(given):
        given[k] = promote(op, f"alphas[{k}]", alpha)
        check_tensor(op, f"alphas[{k}]", given[k], like=like)
        if alpha.numel() != width * maps:
            fail(op, f"alphas[{k}]", f"shape [{width}, {maps}]", list(alpha.shape))
    weight = check_weight(op, weight, pairs, like)
    if weight is not None and any(letter in "xnXN" for letter in config):
        fail(op, "weight", "none with max and min", f"a tensor with config={config!r}")
    if nobj is None:
        ptr = pairs.ptr
        assert ptr is not None
        nobj = (ptr[1:] - ptr[:-1]).to(like.dtype)
    else:
        check_tensor(op, "nobj", nobj, [pairs.table.shape[0] // 2 - 1])
        if nobj.device != like.device:
            fail(op, "nobj", f"device {like.device}", nobj.device)
    nobj = nobj.clamp(min=1)
    rest = iter(given)
    letters = [(c.lower(), next(rest).reshape(width, maps) if c.isupper() else None) for c in config]
    return Aggregation(pairs, letters, nbar, nobj.to(like.dtype), nobj, weight, padded_to)


def _place(values: Tensor, slot: int, pairs: Graph) -> Tensor:
    """[n_pairs, C]: values [n, C] on the diagonal (slot 0), down columns (1) or along rows (2)."""
    zeros = torch.zeros_like(values)
    return broadcast_table(torch.stack([values if k == slot else zeros for k in range(3)], dim=1), pairs)
