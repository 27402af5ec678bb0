"""Plots the change of logits when jet and beams are boosted together; an invariant network shows none.

python -m bench.boost    writes docs/boost.png
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor

import equikernels as ek
from equikernels import published

JETS = 20
GAMMAS = torch.logspace(0, 3, 13, dtype=torch.float64)


def boost(gamma: Tensor) -> Tensor:
    """Along x, [4, 4]."""
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[0, 0] = matrix[1, 1] = gamma
    matrix[0, 1] = matrix[1, 0] = (gamma * gamma - 1).clamp(min=0).sqrt()
    return matrix


@torch.inference_mode()
def curves() -> dict[str, list[float]]:
    """Largest relative change of a logit at each gamma."""
    sample = ek.data.load_sample_jets()[:JETS]
    x, ptr, is_beam = ek.data.with_beams(sample.p4.double(), sample.ptr)
    scalars = ek.data.top_tagging_scalars(x, is_beam).float()
    torch.manual_seed(0)
    ours = ek.models.LorentzNet(2, 72, c_weight=5e-3, readout="padded_mean").eval()
    theirs = published.LorentzNet(2, 72, c_weight=5e-3).eval()
    theirs.load_state_dict(ours.state_dict())

    def eager(x: Tensor) -> Tensor:
        return theirs(*published.LorentzNet.padded_inputs(x.float(), scalars, ptr))

    ways = {
        "equikernels, float64 coordinates, float32 features": lambda x: ours(x, scalars, ptr),
        "equikernels, float32": lambda x: ours(x.float(), scalars, ptr),
        "published formula, eager float32": eager,
    }
    result: dict[str, list[float]] = {}
    for name, way in ways.items():
        at_rest = way(x)
        scale = at_rest.abs().max()
        result[name] = [((way(x @ boost(g).T) - at_rest).abs().max() / scale).item() for g in GAMMAS]
    return result


def main() -> None:
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for (name, values), marker in zip(curves().items(), "osv", strict=True):
        axes.loglog(GAMMAS, [max(v, 1e-9) for v in values], marker=marker, label=name)
        print(name, " ".join(f"{v:.1e}" for v in values))
    axes.set_xlabel("Lorentz factor of a joint boost of jet and beams")
    axes.set_ylabel("largest change of a logit / largest logit")
    axes.set_title(f"LorentzNet (h 72, L 6, seeded weights), {JETS} jets", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(Path(__file__).parents[1] / "docs" / "boost.png", dpi=130)


if __name__ == "__main__":
    main()
