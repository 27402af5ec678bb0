"""Tests the reader of ROOT's RNTuples: jets as entries, and NanoAOD of both shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from equikernels.data import read_jets

from ..support import jet_files
from ..support.jet_files import jets_of
from .test_read_jets import same

JETS = jets_of()


def test_an_ntuple(tmp_path: Path) -> None:
    same(read_jets(jet_files.rntuple(tmp_path / "jets.root", JETS)), JETS)


@pytest.mark.parametrize("records", [False, True])
def test_nanoaod(tmp_path: Path, records: bool) -> None:
    path = jet_files.nanoaod_rntuple(tmp_path / "jets.root", JETS, records)
    jets = read_jets(path)
    same(jets, JETS, exact=False)
    assert set(jets.features["pdg_id"].tolist()) == {211}
    assert read_jets(path, label="FatJet_hadronFlavour").label.tolist() == JETS.label.tolist()
    assert read_jets(path, label="run").label.tolist() == [5, 5, 7, 7, 7, 7, 7]


@pytest.mark.parametrize("records", [False, True])
def test_a_collection_of_nanoaod_by_its_prefix(tmp_path: Path, records: bool) -> None:
    """Entries are events then: 2 jets, none, and the other ones."""
    path = jet_files.nanoaod_rntuple(tmp_path / "jets.root", JETS, records)
    events = read_jets(path, "root", prefix="PFCands_")
    counts = JETS.ptr.diff()
    assert events.ptr.diff().tolist() == [int(counts[:2].sum()), 0, int(counts[2:].sum())]
    first = events.p4[: int(events.ptr[1])].flip(0)
    torch.testing.assert_close(first, JETS.p4[: len(first)], rtol=1e-8, atol=1e-9)
