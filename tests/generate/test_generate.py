"""Tests generated jets and hits: reproducible, and like the samples of the package."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from equikernels import cli
from equikernels.data import (
    Jets,
    hit_graph,
    invariant_mass,
    load_sample_jets,
    load_trackml,
    quark_gluon_scalars,
    read_jets,
)
from equikernels.generate import generate_hits, generate_jets

NEEDED = ("pythia8mc", "fastjet", "awkward", "tqdm")


def libraries() -> None:
    for name in NEEDED:
        pytest.importorskip(name, reason="the extra generate is not installed")


def masses(jets: Jets) -> torch.Tensor:
    jet = torch.repeat_interleave(jets.ptr.diff())
    return invariant_mass(torch.zeros(len(jets), 4, dtype=torch.float64).index_add_(0, jet, jets.p4.double()))


@pytest.mark.slow
def test_jets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    libraries()
    path = tmp_path / "new" / "jets.npz"
    assert cli.main(["generate", "jets", "--number", "200", "--seed", "1", "--output", str(path)]) == 0
    out, err = capsys.readouterr()
    assert f"wrote {path}" in out
    assert err == ""  # no progress bar without a terminal
    jets = Jets.load(path)
    assert len(jets) == 200
    assert jets.p4.dtype == torch.float32
    assert jets.label.sum() == 100
    assert torch.equal(read_jets(path).p4, jets.p4.double())
    falling = jets.p4[:, 1:3].norm(dim=1).diff() <= 0
    falling[jets.ptr[1:-1] - 1] = True
    assert falling.all()
    sample, top = load_sample_jets(), jets.label == 1
    mass, count = masses(jets), jets.ptr.diff().double()
    assert 165 < mass[top].median() < 178
    assert mass[~top].median() < 90
    for label in (0, 1):
        expected = sample.ptr.diff()[sample.label == label].double()
        assert abs(count[jets.label == label].mean() - expected.mean()) < 4 * expected.std() / 10
    same = generate_jets(20, 1)
    again = generate_jets(20, 1)
    assert torch.equal(same.p4, again.p4)
    assert torch.equal(same.label, again.label)
    assert not torch.equal(generate_jets(20, 2).ptr, same.ptr)


@pytest.mark.slow
def test_jets_with_a_w_and_of_quarks_and_gluons(tmp_path: Path) -> None:
    """The W's mass, and its place in the jet; gluons have more constituents than quarks."""
    libraries()
    path = tmp_path / "w.npz"
    assert cli.main(["generate", "jets", "--kind", "w", "--number", "20", "--output", str(path)]) == 0
    jets = read_jets(path)
    assert jets.label.unique().tolist() == [1]
    boson = jets.truth["W"].double()
    assert (invariant_mass(boson) - 80.4).abs().median() < 4
    jet = torch.repeat_interleave(jets.ptr.diff())
    whole = torch.zeros(20, 4, dtype=torch.float64).index_add_(0, jet, jets.p4.double())
    cosine = torch.nn.functional.cosine_similarity(boson[:, 1:], whole[:, 1:])
    assert cosine.min() > 0.7
    assert not torch.equal(generate_jets(20, 1, "w").truth["W"], jets.truth["W"])

    jets = generate_jets(60, 2, "quark_gluon")
    assert jets.label.sum() == 30
    count = jets.ptr.diff().double()
    assert count[jets.label == 0].mean() > count[jets.label == 1].mean() + 5
    quark_gluon_scalars(jets.features["pdg_id"])  # all identities are known
    pt = torch.zeros(60, 4).index_add_(0, torch.repeat_interleave(jets.ptr.diff()), jets.p4)[:, 1:3].norm(dim=1)
    assert ((pt > 499) & (pt < 551)).all()


@pytest.mark.slow
def test_hits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    libraries()
    arguments = [
        "generate",
        "hits",
        "--number",
        "1",
        "--pile-up",
        "20",
        "--seed",
        "1",
        "--output",
        str(tmp_path / "hits"),
    ]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().err == ""
    hits = load_trackml(tmp_path / "hits" / "event000000000")
    again = next(generate_hits(1, 1, 20))
    assert torch.equal(hits.xyz, again.xyz)
    assert torch.equal(hits.particle_id, again.particle_id)
    graph = hit_graph(hits)
    assert graph.graph.num_nodes > 100
    assert graph.y.float().mean() > 0.6


@pytest.mark.parametrize("kind", ["jets", "hits"])
def test_a_missing_library_names_the_extra(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert cli.main(["generate", kind, "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("equikernels generate: needs ")
    assert 'pip install "equikernels[generate]"' in message


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="generate_jets: number: expected at least 1, got 0"):
        generate_jets(0)
    with pytest.raises(ValueError, match="generate_jets: kind: expected one of top, w, quark_gluon, got 'b'"):
        generate_jets(1, kind="b")
    with pytest.raises(ValueError, match="generate_hits: seed: expected at least 0, got -1"):
        generate_hits(1, -1)
    for arguments in (["generate"], ["generate", "jets", "--number", "0"], ["generate", "tracks"]):
        with pytest.raises(SystemExit):
            cli.main(arguments)
