"""Times LorentzNet, fused, and top taggers without symmetry, as in the comparison of arXiv 2201.08187.

The networks differ, so results are not compared. TABLE has the published ms per batch of 100, on an Intel Xeon
E5-2698 v4 and a Tesla V100; its ParticleNet has 498k parameters, the published architecture 366k.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn

import equikernels as ek
from equikernels.published.taggers import PFN, ParticleNet

from .lorentznet import Sides
from .plan import Entry, Plan, Row, Setting
from .side_by_side import OURS, PUBLISHED, interleaved, row

JETS = 100
TABLE = {"particlenet": (11.0, 0.19), "pfn": (0.6, 0.12), "lorentznet": (32.9, 0.34)}
TITLES = {"particlenet": "ParticleNet", "pfn": "PFN", "lorentznet": "LorentzNet"}


def plan(setting: Setting) -> Plan:
    """LorentzNet, fused, against other networks ("ours": False) and its own formula. ``quick``: 20 jets."""
    count = JETS // 5 if setting.quick else JETS
    rounds = (2, 3) if setting.quick else (3, 10)
    sides = functools.cache(lambda: Sides(count).to(setting.device).prepared())

    def other(name: str) -> tuple[Callable[[], object], nn.Module]:
        if name == "lorentznet":
            return lambda: sides().forward(PUBLISHED), sides().ours
        jets = ek.data.load_sample_jets()[:count]
        rows, mask = ek.unpack(ek.data.kinematic_features(jets.p4, jets.ptr), jets.ptr)
        features, mask = rows.transpose(1, 2).contiguous().to(setting.device), mask.to(setting.device)
        network = (ParticleNet() if name == "particlenet" else PFN()).to(setting.device).eval()
        inputs = features if name == "particlenet" else features[:, [0, 5, 6]]
        return torch.inference_mode()(lambda: network(inputs, mask[:, None])), network

    def of(name: str) -> Row:
        def measure(what: str) -> Entry:
            call, network = other(name)
            times = interleaved(lambda: sides().forward(OURS), call, rounds, f"{what} / {name}", setting.device)
            size = sum(p.numel() for p in network.parameters())
            table = dict(zip(("name", "table_cpu", "table_gpu"), (TITLES[name], *TABLE[name]), strict=True))
            return {**row(what, *times, name), **table, "parameters": size, "ours": name == "lorentznet"}

        return Row(f"LorentzNet, forward, {count} jets", measure, name)

    return Plan([of(name) for name in TABLE], lambda: sides().agree())
