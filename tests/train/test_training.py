"""Trainings of seconds: the same numbers from every backend, after an interruption, and on two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import equikernels as ek
from equikernels import cli
from equikernels.train import fit, load_model
from equikernels.train.config import Config
from equikernels.train.tasks import TASKS

SMALL: dict[str, dict[str, Any]] = {
    "LorentzNet": {"n_hidden": 6, "n_layers": 2, "c_weight": 5e-3, "readout": "padded_mean", "dropout": 0.2},
    "PELICAN": {
        "num_channels_scalar": 3, "num_channels_m": [[4]], "num_channels_2to2": [3], "num_channels_out": [4],
        "num_channels_m_out": [4, 3], "stabilizer": "so2", "method": "spurions", "factorize": True, "batchnorm": "b",
    },
    "LGN": {"num_channels": [1, 2, 1], "n_basis": 2, "compat": True},
    "VecNet": {"n_hidden": 6, "n_free": 3, "n_layers": 2},
    "EGNN": {"hidden_nf": 6, "n_layers": 2},
    "SchNet": {"hidden_nf": 6, "n_layers": 2, "n_gaussians": 8, "reach": 4.0},
    "TFN": {"width": 3, "n_layers": 2},
    "GNN": {"hidden_nf": 6, "n_layers": 2},
    "RadialField": {"hidden_nf": 6, "n_layers": 2},
    "ParticleNet": {"k": 3, "widths": [[4, 4], [10, 10], [6, 6]], "n_hidden": 5},
    "ParT": {"embed": [8, 8], "pair_embed": [6], "heads": 2, "n_blocks": 1, "n_class_blocks": 1},
    "PFN": {"phi": [8, 6], "f": [6]},
    "EFN": {"phi": [8, 6], "f": [6]},
    "EFP": {"degree": 2},
    "MLP": {"n_particles": 8, "n_hidden": 8, "max_beta": 0.5},
    "PCNN": {"length": 8},
    "ResNeXt": {},
    "EuclidNet": {"n_hidden": 4},
    "InteractionNetwork": {"hidden_size": 5},
}  # fmt: skip


@pytest.fixture(scope="module")
def jets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty sample jets with few constituents, thirty of each class."""
    path = tmp_path_factory.mktemp("jets") / "jets.npz"
    sample = ek.data.load_sample_jets()
    order = torch.argsort(sample.ptr.diff(), stable=True)
    few = torch.cat([order[sample.label[order] == label][:30] for label in (0, 1)])
    sample[few.sort().values].save(path)
    return path


def config(network: str, jets: Path, **changes: Any) -> Config:
    hits = network in ("EuclidNet", "InteractionNetwork")
    data = {"train": "sample" if hits else str(jets), "batch_size": 1 if hits else 20, "validation_fraction": 0.2}
    if hits:
        data["limit"] = 2
    training = {"epochs": 2, "schedule": "one_cycle", "seed": 3, "monitor": "loss", **changes.pop("training", {})}
    values = {"network": network, "options": SMALL[network], "data": {**data, **changes.pop("data", {})}}
    return Config.of({**values, "training": training, **changes})


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / name, weights_only=True)["state_dict"]
    return state


@pytest.mark.parametrize("network", SMALL)
def test_curves_of_all_backends_coincide(network: str, jets: Path, tmp_path: Path) -> None:
    """In float64: in float32 Adam takes rounding for a gradient where the true one is 0, as before a batch norm."""
    backends = ["equikernels", "reference", *(["published"] if TASKS[network].formulas else [])]
    found = {}
    for backend in backends:
        given = config(network, jets, backend=backend, training={"precision": "64-true"})
        report = fit(given, tmp_path / backend, accelerator="cpu")
        lines = (tmp_path / backend / "metrics.csv").read_text().splitlines()
        found[backend] = [[float(v) for v in line.split(",") if v] for line in lines[1:]]
        assert report["epochs"] == 2
    for backend in backends[1:]:
        for ours, theirs in zip(found["equikernels"], found[backend], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5, nan_ok=True)


@pytest.mark.parametrize("bucket", [0, 2])
def test_interrupted_training_ends_with_the_same_weights(bucket: int, jets: Path, tmp_path: Path) -> None:
    whole = config("LorentzNet", jets, training={"epochs": 4}, data={"bucket": bucket, "batch_size": 10})
    fit(whole, tmp_path / "whole", accelerator="cpu")
    fit(whole, tmp_path / "parts", accelerator="cpu", max_epochs=2)
    fit(whole, tmp_path / "parts", accelerator="cpu", resume=True)
    again = weights(tmp_path / "parts")
    assert torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)["epoch"] == 3  # the best one or not
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, again[name]), name


def test_the_seed_decides(jets: Path, tmp_path: Path) -> None:
    for folder, seed in (("a", 3), ("b", 3), ("c", 4)):
        fit(config("LorentzNet", jets, training={"epochs": 1, "seed": seed}), tmp_path / folder, accelerator="cpu")
    a, b, c = (weights(tmp_path / folder) for folder in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not all(torch.equal(a[name], c[name]) for name in a)


@pytest.mark.slow
def test_two_processes_train_as_one(jets: Path, tmp_path: Path) -> None:
    """Batches of 8 on each of two processes are batches of 16 on one: gradients agree, so do weights."""
    text = "\n".join(
        [
            "network: LorentzNet",
            "options: {n_hidden: 6, n_layers: 2, c_weight: 5.0e-3}",
            "data: {validation_fraction: 0.2, batch_size: BATCH}",  # 48 jets
            "training: {epochs: 2, optimizer: Adam, weight_decay: 0.0, seed: 5, precision: 64-true}",
        ]
    )
    for devices, batch in ((1, 16), (2, 8)):
        file = tmp_path / f"{devices}.yaml"
        file.write_text(text.replace("BATCH", str(batch)))
        arguments = [
            "train",
            str(file),
            "--data",
            str(jets),
            "--output",
            str(tmp_path / f"{devices}"),
            "--threads",
            "1",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "equikernels.cli", *arguments, "--devices", str(devices)],
            capture_output=True, text=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    one, two = (weights(tmp_path / name) for name in "12")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_the_commands(jets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("network: LorentzNet\noptions: {n_hidden: 6, n_layers: 1}\ntraining: {epochs: 2}\n")
    output = tmp_path / "out"
    given = ["--data", str(jets), "--test", str(jets), "--output", str(output)]
    assert cli.main(["train", str(file), *given, "--epochs", "1", "--limit", "30"]) == 0
    printed = capsys.readouterr()
    assert "validation epoch   1  loss" in printed.out
    assert "\r" not in printed.out + printed.err  # no progress bar where there is no terminal
    assert {p.name for p in output.iterdir()} >= {"best.ckpt", "last.ckpt", "metrics.csv", "report.json", "roc.png"}
    report = json.loads((output / "report.json").read_text())
    assert report["test"]["events"] == 60
    assert report["epochs"] == 1
    assert 0 <= report["share_of_waiting_for_data"] < 1

    model = str(output / "best.ckpt")
    assert cli.main(["evaluate", str(jets), "--model", model, "--out", str(tmp_path / "metrics")]) == 0
    found = json.loads((tmp_path / "metrics" / "metrics.json").read_text())
    assert found["auc"] == pytest.approx(report["test"]["auc"])
    for name in ("scores.csv", "scores.npz", "scores.parquet"):
        assert cli.main(["score", str(jets), "--model", model, "--out", str(tmp_path / name)]) == 0
    scores = np.load(tmp_path / "scores.npz")["score"]
    np.testing.assert_allclose(np.loadtxt(tmp_path / "scores.csv", delimiter=",", skiprows=1)[:, 1], scores, rtol=1e-6)
    assert len(scores) == 60
    assert load_model(model).network.training is False


def test_bad_input_is_an_error_before_the_first_step(
    jets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = ek.data.load_sample_jets()[:40]
    signal = sample[sample.label == 1]
    signal.save(tmp_path / "signal.npz")
    wrong = sample.p4.clone()
    wrong[5, 2] = float("nan")
    ek.data.Jets(wrong, sample.ptr, sample.label).save(tmp_path / "nan.npz")
    sample[[]].save(tmp_path / "empty.npz")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    train = ["train", "lorentznet_small", "--output", str(tmp_path / "out")]
    cases = [
        ([*train], "data.train: expected a file, got None"),
        ([*train, "--data", str(tmp_path / "no.npz")], "no.npz"),
        ([*train, "--data", str(tmp_path / "signal.npz")], "expected events of both classes"),
        ([*train, "--data", str(tmp_path / "nan.npz")], "event 0"),
        ([*train, "--data", str(tmp_path / "empty.npz")], "at least one"),
        ([*train, "--data", str(jets), "--resume"], "expected"),
        (["train", "lorentznett", "--data", str(jets)], "no such file, and none of"),
        (["score", str(jets), "--model", str(tmp_path / "other.ckpt"), "--out", "x.csv"], "one of `equikernels train`"),
        (["score", str(jets), "--model", str(tmp_path / "text.ckpt"), "--out", "x.csv"], "text.ckpt: checkpoint"),
        (["score", str(jets), "--model", "no.ckpt", "--out", "x.csv"], "no.ckpt: no such file"),
        (["score", str(jets), "--model", "no.ckpt", "--out", "x.root"], "--out: expected a file that ends in"),
    ]
    for arguments, message in cases:
        assert cli.main(arguments) == 2, arguments
        printed = capsys.readouterr()
        assert message in printed.err, printed.err
        assert len(printed.err.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "last.ckpt").exists()


@pytest.mark.slow
def test_two_thousand_jets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`equikernels train` on the package's jets learns within two epochs what is far above chance."""
    sample = ek.data.load_sample_jets()
    sample.save(tmp_path / "jets.npz")
    given = ["--data", str(tmp_path / "jets.npz"), "--output", str(tmp_path / "out"), "--epochs", "2"]
    assert cli.main(["train", "lorentznet_small", *given]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["validation"]["auc"] > 0.8
    assert report["share_of_waiting_for_data"] < 0.2
