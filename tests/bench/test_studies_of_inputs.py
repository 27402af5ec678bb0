"""Tests the studies of spurions and inputs: what is compared, and that a job gives its numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

from equikernels.bench import machine
from equikernels.bench.studies import events, spurions
from equikernels.bench.studies.study import Job, Numbers, Place, Results
from equikernels.bench.studies.training import values_of, with_training
from equikernels.bench.studies.workers import Workers

from equikernels.train.config import Config

from ..train.test_momentum import jets_with_truth
from ..train.test_training import SMALL


def job_of(study: spurions.Spurions, group: str) -> Job:
    """A job of a quick run with a smaller network and one epoch."""
    values = study.groups(full=False)[group]
    config = with_training(Config.of(values["config"]), epochs=1)
    options = {**config.options, **SMALL["PELICAN"]}
    options |= {name: config.options[name] for name in ("stabilizer", "method")}
    data = replace(config.data, batch_size=16, max_constituents=20)
    return Job(group, 1, values_of(replace(config, options=options, data=data)))


@pytest.mark.parametrize("study", [spurions.Spurions(), spurions.QuarkGluon(), spurions.WMomentum()])
def test_a_job_gives_its_numbers(study: spurions.Spurions, tmp_path: Path) -> None:
    """Networks with other inputs, and with spurions, give the invariant network's first outputs."""
    jets = jets_with_truth()
    paths = events.write(tmp_path, "jets", [jets[:32], jets, jets])
    found: dict[str, Numbers] = {}
    for group in ("SO(2), input", "SO(2), spurions"):
        folder = tmp_path / group
        folder.mkdir()
        found[group] = study.run(job_of(study, group), Place(events.Events(*map(str, paths), "few"), folder))
        assert set(study.columns) <= set(found[group])
    assert all(numbers["first_difference"] < spurions.ROUNDING for numbers in found.values())
    records: dict[str, Any] = {
        f"{group}, seed 1": {"job": job_of(study, group).as_dict(), "seconds": 1.0, "numbers": numbers}
        for group, numbers in found.items()
    }
    results = Results({**machine.machine(study.name, 1), "records": records})
    table = study.table(results)
    assert "| SO(2), spurions |" in table
    assert "| the same |" in table
    study.plot(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_simulated_jets_of_other_kinds_need_the_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError("pythia8mc")

    monkeypatch.setattr(events, "_generate", missing)
    for data in ("momenta", "identified"):
        with pytest.raises(ImportError):
            events.simulate([data], False, tmp_path, Workers(), lambda line: None)
    events.simulate(["jets", "hits"], False, tmp_path, Workers(), lambda line: None)
    assert "sample" in events.events_of("jets", False, [], tmp_path).about
