"""Tests the studies that compare networks by what they read and by size: jobs, numbers and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

from equikernels.bench.studies import ant, channels, events
from equikernels.bench.studies.ablation import WITHOUT, Ablation
from equikernels.bench.studies.study import Job, Place, Results, Study
from equikernels.bench.studies.training import with_training

from equikernels.train.config import Config
from equikernels.train.tasks import build


def results(study: Study, numbers: dict[str, Any]) -> Results:
    """Of one seed, the same numbers for each job but its parameters."""
    records = {}
    for k, job in enumerate(study.points(False)):
        if job.seed == 0:
            found = ant.with_factors({**numbers, "parameters": 1000 * (k + 1)}, 1000 * (k + 1))
            records[job.key] = {"job": job.as_dict(), "numbers": found}
    return Results({"records": records})


NUMBERS = {"accuracy": 0.9, "auc": 0.96, "rejection_0.3": 300.0}


def parameters(job: Job) -> int:
    config = Config.of(job.values["config"])
    return sum(p.numel() for p in build(config.network, config.options, "equikernels").parameters())


def test_the_ablation_changes_the_inputs_of_messages_alone(few: events.Events, tmp_path: Path) -> None:
    first, second = Ablation().points(False)[:2]
    assert second.group == WITHOUT
    assert parameters(second) == parameters(first) + 6 * 24 * 3  # six columns more in each of three blocks
    config = with_training(Config.of(second.values["config"]), epochs=1)
    numbers = Ablation().run(Job(WITHOUT, 0, {"config": config.as_dict()}), Place(few, tmp_path))
    assert numbers["parameters"] == parameters(second)
    assert 0 < numbers["auc"] < 1
    table = Ablation().table(results(Ablation(), NUMBERS)).splitlines()
    assert table[3].startswith(f"| {WITHOUT} | 2,000 | 0.9000 | 0.9600 | 300 | 0.934, 0.9832, 1105 ± 59 (")


def test_channels_are_turned_at_constant_size() -> None:
    study = channels.Channels()
    for full, tolerance in ((False, 0.06), (True, 0.06)):
        for job in study.points(full):
            if job.seed == 0:
                assert parameters(job) == pytest.approx(job.values["size"], rel=tolerance), job.group
    shares = [job.values["config"]["options"]["n_free"] for job in study.points(False) if job.seed == 0]
    assert shares == sorted(set(shares))
    assert shares[0] == 0
    assert len(study.table(results(study, NUMBERS)).splitlines()) == 2 + len(channels.SHARES)


def test_ant_factors_are_of_the_numbers_beside_them(tmp_path: Path) -> None:
    study = ant.Ant()
    found = results(study, NUMBERS)
    group = study.points(False)[0].group
    assert found.groups[group][0]["ant_v1"] == 0.3
    assert ant.factor_cells(found, group) == ["0.9000", "0.9600", "300", "300.00", "2,500.0"]
    without = ant.with_factors({**NUMBERS, "rejection_0.3": None}, 1000)
    assert without["ant_v1"] is None
    lines = study.table(found).splitlines()
    assert len(lines) == 2 + len(found.groups)
    assert sum("35.0 (Thais" in line for line in lines) == 1
    study.plot(found, tmp_path / "ant.png")
    assert (tmp_path / "ant.png").stat().st_size > 1000


def test_networks_grow_with_the_scale_of_their_widths() -> None:
    assert ant.scaled([[24], 3], 0.5) == [[12], 2]
    assert ant.scaled(1, 0.1) == 1
    sizes: dict[str, list[int]] = {}
    for job in ant.Ant().points(True):
        if job.seed == 0:
            with torch.device("meta"):
                sizes.setdefault(job.values["network"], []).append(parameters(job))
    assert all(found == sorted(set(found)) for found in sizes.values())
    assert {"LorentzNet", "PELICAN", "VecNet", "EGNN"} <= {name for name, found in sizes.items() if len(found) == 4}
