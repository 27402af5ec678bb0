"""Tests what runs studies: what is resumed, shared, simulated and estimated, in this process and in others."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

from equikernels.bench.studies import events, runner, tables, times, training, workers
from equikernels.bench.studies.command import STUDIES
from equikernels.bench.studies.study import Job, Numbers, Place, Results, Study, seeds

import equikernels as ek

from ..support import ROOT


class Fake(Study):
    """Two groups with three seeds; the numbers follow from the job."""

    name, asks, source, data = "fake", "Is it so?", "nowhere", None

    def __init__(self, stop_after: int = 99, scale: float = 1.0) -> None:
        self.left, self.scale, self.ran = stop_after, scale, list[str]()

    def points(self, full: bool) -> list[Job]:
        return [Job(group, s, {"scale": self.scale}) for s in seeds(full) for group in ("a", "b")]

    def run(self, job: Job, place: Place) -> Numbers:
        if self.left == 0:
            raise KeyboardInterrupt
        assert list(place.folder.iterdir()) == []
        (place.folder / "left").write_text("")
        self.left -= 1
        self.ran.append(job.key)
        return {"auc": job.seed * job.values["scale"], "values": [job.seed, 2 * job.seed], "only_a": job.group == "a"}

    def seconds(self, job: Job, place: Place) -> float | None:
        return 7.0 if job.group == "a" else None

    def table(self, results: Results) -> str:
        return tables.markdown(
            ["group", "auc"], [[g, tables.cell(results.spread(g, "auc"), 1)] for g in results.groups]
        )

    def plot(self, results: Results, path: Path) -> None:
        path.write_text("")


class Paired(Fake):
    """Jobs of "a" end after the job of "b" that begins behind them: two processes are needed."""

    name = "paired"

    def run(self, job: Job, place: Place) -> Numbers:
        done = place.folder.parent / f"b, seed {job.seed}, done"
        if job.group == "b":
            done.write_text("")
        for _ in range(6000):
            if done.exists():
                break
            time.sleep(0.01)
        assert done.exists()
        return {"auc": job.seed, "process": os.getpid(), "threads": torch.get_num_threads()}


class Alone(Fake):
    name, alone = "alone", True

    def run(self, job: Job, place: Place) -> Numbers:
        return {"auc": job.seed, "process": os.getpid(), "threads": torch.get_num_threads()}


def go(study: Study, folder: Path, full: bool = False) -> list[str]:
    lines: list[str] = []
    list(runner.run([study], full, folder, say=lines.append))
    return lines


def test_a_stopped_study_goes_on_where_it_was(tmp_path: Path) -> None:
    stopped, whole = Fake(stop_after=3), Fake()
    with pytest.raises(KeyboardInterrupt):
        go(stopped, tmp_path)
    records = json.loads((tmp_path / "fake.json").read_text())["records"]
    assert list(records) == stopped.ran == ["a, seed 0", "b, seed 0", "a, seed 1"]
    assert not (tmp_path / "fake.md").exists()
    lines = go(whole, tmp_path)
    assert whole.ran == ["b, seed 1", "a, seed 2", "b, seed 2"]
    assert lines[1].startswith("3 of 6 jobs have results in ")
    again = Fake()
    assert "jobs:" not in "".join(go(again, tmp_path))
    assert again.ran == []
    assert (
        tmp_path / "fake.md"
    ).read_text() == "| group | auc |\n| --- | --- |\n| a | 1.0 ± 1.0 |\n| b | 1.0 ± 1.0 |\n"
    assert (tmp_path / "fake.png").exists()


def test_other_values_run_again_and_other_kinds_are_refused(tmp_path: Path) -> None:
    go(Fake(), tmp_path)
    other = Fake(scale=2.0)
    go(other, tmp_path)
    assert len(other.ran) == 6
    records = json.loads((tmp_path / "fake.json").read_text())["records"]
    assert records["a, seed 2"]["numbers"]["auc"] == 4.0
    with pytest.raises(ValueError, match="no results, or results of full"):
        go(Fake(), tmp_path, full=True)


def test_the_time_is_said_before_and_between(tmp_path: Path) -> None:
    lines = go(Fake(), tmp_path)
    assert lines[1] == "6 jobs: about 21 s, and 3 jobs whose time is not known before they run"
    assert lines[2].endswith("left: about 0 s, and 3 jobs whose time is not known before they run")
    assert lines[3].endswith("left: about 0 s")  # both groups have results
    assert [workers.minutes(s) for s in (89, 300, 7200)] == ["89 s", "5 min", "2.0 h"]


def test_jobs_run_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In as many processes as there are threads, but those that measure time in this one; records keep their order."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])  # the processes read this file
    before, lines = torch.get_num_threads(), list[str]()
    try:
        for _ in runner.run([Paired(), Alone()], False, tmp_path, threads=2, say=lines.append):
            pass
    finally:
        torch.set_num_threads(before)
    assert lines[0] == "2 studies, 12 jobs: about 32 s, and 6 jobs whose time is not known before they run"
    for study, processes, threads in ((Paired(), 2, 1), (Alone(), 1, 2)):
        document = json.loads((tmp_path / f"{study.name}.json").read_text())
        assert list(document["records"]) == [job.key for job in study.points(False)]
        assert document["machine"]["threads"] == threads
        numbers = [record["numbers"] for record in document["records"].values()]
        found = {n["process"] for n in numbers}
        assert {n["threads"] for n in numbers} == {threads}
        assert len(found) == processes
        assert (os.getpid() in found) == study.alone


def test_jobs_of_one_key_are_an_error() -> None:
    with pytest.raises(ValueError, match="jobs of different keys"):
        runner.pending([Job("a"), Job("a", 0, {"x": 1})], {"records": {}})


def test_events_do_not_depend_on_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is simulated by itself, with its own seed; what is there is not simulated again."""
    pytest.importorskip("pythia8mc")
    monkeypatch.setitem(events.SIZES, ("jets", False), events.Sizes(3, 2, 4))
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        lines: list[str] = []
        with workers.Workers(number) as processes:
            events.simulate(["jets"], False, folder, processes, lines.append)
            assert lines[0].startswith("events are simulated (jets): about ")
            assert len(lines) == 4
            events.simulate(["jets"], False, folder, processes, lines.append)
            with pytest.raises(ValueError, match="invalid literal"):
                list(processes.each(int, [("1",), ("x",)]))
            assert sorted(processes.each(int, [("5",), ("7",)])) == [(0, 5), (1, 7)]
        assert len(lines) == 4
        made = events.events_of("jets", False, [], folder)
        assert made.about == "simulated jets, seeds from 20 on: 3, 2, 4 (train, validation, test)"
        found.append([ek.data.Jets.load(path) for path in (made.train, made.validation, made.test)])
    for one, two, seed in zip(*found, (20, 21, 22), strict=True):
        again = ek.generate.generate_jets(len(one), seed)
        for of in (two, again):
            assert torch.equal(of.p4, one.p4)
            assert torch.equal(of.label, one.label)


def test_a_training_that_two_studies_need_is_made_once(few: events.Events, tmp_path: Path) -> None:
    config = training.with_training(training.networks("jets", False)["PFN"], epochs=1)

    class One(training.TrainingStudy):
        name = "one"

    class Altered(One):
        def altered(self, job: Job) -> str:
            return "boosted"

    job, again = Job("PFN", 0, training.values_of(config)), Job("deep sets", 0, training.values_of(config, x=1))
    places = [Place(few, tmp_path / str(k), tmp_path / "trainings") for k in range(4)]
    for place in places:
        place.folder.mkdir()
    first = One().run(job, places[0])
    (kept,) = (tmp_path / "trainings").iterdir()
    assert One().training(again, few) == kept.name
    assert times.Times(One(), {"records": {}}, places[1], workers.Workers()).of([again]) == (0.0, 0)
    (kept / "report.json").write_text((kept / "report.json").read_text().replace('"epochs": 1', '"epochs": 77'))
    second = One().run(again, places[1])
    assert second == {**first, "epochs": 77}
    for study, other, place in ((Altered(), job, places[2]), (One(), Job("PFN", 1, job.values), places[3])):
        assert study.run(other, place)["epochs"] == 1
    assert len(list((tmp_path / "trainings").iterdir())) == 3


def test_what_studies_share() -> None:
    """A training belongs to one job of a study, and to another study's where both ask for the same."""
    given = events.Events("train.npz", "validation.npz", "test.npz", "none")
    names = {}
    for name, study in STUDIES.items():
        found = [study.training(job, given) for job in study.points(False)]
        trainings = [training for training in found if training is not None]
        assert len(set(trainings)) == len(trainings)
        names[name] = set(trainings)
    assert len(names["accuracy"] & names["ant"]) == 18
    assert len(names["fractions"] & names["ablation"]) == 3
    assert len(names["tracking"] & names["rotations"]) == 6
    assert not names["inference"]
    assert not names["accuracy"] & names["boosts"]
