"""Tests load_checkpoint on files of published PELICAN networks, and the keywords that they require."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch

import equikernels as ek
from equikernels.models import PELICANClassifier, PELICANNano, PELICANRegressor

from .support.checkpoints import assert_same, saved
from .support.golden import filled, stored
from .support.pelican import small

# Keywords of the networks of small() that a file does not contain.
ASKED: dict[str, Any] = {
    "stabilizer": "so13",
    "method": "input",
    "config": "M",
    "config_out": "M",
    "average_nobj": 6,
}
SPURIONS = {"method": "spurions", "stabilizer": "so2"}
VARIANTS: list[dict[str, Any]] = [
    {},
    {**SPURIONS},
    {"stabilizer": "11"},
    {"config": "sMxn", "config_out": "S", **SPURIONS},
    {"factorize": False},
    {"batchnorm": None},
    {"num_channels_m": [[5, 3, 9], [8]], "num_channels_m_out": [5, 7, 4], "num_channels_out": [6, 3]},
    {"num_channels_m": [[], [5]], "num_channels_2to2": [3, 4]},
    {"num_channels_m": [[5]] * 5, "num_channels_2to2": [4] * 5},
]


def split(variant: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords to build a network with, and those to load it with."""
    asked = {key: variant.get(key, value) for key, value in ASKED.items()}
    return small(**{**asked, **variant}), asked


@pytest.mark.parametrize("kind", [PELICANClassifier, PELICANRegressor])
@pytest.mark.parametrize("variant", VARIANTS)
def test_widths_come_from_the_file(kind: type[torch.nn.Module], variant: dict[str, Any]) -> None:
    if kind is PELICANRegressor and len(variant.get("config_out", "M")) > 1:
        pytest.skip("its last layer takes one letter")
    options, asked = split(variant)
    outputs = {"num_classes": 5} if kind is PELICANClassifier else {"num_targets": 3}
    network = filled(kind(**options, **outputs))
    loaded = ek.load_checkpoint(saved({"module." + k: v for k, v in network.state_dict().items()}), **asked).eval()
    assert type(loaded) is kind
    assert_same(loaded.state_dict(), network.state_dict())
    p4, ptr = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 3, 7])
    torch.testing.assert_close(loaded(p4, ptr), network.eval()(p4, ptr), rtol=0, atol=0)


def test_without_a_perceptron() -> None:
    network = filled(PELICANClassifier(**small(stabilizer="so13"), mlp_out=False, num_classes=3))
    loaded = ek.load_checkpoint(saved(network.state_dict()), **ASKED)
    assert_same(loaded.state_dict(), network.state_dict())


@pytest.mark.parametrize(("width", "batchnorm", "factorize"), [(1, "b", False), (3, None, False), (2, "b", True)])
def test_nano(width: int, batchnorm: str | None, factorize: bool) -> None:
    network = filled(PELICANNano(width, batchnorm=batchnorm, factorize=factorize, average_nobj=6))
    loaded = ek.load_checkpoint(saved(network.state_dict()), config="s", config_out="s", average_nobj=6).eval()
    assert type(loaded) is PELICANNano
    assert_same(loaded.state_dict(), network.state_dict())
    p4, ptr = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 3, 7])
    torch.testing.assert_close(loaded(p4, ptr), network.eval()(p4, ptr), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["pelican_so13", "pelican_S", "pelican_cov_so13"])
@pytest.mark.parametrize("container", [argparse.Namespace, dict])
def test_a_training_scripts_own_file(name: str, container: Any) -> None:
    """Published weights give published outputs; the file's arguments supply what its tensors do not determine."""
    case = stored("pelican")[name]
    told = {"config": "s", "config_out": "s", "stabilizer": "so13", "method": "input", **case["cfg"]}
    arguments = {key: told[key] for key in ("config", "config_out", "stabilizer", "method", "batchnorm")}
    arguments |= {"nobj_avg": told["average_nobj"], "dataset": "toptag", "lr_init": 1e-3, "activation": "leakyrelu"}
    content = {"args": container(**arguments), "epoch": 34, "model_state": case["state"]}
    network = ek.load_checkpoint(saved(content)).eval()
    mask = case["mask"]
    out = network(case["x"][mask], torch.tensor([0, *mask.sum(1).cumsum(0)]))
    out = out[0] if isinstance(out, tuple) else out
    golden = case["predict"] if "cov" in name else case["logits"]
    torch.testing.assert_close(out, golden, rtol=1e-9, atol=0)
    other = ek.load_checkpoint(saved(content), average_nobj=2 * told["average_nobj"])
    assert other.net2to2.eq_layers[0].average_nobj == 2 * told["average_nobj"]


def test_what_tensors_do_not_tell_is_asked_for() -> None:
    file = saved(PELICANClassifier(**small(**ASKED)).state_dict())
    for keyword in ASKED:
        file.seek(0)
        with pytest.raises(TypeError, match=keyword):
            ek.load_checkpoint(file, **{key: value for key, value in ASKED.items() if key != keyword})
    file.seek(0)
    with pytest.raises(TypeError, match="widht"):
        ek.load_checkpoint(file, **ASKED, widht=3)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"config": "s"}, "unexpected: net2to2.eq_layers.0.alphas.0"),
        ({"config": "Mx"}, r"shape: net2to2.eq_layers.0.coefs00: expected \[4, 25\], got \[4, 15\]"),
        ({"stabilizer": "so2"}, r"shape: linear.weight: expected \[5, 3\], got \[5, 1\]"),
        ({"stabilizer": "so2", "method": "spurions", "num_channels_scalar": 2}, "missing: eq1to2.coefs"),
    ],
)
def test_answers_that_contradict_the_tensors(wrong: dict[str, Any], problem: str) -> None:
    file = saved(PELICANClassifier(**small(**ASKED)).state_dict())
    with pytest.raises(ValueError, match=problem):
        ek.load_checkpoint(file, **{**ASKED, **wrong})


def test_problems_are_listed() -> None:
    state = PELICANClassifier(**small(**ASKED)).state_dict()
    bad = {key: value for key, value in state.items() if key not in ("msg_2to0.linear.0.bias", "agg_2to0.alphas.0")}
    bad["mlp_out.linear.0.bias"] = torch.zeros(3)
    bad["extra"] = torch.zeros(1)
    with pytest.raises(ValueError) as error:
        ek.load_checkpoint(saved(bad), **ASKED)
    lines = str(error.value).splitlines()
    assert lines[0] == "load_checkpoint: file: expected the keys of PELICANClassifier, got"
    for problem in ("missing: msg_2to0.linear.0.bias", "missing: agg_2to0.alphas.0", "unexpected: extra"):
        assert f"  {problem}" in lines
    headless = {key: value for key, value in state.items() if key != "linear.weight"}
    with pytest.raises(ValueError, match=r"PELICANClassifier, got\n  missing: linear.weight"):
        ek.load_checkpoint(saved(headless), **ASKED)


def test_files_of_2022_are_refused() -> None:
    with pytest.raises(ValueError, match=r"2023 or later, got keys of 2022: \['input_encoder.alphas'\]"):
        ek.load_checkpoint(saved({"input_encoder.alphas": torch.zeros(1, 1, 1, 58)}), **ASKED)
