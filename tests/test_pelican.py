"""PELICAN's networks against published outputs, under their symmetries, and against the padded formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.models import PELICANClassifier, PELICANNano, PELICANRegressor

from .golden import filled, jets, stored

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

REGRESSORS: list[tuple[dict[str, Any], int, list[list[float]]]] = [
    (
        {"stabilizer": "so2", **SPURIONS}, 733,
        [[54.50219289, -0.5257946833, -2.237117749, 43.25678126], [45.24452243, 3.268904186, 6.132315494, 36.9800886]],
    ),
    (
        {"stabilizer": "so13"}, 692,
        [[53.77155279, -0.5340353653, -2.246059227, 42.5354317], [44.54292014, 3.268433091, 6.130857011, 36.28099465]],
    ),
    (
        {"stabilizer": "so2"}, 716,
        [[53.83337396, -0.09151939439, -0.3890464637, -0.1274213494],
         [44.57195487, 0.5682084877, 1.06611223, -0.1086421443]],
    ),
    (
        {"stabilizer": "so3"}, 704,
        [[53.83360662, -0.0916114217, -0.3890518837, 7.402173788],
         [44.57212372, 0.5681452785, 1.066072118, 6.310040053]],
    ),
    (
        {"stabilizer": "se2", "compat": True}, 704,
        [[44.5387873, -0.09127796593, -0.3888373998, 33.2251362],
         [37.74103536, 0.5678837117, 1.065875314, 28.55669756]],
    ),
    (
        {"stabilizer": "11"}, 733,
        [[53.82998542, -0.09141549435, 0.006694275121, 15.30556241],
         [44.56970289, 0.5683624903, -0.01835426851, 13.05020581]],
    ),
]  # fmt: skip

NANOS = [
    (1, "b", 15, [[7.096854926, -7.096854926], [6.018204703, -6.018204703]]),
    (2, "b", 27, [[-61.38719069, 61.38719069], [-32.03741909, 32.03741909]]),
    (2, None, 21, [[-53.07284549, 53.07284549], [-27.66472524, 27.66472524]]),
]


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


def count(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def close(out: Tensor, golden: list[list[float]] | Tensor, rtol: float = 1e-7) -> None:
    torch.testing.assert_close(out.detach(), torch.as_tensor(golden, dtype=torch.float64), rtol=rtol, atol=0)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("options", "parameters", "evaluation", "training"), CLASSIFIERS)
def test_golden_classifier(
    options: dict[str, Any],
    parameters: int,
    evaluation: list[list[float]],
    training: list[list[float]] | None,
    backend: str,
) -> None:
    network = filled(PELICANClassifier(**small(**options)))
    assert count(network) == parameters
    with ek.use_backend(backend):
        if training is not None:
            close(network.train()(*jets(5, 4)), training)
            filled(network)  # running statistics
        close(network.eval()(*jets(5, 4)), evaluation)


@pytest.mark.parametrize(("options", "parameters", "golden"), REGRESSORS)
def test_golden_regressor(options: dict[str, Any], parameters: int, golden: list[list[float]]) -> None:
    network = filled(PELICANRegressor(**small(**options), num_targets=1)).eval()
    assert count(network) == parameters
    close(network(*jets(5, 4))[0], golden)


@pytest.mark.parametrize(("width", "batchnorm", "parameters", "golden"), NANOS)
def test_golden_nano(width: int, batchnorm: str | None, parameters: int, golden: list[list[float]]) -> None:
    network = filled(PELICANNano(width, average_nobj=6, batchnorm=batchnorm)).eval()
    assert count(network) == parameters
    close(network(*jets(5, 4)), golden)


@pytest.mark.parametrize("name", ["pelican_so13", "pelican_S", "pelican_cov_so13"])
def test_stored_network(name: str) -> None:
    """Weights, inputs and outputs of the published implementation; keys in the published order."""
    case = stored("pelican")[name]
    kind = PELICANRegressor if "cov" in name else PELICANClassifier
    network = kind(**case["cfg"]).double().eval()
    assert list(network.state_dict()) == list(case["state"])
    network.load_state_dict(case["state"])
    mask = case["mask"]
    out = network(case["x"][mask], torch.tensor([0, *mask.sum(1).cumsum(0)]))
    if kind is PELICANRegressor:
        close(out[0], case["predict"], 1e-9)
        close(out[1], case["weights"][mask], 1e-9)
    else:
        close(out, case["logits"], 1e-9)
