"""How far EuclidNet's points are from being covariant under rotations about the beam: figure B1 of arXiv 2304.05293."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

import equikernels as ek
from equikernels.data import HitGraph

TURNS = tuple(12 + 17 * k for k in range(10))  # degrees; no multiples of a right angle, whose rotations do not round


@torch.inference_mode()
def violations(graphs: Sequence[HitGraph], seed: int, dtype: torch.dtype) -> dict[str, list[float]]:
    """How far phi(R x) is from R phi(x), phi being the points of a network with seeded weights, at each of TURNS.

    distance: max over graphs of |phi(R x) - R phi(x)| / |R phi(x)|. ratio: the paper's
    (<phi(R x)> - <R phi(x)>) / <R phi(x)>, which cancellation can make arbitrarily small or large.
    """
    torch.manual_seed(seed)
    model = ek.models.EuclidNet(8, c_weight=1.0).to(dtype)  # seeded weights move points by their own size
    largest, ratio = [], []
    for degrees in TURNS:
        turn = turn_of(degrees)
        moved, expected = [], []
        for graph in graphs:
            x = graph.cartesian.double()
            turned = torch.cat([x[:, :2] @ turn.T, x[:, 2:]], dim=1)
            moved.append(points(model, turned.to(dtype), graph))
            expected.append(points(model, x.to(dtype), graph) @ turn.to(dtype).T)
        distances = [((m - e).norm() / e.norm()).item() for m, e in zip(moved, expected, strict=True)]
        means = [torch.cat(found).mean(0) for found in (moved, expected)]
        largest.append(max(distances))
        ratio.append(((means[0] - means[1]) / means[1]).abs().max().item())
    return {"distance": largest, "ratio": ratio}


def points(model: ek.models.EuclidNet, x: Tensor, graph: HitGraph) -> Tensor:
    found: Tensor = model.rounds(*model.embed(x, graph.graph)[:4])[1]
    return found


def turn_of(degrees: float) -> Tensor:
    """[2, 2], float64."""
    angle = math.radians(degrees)
    return torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
