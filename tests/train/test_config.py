"""Configurations and learning rates: what papers say, and every wrong key by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from equikernels.train import load
from equikernels.train.config import Config, shipped
from equikernels.train.schedules import SCHEDULES, schedule_of
from equikernels.train.tasks import TASKS, build

# rates of LorentzNet's release over the highest one, by epoch
LORENTZNET = {
    0: 0.2,
    1: 0.4,
    4: 1.0,
    5: 0.854,
    7: 0.146,
    8: 1.0,
    15: 0.038,
    16: 1.0,
    31: 0.0096,
    32: 0.0048,
    34: 0.0012,
}


def test_the_rate_of_lorentznet() -> None:
    rate = schedule_of("lorentznet", {})
    for epoch, expected in LORENTZNET.items():
        assert rate(epoch, 35) == rate(epoch + 0.9, 35) == pytest.approx(expected, rel=0.02)


def test_the_rate_of_pelican() -> None:
    """As torch's scheduler, after a linear rise and before three halves."""
    rate = schedule_of("pelican", {})
    parameter = torch.nn.Parameter(torch.zeros(1))
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(torch.optim.SGD([parameter], lr=1.0), 4, 2)
    assert rate(0, 35) == 0
    assert rate(2, 35) == 0.5
    for time in (0.0, 0.25, 3.75, 4.0, 9.5, 12.0, 27.9):
        theirs.step(time)
        assert rate(4 + time, 35) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
    assert [rate(t, 35) / rate(31, 35) for t in (32, 33, 34.5)] == pytest.approx([0.5, 0.25, 0.125])


def test_one_cycle_and_steps() -> None:
    cycle = schedule_of("one_cycle", {})
    assert [cycle(t, 10) for t in (0, 3, 10, 11)] == pytest.approx([0.04, 1.0, 4e-6, 4e-6])
    assert all(cycle(t / 10, 10) < cycle((t + 1) / 10, 10) for t in range(29))
    assert [schedule_of("step", {})(t, 300) for t in (0, 99.9, 100, 250)] == pytest.approx([1, 1, 0.3, 0.09])
    assert schedule_of("constant", {})(7, 10) == 1


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 2, 3, 5, 40])
def test_every_rate_is_between_zero_and_one(name: str, epochs: int) -> None:
    rate = schedule_of(name, {})
    assert all(0 <= rate(k / 8, epochs) <= 1 for k in range(8 * epochs + 1))


PARAMETERS = {
    "particlenet": 366_160,
    "particlenet_lite": 26_416,
    "part": 2_141_134,
    "pfn": 82_458,
    "efp": 1000,
    "pcnn": 349_456,
    "resnext": 1_457_314,
    "lorentznet": 224_072,
    "pelican": 48_482,
    "lorentznet_small": 13_205,
    "pelican_small": 7_521,
}


@pytest.mark.parametrize("name", shipped())
def test_configurations_of_the_package_build_their_networks(name: str) -> None:
    config = load(name)
    network = build(config.network, config.options, "equikernels")
    shapes = {k: v.shape for k, v in network.state_dict().items()}
    if TASKS[config.network].formulas and name != "lorentznet_small":  # whose readout leaves out the padding
        without = {"dropout": False} if name == "pelican" else {}
        published = build(config.network, {**config.options, **without}, "published")
        assert {k: v.shape for k, v in published.state_dict().items()} == shapes
    if name in PARAMETERS:
        assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]


GOOD: dict[str, Any] = {"network": "LorentzNet", "options": {"n_hidden": 8}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "network: expected a value, got none"),
        ({"network": "Lorenznet"}, "network: expected one of LorentzNet, PELICAN"),
        ({**GOOD, "epochs": 3}, "epochs: expected one of network, options"),
        ({**GOOD, "training": {"epoch": 3}}, r"training\.epoch: expected one of epochs"),
        ({**GOOD, "training": 3}, "training: expected a mapping, got 3"),
        ({**GOOD, "training": {"epochs": 2.5}}, r"training\.epochs: expected int, got 2\.5"),
        ({**GOOD, "training": {"epochs": True}}, r"training\.epochs: expected int, got True"),
        ({**GOOD, "training": {"epochs": 0}}, r"training\.epochs: expected at least 1"),
        ({**GOOD, "training": {"learning_rate": "fast"}}, r"training\.learning_rate: expected a number, got 'fast'"),
        ({**GOOD, "training": {"schedule": "cosine"}}, r"training\.schedule: expected one of constant"),
        ({**GOOD, "training": {"monitor": "f1"}}, r"training\.monitor: expected one of accuracy"),
        ({**GOOD, "data": {"batch_size": 0}}, r"data\.batch_size: expected at least 1"),
        ({**GOOD, "data": {"bucket": -1}}, r"data\.bucket: expected at least 0"),
        ({**GOOD, "data": {"validation_fraction": 1.0}}, r"data\.validation_fraction: expected a number between"),
        ({**GOOD, "data": {"train": 3}}, r"data\.train: expected str or null, got 3"),
        ({**GOOD, "backend": "cuda"}, "backend: expected one of equikernels, reference, published"),
    ],
)
def test_wrong_keys_and_values_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Config.of(values)


def test_numbers_that_yaml_reads_as_text() -> None:
    assert Config.of({**GOOD, "training": {"learning_rate": "1e-3", "weight_decay": 1}}).training.learning_rate == 1e-3


def test_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing: no such file, and none of .*egnn"):
        load("nothing")
    for text, message in (("[1, 2]", "YAML: expected a mapping, got list"), ("a: [", "YAML: expected a mapping")):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load(path)
    path.write_text("network: LorentzNet\noptions: {n_hidden: 8}\ntraining: {epochs: 2}\n")
    assert load(path).training.epochs == 2


def test_a_round_trip() -> None:
    config = load("lorentznet")
    assert Config.of(config.as_dict()) == config


def test_options_that_a_network_has_not() -> None:
    with pytest.raises(TypeError, match="config: options: expected options of LorentzNet, got"):
        build("LorentzNet", {"width": 3}, "equikernels")
    with pytest.raises(ValueError, match=r"training\.schedule_options: expected options of step"):
        schedule_of("step", {"period": 3})
    with pytest.raises(ValueError, match="EGNN has no published formula here"):
        build("EGNN", {}, "published")
    with pytest.raises(ValueError, match="padded_mean, as the published formula has it"):
        build("LorentzNet", {"n_hidden": 8}, "published")
