"""LorentzNet, fused, beside top taggers without symmetry: the comparison of times of arXiv 2201.08187, once more.

python -m bench.taggers --out bench/results/taggers.json

Networks differ, so there are no results to compare. As printed there, ms per batch of 100 on an Intel Xeon E5-2698 v4:
PFN 0.6, ParticleNet 11.0 (of 498k parameters; the published architecture has 366k), LorentzNet 32.9.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import equikernels as ek

from . import side_by_side
from .baselines.taggers import PFN, ParticleNet, kinematic_features
from .lorentznet import Sides
from .side_by_side import OURS, interleaved, row

JETS = 100


def measure(threads: int, quick: bool, device: str = "cpu") -> dict[str, Any]:
    torch.set_num_threads(threads)
    sides = Sides(JETS)
    jets = ek.data.load_sample_jets()[:JETS]
    p4, mask = ek.unpack(jets.p4, jets.ptr)
    features, mask = kinematic_features(p4, mask).to(device), mask[:, None].to(device)
    sides.to(device)
    others: dict[str, nn.Module] = {"particlenet": ParticleNet(), "pfn": PFN()}
    rows = []
    for name, network in others.items():
        network = network.to(device).eval()
        inputs = (features, mask) if name == "particlenet" else (features[:, [0, 5, 6]], mask)

        @torch.inference_mode()
        def score(network: nn.Module = network, inputs: Any = inputs) -> None:
            network(*inputs)

        what = f"LorentzNet, forward, {JETS} jets"
        times = interleaved(lambda: sides.forward(OURS), score, (2, 3) if quick else (3, 10), f"{what} / {name}")
        parameters = sum(p.numel() for p in network.parameters())
        rows.append({**row(what, *times, name), "parameters": parameters})
    return {**side_by_side.machine("taggers", threads, device), "rows": rows}


def main() -> None:
    options = side_by_side.parser(__doc__).parse_args()
    side_by_side.write(measure(options.threads, options.quick), options.out)


if __name__ == "__main__":
    main()
