"""PELICAN networks of a few hundred parameters, their published logits, and comparisons."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equikernels.published import PELICANClassifier

from .golden import jets

METRIC = torch.diag(torch.tensor([1.0, -1, -1, -1], dtype=torch.float64))
SPURIONS = {"method": "spurions"}
S_ONLY = {"config": "s", "config_out": "s"}

# options, number of parameters, logits in evaluation, in training
CLASSIFIERS: list[tuple[dict[str, Any], int, list[list[float]], list[list[float]] | None]] = [
    (
        {"stabilizer": "so2", **SPURIONS}, 678,
        [[0.04368589015, -0.003469492726], [0.05997385714, -0.003560533015]],
        [[0.3812226344, -0.004395773896], [0.3944997793, -0.004629997057]],
    ),
    (
        {"stabilizer": "so13"}, 637,
        [[0.007159896433, -0.002970143066], [0.03051113999, -0.003102117072]],
        [[0.3825335781, -0.005411602727], [0.3985786179, -0.005453866751]],
    ),
    ({"stabilizer": "so2"}, 647, [[0.1182878366, -0.003805995138], [0.1283666679, -0.003768566518]], None),
    ({"stabilizer": "11"}, 657, [[0.08803986796, -0.003739538503], [0.09934354898, -0.003737880906]], None),
    (
        {"stabilizer": "se2", **SPURIONS}, 663,
        [[0.03058108723, -0.003272476426], [0.04642927431, -0.003353583208]], None,
    ),
    (
        {"stabilizer": "so2", **SPURIONS, **S_ONLY}, 575,
        [[0.03125791128, -0.003481807364], [0.05997385714, -0.003560533015]], None,
    ),
    (
        {"stabilizer": "so2", **SPURIONS, "config": "sMxn", "config_out": "S", "compat": True}, 1218,
        [[0.1420871198, -0.004564862268], [0.104381767, -0.004042850978]], None,
    ),
    (
        {"stabilizer": "so13", "config": "XN", "config_out": "Sm", "compat": True}, 945,
        [[0.08633301854, -0.002789916717], [0.07475837837, -0.002765142596]], None,
    ),
    (
        {"stabilizer": "so2", **SPURIONS, "factorize": False}, 928,
        [[0.04437433389, -0.003489936459], [0.04820521302, -0.003471971627]], None,
    ),
    (
        {"stabilizer": "so13", **S_ONLY, "irc_safe": True}, 549,
        [[0.06474867229, -0.002997068936], [0.06481492431, -0.002997120106]], None,
    ),
]  # fmt: skip


def small(**options: Any) -> dict[str, Any]:
    return {
        "num_channels_scalar": 2,
        "num_channels_m": [[5], [5]],
        "num_channels_2to2": [4, 4],
        "num_channels_out": [6],
        "num_channels_m_out": [5, 4],
        "average_nobj": 6,
        "batchnorm": "b",
        "factorize": True,
        "config": "M",
        "config_out": "M",
        **options,
    }


def published_classifier(**options: Any) -> PELICANClassifier:
    """The published formula with the sizes of :func:`small`."""
    left_out = ("method", "compat", "batchnorm")  # it has no others
    return PELICANClassifier(**{k: v for k, v in small(**options).items() if k not in left_out})


def massless(*sizes: int) -> tuple[Tensor, Tensor]:
    p4, ptr = jets(*sizes)
    p4[:, 0] = p4[:, 1:].norm(dim=1)
    return p4, ptr


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def close(out: Tensor, golden: list[list[float]] | Tensor, rtol: float = 1e-7) -> None:
    torch.testing.assert_close(out.detach(), torch.as_tensor(golden, dtype=torch.float64), rtol=rtol, atol=0)


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()
