"""LorentzNet, fused, beside top taggers without symmetry: the comparison of times of arXiv 2201.08187, once more.

python -m bench.taggers --out bench/results/taggers.json

Networks differ, so there are no results to compare. TABLE has ms per batch of 100 as printed there, on an Intel Xeon
E5-2698 v4 and a Tesla V100; its ParticleNet has 498k parameters, the published architecture 366k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import equikernels as ek

from . import side_by_side
from .baselines.taggers import PFN, ParticleNet, kinematic_features
from .lorentznet import Sides
from .machine import machine
from .side_by_side import OURS, PUBLISHED, interleaved, row

JETS = 100
TABLE = {"particlenet": (11.0, 0.19), "pfn": (0.6, 0.12), "lorentznet": (32.9, 0.34)}
TITLES = {"particlenet": "ParticleNet", "pfn": "PFN", "lorentznet": "LorentzNet"}


def measure(threads: int, quick: bool, device: str = "cpu") -> dict[str, Any]:
    """``quick``: a fifth of the jets."""
    torch.set_num_threads(threads)
    count = JETS // 5 if quick else JETS
    sides = Sides(count)
    jets = ek.data.load_sample_jets()[:count]
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

        rows.append(_row(sides, name, score, parameters(network), quick))

    def published() -> None:
        sides.forward(PUBLISHED)

    sides.agree()
    rows.append({**_row(sides, "lorentznet", published, parameters(sides.ours), quick), "ours": True})
    return {**machine("taggers", threads, device), "rows": rows}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _row(sides: Sides, name: str, other: Callable[[], None], size: int, quick: bool) -> dict[str, Any]:
    """LorentzNet, fused, against another network ("ours": False) or its own formula."""
    what = f"LorentzNet, forward, {len(sides.label)} jets"
    times = interleaved(
        lambda: sides.forward(OURS), other, (2, 3) if quick else (3, 10), f"{what} / {name}", sides.device
    )
    cpu, gpu = TABLE[name]
    table = {"name": TITLES[name], "table_cpu": cpu, "table_gpu": gpu, "parameters": size, "ours": False}
    return {**row(what, *times, name), **table}


def main() -> None:
    options = side_by_side.parser(__doc__).parse_args()
    side_by_side.write(measure(options.threads, options.quick, options.device), options.out)


if __name__ == "__main__":
    main()
