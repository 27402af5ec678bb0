"""Tests the studies: what is evaluated and shown; that every job of every study can be built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")

from equikernels.bench import machine
from equikernels.bench.studies import (
    boosts,
    covariance,
    events,
    invariance,
    pages,
    rotations,
    tables,
    tracking,
    training,
)
from equikernels.bench.studies.command import STUDIES
from equikernels.bench.studies.study import Job, Place, Published, Results

import equikernels as ek
from equikernels import cli
from equikernels.train.config import Config
from equikernels.train.tasks import TASKS, Hits, build

from ..support import ROOT


def test_means_and_spreads() -> None:
    records = {f"{k}": {"job": {"group": "a"}, "numbers": {"x": x, "c": [x, 1.0]}} for k, x in enumerate((1.0, 3.0))}
    records["2"] = {"job": {"group": "a"}, "numbers": {"x": None}}
    results = Results({"records": records})
    found = results.spread("a", "x")
    assert found is not None
    assert (found.mean, found.trainings) == (2.0, 2)
    assert found.deviation == pytest.approx(2**0.5)
    assert [s.mean for s in results.curve("a", "c")] == [2.0, 1.0]
    assert results.spread("a", "absent") is results.spread("b", "x") is None
    assert tables.cell(found, 2) == "2.00 ± 1.41"
    assert tables.cell(Results({"records": {"0": records["0"]}}).spread("a", "x"), 2) == "1.00"
    assert tables.other_data(Published("0.98", "S")) == "0.98 (S)"


# --- Events -------------------------------------------------------------------------------------------------------


def test_one_file_is_cut_into_disjoint_parts(tmp_path: Path) -> None:
    jets = ek.data.load_sample_jets()[:100]
    jets.save(tmp_path / "mine.npz")
    found = events.events_of("jets", False, [tmp_path / "mine.npz"], tmp_path / "data")
    parts = [ek.data.Jets.load(path) for path in (found.train, found.validation, found.test)]
    assert [len(part) for part in parts] == [60, 10, 30]
    sums = torch.cat([part.p4.double() for part in parts]).sum(1).sort().values
    assert torch.equal(sums, jets.p4.double().sum(1).sort().values)
    assert str(tmp_path / "mine.npz") in found.about


def test_hit_graphs_are_kept_in_files(tmp_path: Path) -> None:
    graphs = ek.data.load_sample_hit_graphs()[:3]
    ek.data.save_hit_graphs(tmp_path / "graphs.npz", graphs)
    found = events.events_of("hits", False, [tmp_path / "graphs.npz"] * 3, tmp_path / "data")
    again = events.read_hits(Path(found.test))
    assert len(again) == 3
    for before, after in zip(graphs, again, strict=True):
        assert torch.equal(before.graph.edge_index, after.graph.edge_index)
        for name in ("x", "edge_attr", "y", "layer", "particle_id", "pt"):
            torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=0)
    ek.data.load_sample_jets()[:2].save(tmp_path / "jets.npz")
    with pytest.raises(ValueError, match=r"load_hit_graphs: .*no count"):
        ek.data.load_hit_graphs(tmp_path / "jets.npz")


# --- The studies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("full", [False, True])
def test_every_job_can_be_built(name: str, full: bool) -> None:
    """Keys are different, values survive JSON, and networks take their options."""
    jobs = STUDIES[name].points(full)
    assert len({job.key for job in jobs}) == len(jobs) > 0
    assert len({job.seed for job in jobs}) >= (5 if full else 3)
    for job in jobs[: len({job.group for job in jobs})]:
        assert json.loads(json.dumps(job.as_dict())) == job.as_dict()
        if "config" in job.values:
            config = Config.of(job.values["config"])
            assert sum(p.numel() for p in build(config.network, config.options, config.backend).parameters()) > 0


def test_a_training_gives_numbers_that_its_seed_determines(few: events.Events, tmp_path: Path) -> None:
    config = training.with_training(training.networks("jets", False)["LorentzNet"], epochs=1)
    values: dict[str, Any] = training.values_of(config)

    class One(training.TrainingStudy):
        name = "one"

    found = []
    for k, seed in enumerate((3, 3, 4)):
        folder = tmp_path / str(k)
        folder.mkdir()
        numbers = One().run(Job("LorentzNet", seed, values), Place(few, folder))
        found.append({name: value for name, value in numbers.items() if name != "training_s"})
    assert found[0] == found[1] != found[2]
    assert found[0]["parameters"] == 13_205
    assert 0 < found[0]["auc"] < 1
    seconds = One().seconds(Job("LorentzNet", 3, values), Place(few, tmp_path))
    assert seconds is not None
    assert 0 < seconds < 60


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(STUDIES)
    with pytest.raises(SystemExit):
        cli.main(["study", "nothing"])


# --- What the studies evaluate ------------------------------------------------------------------------------------


def test_a_turn_of_hits_turns_their_points() -> None:
    graph = ek.data.load_sample_hit_graphs()[0]
    turned = rotations.rotated(graph, 135.0)
    turn = covariance.turn_of(135.0)
    torch.testing.assert_close(
        turned.cartesian[:, :2].double(), graph.cartesian[:, :2].double() @ turn.T, rtol=0, atol=1e-6
    )
    assert turned.x[:, 1].abs().max() <= 1
    assert torch.equal(turned.x[:, [0, 2]], graph.x[:, [0, 2]])


def test_the_auc_of_turned_hits_is_constant_for_a_symmetric_network_alone() -> None:
    graphs = ek.data.load_sample_hit_graphs()[:2]
    changes = {}
    for name, config in tracking.trackers(False).items():
        torch.manual_seed(0)
        model = training.Classifier(config.as_dict()).eval()
        aucs = [rotations.auc_at(model, graphs, degrees) for degrees in rotations.DEGREES]
        changes[name] = max(aucs) - min(aucs)
    symmetric, other = changes["EuclidNet, h 8"], changes["Interaction Network, h 16"]
    assert symmetric < 1e-3 < other


def test_points_are_covariant_to_rounding() -> None:
    graphs = ek.data.load_sample_hit_graphs()[:1]
    found = [covariance.violations(graphs, 0, dtype)["distance"] for dtype in (torch.float64, torch.float32)]
    assert max(found[0]) < 1e-10 < max(found[1]) < 1e-3
    assert len(found[0]) == len(covariance.TURNS)


def test_random_boosts_keep_masses() -> None:
    jets = ek.data.load_sample_jets()[:20].to(dtype=torch.float64)
    boosted = boosts.augmented(jets, 1)

    def mass2(of: ek.data.Jets) -> torch.Tensor:
        total = torch.segment_reduce(of.p4, "sum", offsets=of.ptr)
        return total[:, 0] ** 2 - (total[:, 1:] ** 2).sum(1)

    torch.testing.assert_close(mass2(boosted), mass2(jets), rtol=1e-9, atol=0)
    assert not torch.allclose(boosted.p4[:, 0], jets.p4[:, 0], rtol=0.01)
    assert torch.equal(boosts.augmented(jets, 1).p4, boosted.p4)
    p4 = jets.p4 @ invariance.boost(0.6).T
    torch.testing.assert_close(p4[:, 0], 1.25 * (jets.p4[:, 0] - 0.6 * jets.p4[:, 1]))


def test_edges_of_a_cut() -> None:
    score, label = torch.tensor([0.9, 0.6, 0.4, 0.2, 0.1]), torch.tensor([1, 0, 1, 0, 0])
    assert tracking.edges(score, label, 0.5) == {
        "efficiency": 0.5,
        "purity": 0.5,
        "balanced_accuracy": (0.5 + 2 / 3) / 2,
    }


def test_euclidnet_reads_edges_in_both_directions() -> None:
    batch = Hits.of(ek.data.load_sample_hit_graphs()[:1])
    task = TASKS["EuclidNet"]
    x, graph = task.arguments(batch, torch.float32, False)
    edges = batch.graph.edge_index
    assert torch.equal(graph.edge_index, torch.cat([edges, edges.flip(0)], dim=1))
    assert torch.equal(task.label(batch), torch.cat([batch.y, batch.y]).long())
    r, _, z = batch.x.unbind(1)
    torch.testing.assert_close(x[:, :2].norm(dim=1), 10 * r)
    torch.testing.assert_close(x[:, 2], 10 * z)


# --- The page -----------------------------------------------------------------------------------------------------


def test_the_page_is_in_step_with_the_results() -> None:
    stale = pages.page(ROOT) != (ROOT / pages.PAGE).read_text()
    assert not stale, "run `python -m bench.studies.pages` and commit"
    for name in pages.load(ROOT):
        assert (ROOT / pages.figure(name)).is_file()


@pytest.mark.parametrize("name", STUDIES)
def test_committed_results_are_of_the_jobs(name: str) -> None:
    document = pages.load(ROOT)[name].document
    jobs = STUDIES[name].points(document["kind"] == "full")
    assert [record["job"] for record in document["records"].values()] == [job.as_dict() for job in jobs]


def test_what_was_not_run_and_what_was_stopped_is_said() -> None:
    study = STUDIES["tracking"]
    assert pages.section(study, None) == "Not run yet: `equikernels study tracking --quick`."
    job = study.points(False)[0]
    numbers = {"parameters": 1874, "auc": 0.5, "efficiency": 0.5, "purity": 0.5, "balanced_accuracy": 0.5}
    document = {**machine.machine("tracking", 2), "kind": "quick", "events": "some hits"}
    document["records"] = {job.key: {"job": job.as_dict(), "seconds": 1.0, "numbers": numbers}}
    text = pages.section(study, Results(document))
    assert "| EuclidNet, h 8 | 1,874 | 0.5000 |" in text
    assert "0.9913 ± 0.004" in text
    assert "**Stopped before its last job.**" in text
