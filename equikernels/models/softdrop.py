"""An IRC-safe, Lorentz-invariant number of particles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..graph import Graph

Matrix = npt.NDArray[np.float64]


@torch.no_grad()
def softdrop_multiplicity(
    dots: Tensor, pairs: Graph, *, zcut: float = 0.005, beta: float = -1.0, radius: float = 0.8, eps: float = 1e-7
) -> Tensor:
    r"""Counts the hard splittings of every jet (arXiv 1704.06266), with energies and angles of its rest frame.

    Particles are clustered, the closest pair first, by :math:`\theta_{ij}^2 = 2 d_{ij} / (\epsilon + |E_i E_j|)`. Of
    the splittings along the harder branch those with

    .. math:: \min(E_i, E_j) / (E_i + E_j) > z_{cut} (\theta^2 / R^2)^{\beta / 2}

    count.

    The time grows with the cube of the number of particles, in NumPy on the CPU, one jet at a time: a CUDA tensor is
    copied. It has no derivative.

    Args:
        dots: [n_pairs, 1], p_i . p_j.
        pairs: their graph.

    Returns:
        int64 [n_events].
    """
    values, first = dots.flatten().double().cpu().numpy(), 0
    counts = []
    for n in pairs._ptr.diff().tolist():
        jet = values[first : first + n * n].reshape(n, n)
        counts.append(_splittings(jet, zcut, beta, radius, eps) if n > 1 else 0)
        first += n * n
    return torch.tensor(counts, dtype=torch.int64, device=dots.device)


def _splittings(dots: Matrix, zcut: float, beta: float, radius: float, eps: float) -> int:
    dots = dots.copy()
    energy = dots.sum(1)  # times the mass of the jet
    mass2 = energy.sum()
    splittings = np.zeros(len(dots), dtype=np.int64)  # along the harder branch of each cluster
    alive = np.arange(len(dots))
    while len(alive) > 1:
        products = np.outer(energy[alive], energy[alive])
        theta2 = 2 * dots[np.ix_(alive, alive)] / (eps + np.abs(products / mass2 if mass2 > 0 else products))
        np.fill_diagonal(theta2, np.inf)
        a, b = divmod(int(theta2.argmin()), len(alive))
        angle2 = float(theta2[a, b])
        if energy[alive[a]] > energy[alive[b]]:
            a, b = b, a
        soft, hard = alive[a], alive[b]
        total = energy[soft] + energy[hard]
        if angle2 <= 0:
            splittings[hard] = 0
        elif energy[soft] > total * zcut * (angle2 / radius**2) ** (beta / 2):
            splittings[hard] += 1
        energy[hard] = total
        merged = dots[soft] + dots[hard]
        dots[hard], dots[:, hard] = merged, merged
        alive = np.delete(alive, a)
    return int(splittings[alive[0]])
