"""Reader of TrackML events (arXiv 1904.06778): CSV files of hits, truth and particles, as on disk or gzipped."""

from __future__ import annotations

import csv
import gzip
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

import numpy as np
import torch
from torch import Tensor

from ..checks import fail

OP = "load_trackml"
Columns = dict[str, type]


@dataclass(frozen=True)
class Hits:
    """Hits of one event.

    Attributes:
        xyz: float64 [n, 3] positions in mm.
        volume, layer: int64 [n], the detector's numbers.
        hit_id: int64 [n], the file's.
        particle_id: int64 [n], the particle that left the hit; 0 for noise.
        pt: float64 [n], its transverse momentum where it was produced, GeV; 0 for noise.
    """

    xyz: Tensor
    volume: Tensor
    layer: Tensor
    hit_id: Tensor
    particle_id: Tensor
    pt: Tensor

    def __len__(self) -> int:
        return self.xyz.shape[0]

    def __getitem__(self, rows: Tensor) -> Hits:
        """The hits of a mask or an index."""
        fields = (self.xyz, self.volume, self.layer, self.hit_id, self.particle_id, self.pt)
        return Hits(*(field[rows] for field in fields))


def load_trackml(prefix: str | Path) -> Hits:
    """Reads ``<prefix>-hits.csv``, ``<prefix>-truth.csv`` and ``<prefix>-particles.csv`` (or ``.csv.gz``).

    Columns may have any order. Other columns, truth of hits that are not in the file of hits, and the file of cells are
    ignored.

    Args:
        prefix: such as ``"train_100_events/event000001000"``.

    Returns:
        Hits in the order of the file.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a column is missing; a cell is not a number, NaN or infinite; an id occurs twice; a hit has no
            truth, or truth refers to a particle that is not in the file of particles. The message names file, column
            and line.
    """
    hits_file, truth_file, particles_file = (_find(Path(prefix), kind) for kind in ("hits", "truth", "particles"))
    hits = _read(
        hits_file,
        {"hit_id": int, "x": float, "y": float, "z": float, "volume_id": int, "layer_id": int},
        key="hit_id",
    )
    truth = _read(truth_file, {"hit_id": int, "particle_id": int}, key="hit_id")
    particles = _read(particles_file, {"particle_id": int, "px": float, "py": float}, key="particle_id")

    row, found = _look_up(hits["hit_id"], truth["hit_id"])
    if not found.all():
        bad = int(np.flatnonzero(~found)[0])
        _refuse(hits_file, "hit_id", bad, f"a hit with a row in {truth_file.name}", hits["hit_id"][bad])
    particle = truth["particle_id"][row]
    owner, found = _look_up(particle, particles["particle_id"])
    noise = particle == 0
    if not (found | noise).all():
        bad = int(row[np.flatnonzero(~(found | noise))[0]])
        expected = f"0 or a particle of {particles_file.name}"
        _refuse(truth_file, "particle_id", bad, expected, truth["particle_id"][bad])
    pt = np.zeros(len(particle))
    pt[~noise] = np.hypot(particles["px"], particles["py"])[owner[~noise]]
    xyz = np.stack([hits["x"], hits["y"], hits["z"]], axis=1)
    columns = (xyz, hits["volume_id"], hits["layer_id"], hits["hit_id"], particle, pt)
    return Hits(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))


def _find(prefix: Path, kind: str) -> Path:
    for ending in (".csv", ".csv.gz"):
        path = prefix.with_name(f"{prefix.name}-{kind}{ending}")
        if path.exists():
            return path
    raise FileNotFoundError(f"{OP}: prefix: expected a file {prefix.name}-{kind}.csv or .csv.gz in {prefix.parent}")


def _open(path: Path) -> TextIO:
    # some programs write a byte order mark at the start
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _read(path: Path, columns: Columns, key: str) -> np.ndarray:
    """The columns as a structured array; values of ``key`` are unique."""
    with _open(path) as file:
        header = [name.strip() for name in next(csv.reader(file), [])]
        missing = [name for name in columns if name not in header]
        if missing:
            fail(OP, path.name, f"columns {', '.join(columns)}", f"no {', '.join(missing)}")
        repeated = [name for name in columns if header.count(name) > 1]
        if repeated:
            fail(OP, path.name, "every column once", f"{', '.join(repeated)} again")
        places = [header.index(name) for name in columns]
        dtype = np.dtype([(name, np.int64 if kind is int else np.float64) for name, kind in columns.items()])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)  # an integer written as a real number
                warnings.filterwarnings("ignore", message=".*input contained no data.*")
                table = np.loadtxt(file, dtype, None, ",", usecols=places, ndmin=1, quotechar='"')
        except (ValueError, OverflowError, DeprecationWarning) as error:
            _explain(path, columns, places, error)
    for name, kind in columns.items():
        if kind is float and not np.isfinite(table[name]).all():
            bad = int(np.flatnonzero(~np.isfinite(table[name]))[0])
            _refuse(path, name, bad, "a finite number", table[name][bad])
    order = np.argsort(table[key], kind="stable")
    twice = np.flatnonzero(np.diff(table[key][order]) == 0)
    if len(twice):
        first, second = order[twice[0]], order[twice[0] + 1]
        _refuse(
            path, key, int(second), "every id once", f"{table[key][second]} again, first in line {_line(path, first)}"
        )
    return table


def _look_up(wanted: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row of ``keys`` with each wanted value, whether it exists)."""
    if len(keys) == 0:
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    order = np.argsort(keys)
    row = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)]
    return row, keys[row] == wanted


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every row below the header, without empty lines."""
    with _open(path) as file:
        reader = csv.reader(file)
        next(reader, None)
        for cells in reader:
            if cells:
                yield reader.line_num, cells


def _line(path: Path, row: int) -> int:
    return next(line for k, (line, _) in enumerate(_rows(path)) if k == row)


def _refuse(path: Path, column: str, row: int, expected: str, got: object) -> NoReturn:
    fail(OP, f"{path.name}: column {column}, line {_line(path, row)}", expected, got)


def _explain(path: Path, columns: Columns, places: list[int], error: Exception) -> NoReturn:
    """Finds the cell that numpy could not read."""
    for line, cells in _rows(path):
        for (name, kind), place in zip(columns.items(), places, strict=True):
            where = f"{path.name}: column {name}, line {line}"
            if place >= len(cells):
                fail(OP, where, "a value", f"a line of {len(cells)} values")
            try:
                value = kind(cells[place])
            except ValueError:
                fail(OP, where, "an integer" if kind is int else "a number", repr(cells[place]))
            if kind is int and abs(value) >= 2**63:
                fail(OP, where, "an integer of 64 bits", value)
    fail(OP, path.name, "comma-separated numbers", error)
