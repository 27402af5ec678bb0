"""Tests the reader of pandas' HDF5 tables: layouts, compression, and attributes that would run code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equikernels.data import iter_jets, read_jets

from ..support import jet_files
from ..support.jet_files import jets_of
from .test_read_jets import same

JETS = jets_of()


def frame_of(folder: Path) -> Any:
    return pytest.importorskip("pandas").read_hdf(jet_files.top(folder / "frame.h5", JETS), "table")


def test_a_fixed_table(tmp_path: Path) -> None:
    same(read_jets(jet_files.fixed(tmp_path / "val.h5", JETS)), JETS)


def test_several_tables(tmp_path: Path) -> None:
    path, frame = jet_files.top(tmp_path / "all.h5", JETS), frame_of(tmp_path)
    frame[:2].to_hdf(path, key="val", mode="a", format="table")
    with pytest.raises(ValueError, match="split: expected one of the tables table, val, got None"):
        read_jets(path)
    same(read_jets(path, split="table"), JETS)
    same(read_jets(path, split="val"), JETS[:2])
    frame.to_hdf(tmp_path / "deep.h5", key="jets/train", format="table")
    same(read_jets(tmp_path / "deep.h5"), JETS)


def test_columns_of_their_own_and_of_single_precision(tmp_path: Path) -> None:
    """pandas keeps columns that can be searched outside the blocks, and a block for each dtype."""
    frame = frame_of(tmp_path)
    names = [name for name in frame.columns if name[0] in "EP"]
    single = frame.astype(dict.fromkeys(names, "float32"))
    single.to_hdf(tmp_path / "b.h5", key="table", format="table", data_columns=["is_signal_new", "PX_0"])
    jets = read_jets(tmp_path / "b.h5")
    assert torch.equal(jets.p4, JETS.p4.float().double())
    assert torch.equal(jets.label, JETS.label)


@pytest.mark.parametrize("format", ["table", "fixed"])
@pytest.mark.parametrize("library", ["zlib", "blosc", "blosc:zstd", "bzip2"])
def test_compressed_tables(tmp_path: Path, format: Any, library: Any) -> None:
    pytest.importorskip("hdf5plugin")
    path = tmp_path / "jets.h5"
    frame_of(tmp_path).to_hdf(path, key="table", format=format, complib=library, complevel=5)
    same(read_jets(path), JETS)
    assert [len(part) for part in iter_jets(path, chunk=3)] == [3, 3, 1]


def test_other_columns_in_between(tmp_path: Path) -> None:
    """Columns in any order; labels that are true or false have a block of their own."""
    frame = frame_of(tmp_path)
    frame["is_signal_new"] = frame["is_signal_new"] == 1
    for format in ("table", "fixed"):
        path = tmp_path / f"{format}.h5"
        frame[frame.columns[::-1]].to_hdf(path, key="table", format=format)
        jets = read_jets(path)
        same(jets, JETS)
        assert jets.label.tolist() == JETS.label.tolist()


class Harm:
    """What makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_no_code_in_a_table_is_run(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path, harm = jet_files.top(tmp_path / "jets.h5", JETS), tmp_path / "harm"
    content = np.bytes_(pickle.dumps(Harm(harm), 0))
    with h5py.File(path, "r+") as file:
        for attributes in (file["table"].attrs, file["table/table"].attrs):
            attributes["info"] = content
    same(read_jets(path), JETS)
    with h5py.File(path, "r+") as file:
        file["table/table"].attrs["values_block_0_kind"] = content
    with pytest.raises(ValueError, match=r"jets.h5: expected a complete file .* got UnpicklingError: .*mkdir"):
        read_jets(path)
    assert not harm.exists()


def test_other_pandas_objects(tmp_path: Path) -> None:
    path = tmp_path / "jets.h5"
    frame_of(tmp_path)["E_0"].to_hdf(path, key="series")
    with pytest.raises(ValueError, match="series: expected a DataFrame, got a pandas object of type series"):
        read_jets(path)
    frame_of(tmp_path)[:0].to_hdf(path, key="series", format="fixed")
    with pytest.raises(ValueError, match=r"read_jets: .*expected"):
        read_jets(path)
