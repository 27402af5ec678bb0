"""What PELICAN sees of an event: which subgroup of the Lorentz group it keeps, and the rank-2 inputs that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..graph import Graph
from ..ops.invariants import pairwise_invariants
from ..ops.pairs import rank2_products, rank2_reduce, spread_events
from ..ops.segment import segment_reduce
from ..packing import prepend

Vector = tuple[int, int, int, int]
MASSLESS = 1e-12  # squared mass of a jet over squared energy: float32 rounds directions to 1e-7
E, X, Y, Z = (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)


class Stabilizer(NamedTuple):
    """One way to break the symmetry, arXiv 2307.16506."""

    spurions: tuple[Vector, ...] = ()  # the vectors that are kept fixed, shown to the network as particles
    functionals: tuple[Vector, ...] = ()  # or: inputs a(p_i) a(p_j) for each a, a covector on (E, px, py, pz),
    dot: bool = True  # and p_i . p_j
    through_dot: bool = False  # the first product is p_i . p_j plus all others: see input_weights
    parts: tuple[tuple[int, ...], ...] = ((0, 1, 2, 3),)  # components that transform among themselves


AXES = ((0,), (1,), (2,), (3,))
STABILIZERS = {
    "so13": Stabilizer(),
    "so3": Stabilizer((E,), (E,), parts=((0,), (1, 2, 3))),
    "so12": Stabilizer((Z,), (Z,), parts=((0, 1, 2), (3,))),
    "se2": Stabilizer(((1, 0, 0, -1),), ((1, 0, 0, -1),), parts=((0, 1, 2, 3), ())),  # see projections
    "so2": Stabilizer((E, Z), (E, Z), parts=((0,), (1, 2), (3,))),
    "so2_0": Stabilizer(((1, 0, 0, 1), (1, 0, 0, -1)), ((1, 0, 0, 1), (1, 0, 0, -1)), parts=((0,), (1, 2), (3,))),
    "R": Stabilizer((X, Y), (X, Y), parts=((0, 3), (1,), (2,))),
    "1": Stabilizer((E, X, Y, Z), (E, X, Y, Z), dot=False, through_dot=True, parts=AXES),
    "11": Stabilizer((E, X, Y, Z), (E, X, Y, Z), parts=AXES),
    "1_0": Stabilizer(
        ((1, 0, 0, 1), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, -1)),
        ((1, 0, 0, 1), (1, -1, 0, 0), (1, 0, -1, 0), (1, 0, 0, -1)),
        dot=False,
        parts=AXES,
    ),
    "11_0": Stabilizer(
        ((1, 0, 0, 1), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, -1)),
        ((1, 0, 0, 1), (1, 1, 0, 0), (1, 0, 1, 0), (1, 0, 0, -1)),
        parts=AXES,
    ),
}


_made: dict[tuple[Any, ...], Tensor] = {}


def constant(values: Sequence[Any], like: Tensor) -> Tensor:
    """Nested tuples as a tensor of the dtype and device of another, made on first use and kept.

    A buffer that no state dict holds would be lost where a network is made on the meta device, and rounded where it is
    cast.
    """
    if torch.compiler.is_compiling():
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    key = values, like.dtype, like.device
    if key not in _made:
        with torch.inference_mode(False):
            made = torch.tensor(values, dtype=like.dtype, device=like.device)
        if type(made) is not Tensor:  # a fake one
            return made
        _made[key] = made
    return _made[key]


def first_weights(width: int, stabilizer: Stabilizer) -> Tensor:
    """[width, q]: with these every stabilizer starts from p_i . p_j alone (without it, from what comes closest)."""
    if stabilizer.dot:
        row = [0.0] * len(stabilizer.functionals) + [1.0]
    else:
        row = [1.0, -1.0, -1.0, -1.0]
    return torch.tensor(row).repeat(width, 1)


def projections(name: str, compat: bool) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """[w, 4, 4], acting on columns (E, px, py, pz): the covariant linear maps a weight each is learned for."""
    if compat and name in ("1", "1_0"):
        out = np.tile(np.eye(4), (4, 1, 1))
    elif name == "se2" and compat:
        out = np.zeros((2, 4, 4))
        out[0, 0, 3] = out[0, 3, 3] = 1
        out[1] = np.diag([1, 1, 1, 0])
        out[1, 0, 3] = out[1, 3, 0] = -1
    elif name == "se2":
        # n (n . p) for n = (1, 0, 0, 1), which the group keeps
        out = np.stack([np.eye(4), np.outer([1, 0, 0, 1], [1, 0, 0, -1])])
    else:
        out = np.zeros((len(STABILIZERS[name].parts), 4, 4))
        for w, part in enumerate(STABILIZERS[name].parts):
            out[w, part, part] = 1
    return tuple(tuple(map(tuple, matrix)) for matrix in out.tolist())


def labelled(
    p4: Tensor,
    scalars: Tensor | None,
    pairs: Graph,
    spurions: Sequence[Vector],
    spurion_weight: Tensor | None,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor | None, Graph]:
    """Spurions before the particles of each event, and labels that tell them apart behind the scalars.

    Args:
        p4: [n, 4] four-momenta.
        scalars: [n, s]; spurions have none.
        pairs: of the particles.
        spurions: k vectors.
        spurion_weight: [k], what they count in sums over particles; None: as a particle.
        dtype: of the labels.

    Returns:
        (p4 [n + k n_events, 4], scalars [n + k n_events, s + 1 + k], what each counts or None, their pairs).
    """
    labels = torch.eye(len(spurions) + 1, dtype=dtype, device=p4.device)
    known, added = labels[:1].expand(p4.shape[0], -1), labels[1:]
    if scalars is not None:
        known = torch.cat([scalars, known], dim=1)
        added = torch.cat([scalars.new_zeros(len(spurions), scalars.shape[1]), added], dim=1)
    if not spurions:
        return p4, known, None, pairs
    parts = [(p4, constant(spurions, p4)), (known, added)]
    if spurion_weight is not None:
        parts.append((known.new_ones(p4.shape[0], 1), spurion_weight[:, None]))
    (p4, known, *weight), pairs = prepend(pairs, *parts)
    return p4, known, weight[0].squeeze(1) if weight else None, pairs


def rank2_inputs(p4: Tensor, pairs: Graph, stabilizer: Stabilizer) -> Tensor:
    """[n_pairs, q]: a(p_i) a(p_j) for each functional, then p_i . p_j; with ``through_dot`` that replaces the first."""
    functionals = stabilizer.functionals[stabilizer.through_dot :]
    channels = []
    if functionals:
        values = p4 @ constant(functionals, p4).t()
        j, i = pairs._edges
        channels.append(values[i] * values[j])
    if stabilizer.dot or stabilizer.through_dot:
        channels.append(rank2_products(p4, pairs))
    if stabilizer.through_dot:
        channels.reverse()
    return channels[0] if len(channels) == 1 else torch.cat(channels, dim=1)


def input_weights(weight: Tensor, stabilizer: Stabilizer) -> Tensor:
    """The weights [width, q] of :func:`rank2_inputs`, from those of the products.

    W_E E_i E_j - ... would lose the mass of a light particle: E_i E_j is taken as p_i . p_j and the rest.
    """
    if not stabilizer.through_dot:
        return weight
    return torch.cat([weight[:, :1], weight[:, 1:] + weight[:, :1]], dim=1)


def jet_frame(dots: Tensor, pairs: Graph, eps: float = 1e-12) -> tuple[Tensor, Tensor]:
    r"""IRC-safe inputs of massless particles, from d_ij = p_i . p_j [n_pairs, 1].

    .. math:: w_i = \frac{\sum_j d_{ij}}{\sum_{jk} d_{jk}}, \quad
              r_{ij} = \frac{2 d_{ij}}{\epsilon + \sum_k d_{ik} \sum_k d_{jk} / \sum_{kl} d_{kl}}

    w_i is the share of the jet's energy, r_ij = 2 (1 - cos theta_ij), both in the frame where the jet is at rest. A jet
    without mass has no such frame: w is 0 there.

    Returns:
        (w [n], r [n_pairs, 1]).
    """
    energy = rank2_reduce(dots, pairs)[0]  # times the mass of the jet
    weight = _shares(energy, pairs)
    j, i = pairs._edges
    angles = 2 * dots / (eps + energy[i] * weight[j])
    return weight.squeeze(1), angles


def strict_jet_frame(p4: Tensor, pairs: Graph, eps: float = 1e-12) -> tuple[Tensor, Tensor, Tensor]:
    r"""The same, safe whatever the rounding of four-momenta: particles are massless, their energies |p|.

    The product of two particles is formed from their directions n,

    .. math:: d_{ij} = |p_i| |p_j| \frac{|n_i - n_j|^2}{2}

    so that the error of a direction enters squared, and d_ii is 0. A jet of a squared mass below 1e-12 E^2, whose
    particles all go the same way to float32's rounding, is what one particle is: w is the share of the energy, d and r
    are 0. (The formula itself has another limit there: two particles are back to back in their rest frame, however
    small the angle between them.)

    Returns:
        (w [n], r [n_pairs, 1], d [n_pairs, 1]), float64.
    """
    p = p4[:, 1:].double()
    square = p.square().sum(1, keepdim=True)
    moves = square > 0
    momentum = torch.where(moves, torch.where(moves, square, 1.0).sqrt(), 0.0)
    direction = p / torch.where(moves, momentum, 1.0)
    dots = pairwise_invariants(direction, pairs, metric="euclidean", psi=False)[:, :1] / 2
    j, i = pairs._edges
    dots = dots * momentum[i] * momentum[j]
    total = segment_reduce(momentum, pairs.events, "sum")
    mass2 = segment_reduce(rank2_reduce(dots, pairs)[0], pairs.events, "sum")
    massive = spread_events((mass2 > MASSLESS * total.square()).to(dots.dtype), pairs) > 0
    dots = torch.where(massive[i], dots, 0.0)
    energy = rank2_reduce(dots, pairs)[0]
    weight = torch.where(massive, _shares(energy, pairs), _shares(momentum, pairs))
    angles = 2 * dots / (eps + energy[i] * weight[j])
    return weight.squeeze(1), angles, dots


def _shares(energy: Tensor, pairs: Graph) -> Tensor:
    """What each particle has of its event's; nothing where that has none."""
    total = spread_events(segment_reduce(energy, pairs.events, "sum"), pairs)
    return torch.where(total > 0, energy / torch.where(total > 0, total, 1.0), 0.0)
