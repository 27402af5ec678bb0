"""Trains PELICAN's regression of a four-momentum, and jets with identities; how networks of one seed start."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")

import equikernels as ek
from equikernels import cli, metrics
from equikernels.train import fit, load
from equikernels.train.config import Config
from equikernels.train.tasks import TASKS, build

from .test_training import SMALL


def jets_with_truth() -> ek.data.Jets:
    """Sample jets; their truth is half of their own momentum, their identities a function of the row."""
    jets = ek.data.load_sample_jets()[:48]
    event = torch.repeat_interleave(jets.ptr.diff())
    whole = torch.zeros(len(jets), 4).index_add(0, event, jets.p4)
    ids = torch.tensor([211, -211, 22, 130, 11])[torch.arange(len(jets.p4)) % 5]
    return ek.data.Jets(jets.p4, jets.ptr, jets.label, {"pdg_id": ids}, {"W": whole / 2})


def config(network: str, path: Path, options: dict[str, Any], epochs: int = 2) -> Config:
    data = {"train": str(path), "test": str(path), "batch_size": 16}
    training = {"epochs": epochs, "learning_rate": 0.02, "monitor": "loss"}
    return Config.of({"network": network, "options": options, "data": data, "training": training})


def test_truth_follows_its_jets(tmp_path: Path) -> None:
    jets = jets_with_truth()
    jets.save(tmp_path / "jets.npz")
    for read in (ek.data.Jets.load(tmp_path / "jets.npz"), ek.data.read_jets(tmp_path / "jets.npz", chunk=7)):
        assert torch.equal(read.truth["W"], jets.truth["W"])
        assert torch.equal(read.features["pdg_id"], jets.features["pdg_id"])
    order = [5, 3, 40]
    assert torch.equal(jets[order].truth["W"], jets.truth["W"][order])
    parts = [jets[:10], jets[10:]]
    assert torch.equal(ek.data.Jets.concatenate(parts).truth["W"], jets.truth["W"])
    with pytest.raises(ValueError, match=r"Jets: truth\['W'\]: expected shape \[48, ...\], got \[47, 4\]"):
        ek.data.Jets(jets.p4, jets.ptr, jets.label, truth={"W": jets.truth["W"][1:]})


def test_resolution() -> None:
    """Of momenta that are off by known amounts, and with an angle across phi = pi."""
    true = torch.tensor([[10.0, 3.0, 0.0, 4.0]]).repeat(101, 1)
    factor = 1 + torch.linspace(-0.5, 0.5, 101)[:, None].double()
    found = metrics.momentum_resolution(factor * true, true)
    for name in ("sigma_pt", "sigma_m"):
        assert found[name] == pytest.approx(0.34)
    assert found["sigma_psi"] == pytest.approx(0.0, abs=1e-7)
    turned = [[2.0, math.cos(a), math.sin(a), 0.0] for a in (3.1, -3.1)]
    found = metrics.momentum_resolution(np.array(turned[:1]), np.array(turned[1:]))
    assert found["sigma_psi"] == pytest.approx(2 * math.pi - 6.2)
    assert found["sigma_dr"] == pytest.approx(2 * math.pi - 6.2)
    with pytest.raises(ValueError, match="momentum_resolution: momentum: expected"):
        metrics.momentum_resolution(np.zeros((2, 4)), np.zeros((3, 4)))


def test_the_loss_is_its_formula() -> None:
    task, p = TASKS["PELICANRegressor"], torch.tensor([[5.0, 0.0, 3.0, 0.0], [1.0, 0.0, 0.0, 2.0]]).double()
    true = torch.tensor([[5.0, 0.0, 0.0, 4.0], [2.0, 0.0, 0.0, 0.0]]).double()
    masses = (4 - 3 + 2 + math.sqrt(3)) / 2
    momenta = (5 + 2) / 2
    assert float(task.loss((p, None), true)) == pytest.approx(0.05 * masses + 0.01 * momenta)


def test_a_regression_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "jets.npz"
    jets_with_truth().save(path)
    report = fit(config("PELICANRegressor", path, SMALL["PELICAN"], 8), tmp_path / "fit", accelerator="cpu")
    assert report["test"]["events"] == 48
    assert {"sigma_m", "sigma_pt", "sigma_psi", "sigma_dr"} < set(report["test"])
    lines = (tmp_path / "fit" / "metrics.csv").read_text().splitlines()
    place = lines[0].split(",").index("validation_loss")
    losses = [float(line.split(",")[place]) for line in lines[1:] if line.split(",")[place]]
    assert losses[-1] < 0.8 * losses[0]
    assert np.load(tmp_path / "fit" / "test_scores.npz")["score"].shape == (48, 4)
    checkpoint = str(tmp_path / "fit" / "best.ckpt")
    assert cli.main(["evaluate", str(path), "--model", checkpoint]) != 0
    assert "evaluate: --model: expected a classifier" in capsys.readouterr().err
    ek.data.load_sample_jets()[:20].save(tmp_path / "plain.npz")
    with pytest.raises(ValueError, match=r"data.train: expected jets with the array truth_W"):
        fit(config("PELICANRegressor", tmp_path / "plain.npz", SMALL["PELICAN"]), tmp_path / "none")


def test_identities(tmp_path: Path) -> None:
    ids = torch.tensor([11, -13, 22, 130, -211, 321, 2212, -2112])
    one_hot = ek.data.particle_scalars(ids).bool()
    charge, kind = one_hot[:, :3].int().argmax(1) - 1, one_hot[:, 3:8].int().argmax(1)
    assert charge.tolist() == [-1, 1, 0, 0, -1, 1, 1, 0]
    assert kind.tolist() == [3, 4, 2, 1, 0, 0, 0, 1]
    assert one_hot.sum(1).tolist() == [2] * 8
    path = tmp_path / "jets.npz"
    jets_with_truth().save(path)
    report = fit(config("PELICANWithIds", path, SMALL["PELICAN"]), tmp_path / "fit", accelerator="cpu")
    assert report["test"]["events"] == 48


@pytest.mark.parametrize(
    ("name", "parameters"), [("lgn", 4518), ("pelican", 48_482), ("pelican_w", 49_001), ("pelican_qg", 49_142)]
)
def test_configurations_have_the_published_sizes(name: str, parameters: int) -> None:
    """48,482 with 3 scalars of a particle: 12 more have 5 maps to 10 channels and 5 exponents each."""
    given = load(name)
    assert sum(p.numel() for p in build(given.network, given.options, "equikernels").parameters()) == parameters


def test_networks_of_one_seed_start_alike() -> None:
    """Bit for bit: all inputs give the logits of the invariant network; with spurions all layers behind the inputs
    start from the same weights, but more particles are summed over."""
    jets = ek.data.load_sample_jets()[:8]
    logits, states = {}, {}
    given = load("pelican_small").options
    for stabilizer in ("so13", "so3", "so2", "11"):
        for method in ("input", "spurions"):
            if (stabilizer, method) == ("so13", "spurions"):
                continue
            torch.manual_seed(7)
            network = build("PELICAN", {**given, "stabilizer": stabilizer, "method": method}, "equikernels").eval()
            logits[stabilizer, method], states[stabilizer, method] = network(jets.p4, jets.ptr), network.state_dict()
    first = states["so13", "input"]
    for (stabilizer, method), state in states.items():
        for key, value in state.items():
            if not key.startswith(("linear.", "input_encoder.", "eq1to2.")):
                assert torch.equal(value, first[key]), key
        same = torch.equal(logits[stabilizer, method], logits["so13", "input"])
        assert same == (method == "input")
