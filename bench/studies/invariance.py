"""How far LorentzNet's logits are from being invariant when jet and beams are boosted together, by precision."""

from __future__ import annotations

import torch
from torch import Tensor

import equikernels as ek
from equikernels import published
from equikernels.data import load_sample_jets, top_tagging_scalars, with_beams

JETS = 20
GAMMAS = tuple(10 ** (k / 4) for k in range(13))
KINDS = ("float64 coordinates, float32 features", "float32", "published formula, eager float32")


def boost(beta: float) -> Tensor:
    """Along x, [4, 4], float64: (E, px) -> gamma (E - beta px, px - beta E)."""
    return boost_of(1 / (1 - beta * beta) ** 0.5)


def boost_of(gamma: float) -> Tensor:
    """The same by the Lorentz factor."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 0] = matrix[1, 1] = gamma
    matrix[0, 1] = matrix[1, 0] = -((gamma * gamma - 1) ** 0.5)
    return matrix


@torch.inference_mode()
def changes(seed: int) -> dict[str, list[float]]:
    """Largest change of a logit over the largest logit, at each of GAMMAS, of a network with seeded weights (h 72, L 6)
    on sample jets; scalars are those at rest."""
    jets = load_sample_jets()[:JETS]
    x, ptr, is_beam = with_beams(jets.p4.double(), jets.ptr)
    scalars = top_tagging_scalars(x, is_beam).float()
    torch.manual_seed(seed)
    ours = ek.models.LorentzNet(2, 72, c_weight=5e-3, readout="padded_mean").eval()
    theirs = published.LorentzNet(2, 72, c_weight=5e-3).eval()
    theirs.load_state_dict(ours.state_dict())
    ways = (
        lambda x: ours(x, scalars, ptr),
        lambda x: ours(x.float(), scalars, ptr),
        lambda x: theirs(*published.LorentzNet.padded_inputs(x.float(), scalars, ptr)),
    )
    found: dict[str, list[float]] = {}
    for kind, way in zip(KINDS, ways, strict=True):
        rest = way(x)
        scale = rest.abs().max()
        found[kind] = [((way(x @ boost_of(gamma).T) - rest).abs().max() / scale).item() for gamma in GAMMAS]
    return found
