"""Tests that the code of docs/data.md runs, on files that the libraries of the field wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from equikernels.data.read import FORMATS
from equikernels.generate.hits import trace, write_trackml

from ..support import ROOT, jet_files
from ..test_readme import blocks_of

PAGE = (ROOT / "docs" / "data.md").read_text()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("vector")
    jets = jet_files.jets_of(30)
    for name, write in {
        "train.h5": jet_files.top,
        "pelican_train.h5": jet_files.pmu,
        "toptagging_full.npz": jet_files.kinematics,
        "QG_jets.npz": jet_files.energyflow,
        "t.hdf5": jet_files.jetnet,
        "JetClass.root": jet_files.jetclass,
        "pfnano.root": jet_files.nanoaod,
        "jets.parquet": jet_files.parquet,
        "events.lhe": jet_files.lhe,
        "events.hepmc": jet_files.hepmc,
    }.items():
        write(tmp_path / name, jets)
    shutil.copy(jet_files.FILES / "delphes.root", tmp_path)
    for folder in ("train_100_events", "acts"):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    p4 = np.array([[9.0, 5.0, 2.0, 4.0]] * 4)
    write_trackml(tmp_path / "train_100_events" / "event000001000", trace(p4, np.ones(4), np.arange(4.0), rng))
    acts = tmp_path / "acts" / "event000000000-hits.csv"
    acts.write_text(f"particle_id,geometry_id,tx,ty,tz\n5,{8 << 56},1,2,3\n")
    acts.with_name("event000000000-particles_simulated.csv").write_text("particle_id,px,py\n5,3,4\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("files")
def test_the_code_runs() -> None:
    blocks = blocks_of(PAGE)
    assert len(blocks) >= 7
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"data.md block {number}", "exec"), names)
    assert len(names["jets"]) == 31  # type: ignore[arg-type]
    assert names["top"].ptr.diff().max() == 80  # type: ignore[attr-defined]
    assert names["constituents"] == names["jets"].p4.shape[0]  # type: ignore[attr-defined]
    for name in ("top", "pelican", "heidelberg", "quark_gluon", "jetnet", "jetclass", "fat_jets", "parquet"):
        assert len(names[name]) == 31, name  # type: ignore[arg-type]
    assert names["species"].sum() == names["quark_gluon"].p4.shape[0]  # type: ignore[attr-defined]
    assert len(names["events"]) == 62  # type: ignore[arg-type]
    assert names["graph"].graph.num_edges > 0  # type: ignore[attr-defined]


def test_every_format_is_in_the_table() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in row.split("|")[1].replace("`", "").replace(",", " ").split()} == set(
        FORMATS
    )
