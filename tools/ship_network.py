"""Makes a network of the package of a training's output folder.

python tools/ship_network.py FOLDER NAME
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

from equikernels.pretrained import FOLDER

HERE = Path(__file__).parents[1] / "equikernels" / FOLDER
CARD = """# {name}

{network}, {parameters:,} parameters, for telling jets of top quarks from those of light quarks and gluons.

Trained on 20,000 jets of **our own simulation, not comparable with the literature**: the recipe of the Top Quark
Tagging Reference Dataset (arXiv 1902.09914) with a parametrised detector; these jets are easier. anti-kT R = 0.8,
550 < pT < 650 GeV, |eta| < 2.

| on 8,000 other jets | |
|---|---|
| accuracy | {accuracy:.4f} |
| AUC | {auc:.4f} |
| 1/eps_B at eps_S = 0.3 | {rejection:.0f} +- {error:.0f} ({passed:.0f} background jets pass) |

Seed {seed}, {epochs} epochs; the configuration is in {name}.json.

{about}

Use it to try the package, not in an analysis: nothing is known of its systematic uncertainties, of pile-up, or of
other generators and detectors.
"""
ABOUT = {
    "LorentzNet": """Inputs: constituents (E, px, py, pz) in GeV with two beams, masses through psi
(`ek.data.with_beams`, `ek.data.top_tagging_scalars`). The published clamp of coordinate steps at 100 GeV acts in it,
so that its logits are not exactly invariant: a boost of gamma 1.25 moves those of twelve sample jets by up to 0.14
(without the clamp by 3e-13).""",
    "PELICAN": """Inputs: constituents (E, px, py, pz) in GeV, best in float64; the network adds the vectors t and z
itself. Its logits are invariant under rotations about the beam and permutations of the constituents, to rounding.""",
}


def main(folder: Path, name: str) -> None:
    report = json.loads((folder / "report.json").read_text())
    state = torch.load(folder / "best.ckpt", map_location="cpu", weights_only=True)["state_dict"]
    arrays = {key.removeprefix("network."): value.numpy() for key, value in state.items()}
    HERE.mkdir(exist_ok=True)
    np.savez_compressed(HERE / f"{name}.npz", **arrays)
    config = report["config"]
    for part in ("train", "validation", "test"):  # files of the machine that trained it
        config["data"][part] = None
    test = report["test"]
    kept = ("parameters", "epochs", "torch", "version")
    card = {"config": config, **{key: report[key] for key in kept}, "test": test}
    (HERE / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n")
    text = CARD.format(
        name=name,
        network=config["network"],
        parameters=report["parameters"],
        accuracy=test["accuracy"],
        auc=test["auc"],
        rejection=test["rejection_0.3"],
        error=test["rejection_0.3_error"],
        passed=test["rejection_0.3_passed"],
        seed=config["training"]["seed"],
        epochs=report["epochs"],
        about=ABOUT[config["network"]],
    )
    (HERE / f"{name}.md").write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
