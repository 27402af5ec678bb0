"""Comma-separated tables of hits, as on disk or compressed; an error names file, column and line."""

from __future__ import annotations

import bz2
import csv
import gzip
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn, TextIO

import numpy as np

from ..checks import fail

Columns = Mapping[str, type]
DTYPES: dict[type, type] = {float: np.float64, int: np.int64, np.uint64: np.uint64}
ENDINGS = (".csv", ".csv.gz", ".csv.bz2")


def find(prefix: Path, *kinds: str) -> Path | None:
    """The file ``<prefix>-<kind>.csv``, perhaps compressed, of the first kind that there is."""
    paths = [prefix.with_name(f"{prefix.name}-{kind}{ending}") for kind in kinds for ending in ENDINGS]
    return next((path for path in paths if path.exists()), None)


def need(op: str, prefix: Path, *kinds: str) -> Path:
    """The same; it is an error if there is none."""
    path = find(prefix, *kinds)
    if path is None:
        names = " or ".join(f"{prefix.name}-{kind}.csv" for kind in kinds)
        raise FileNotFoundError(f"{op}: prefix: expected a file {names} (or .csv.gz, .csv.bz2) in {prefix.parent}")
    return path


def _open(path: Path) -> TextIO:
    # some programs write a byte order mark at the start
    for suffix, module in ((".gz", gzip), (".bz2", bz2)):
        if path.suffix == suffix:
            return module.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _names(file: TextIO) -> list[str]:
    return [name.strip() for name in next(csv.reader(file), [])]


def header(path: Path) -> list[str]:
    """The names of the columns."""
    with _open(path) as file:
        return _names(file)


def read(op: str, path: Path, columns: Columns, key: str | None = None) -> np.ndarray:
    """The columns as a structured array; values of ``key``, if given, are unique."""
    with _open(path) as file:
        names = _names(file)
        missing = [name for name in columns if name not in names]
        if missing:
            fail(op, path.name, f"columns {', '.join(columns)}", f"no {', '.join(missing)}")
        repeated = [name for name in columns if names.count(name) > 1]
        if repeated:
            fail(op, path.name, "every column once", f"{', '.join(repeated)} again")
        places = [names.index(name) for name in columns]
        dtype = np.dtype([(name, DTYPES[kind]) for name, kind in columns.items()])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)  # an integer written as a real number
                warnings.filterwarnings("ignore", message=".*input contained no data.*")
                table = np.loadtxt(file, dtype, None, ",", usecols=places, ndmin=1, quotechar='"')
        except EOFError as error:
            fail(op, path.name, "a complete file", error)
        except (ValueError, OverflowError, DeprecationWarning) as error:
            _explain(op, path, columns, places, error)
    for name, kind in columns.items():
        if kind is float and not np.isfinite(table[name]).all():
            bad = int(np.flatnonzero(~np.isfinite(table[name]))[0])
            refuse(op, path, name, bad, "a finite number", table[name][bad])
    if key is None:
        return table
    order = np.argsort(table[key], kind="stable")
    twice = np.flatnonzero(np.diff(table[key][order]) == 0)
    if len(twice):
        first, second = order[twice[0]], order[twice[0] + 1]
        refuse(
            op,
            path,
            key,
            int(second),
            "every id once",
            f"{table[key][second]} again, first in line {_line(path, first)}",
        )
    return table


def look_up(wanted: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def refuse(op: str, path: Path, column: str, row: int, expected: str, got: object) -> NoReturn:
    fail(op, f"{path.name}: column {column}, line {_line(path, row)}", expected, got)


def _explain(op: str, path: Path, columns: Columns, places: list[int], error: Exception) -> NoReturn:
    """Finds the cell that numpy could not read."""
    for line, cells in _rows(path):
        for (name, kind), place in zip(columns.items(), places, strict=True):
            where = f"{path.name}: column {name}, line {line}"
            if place >= len(cells):
                fail(op, where, "a value", f"a line of {len(cells)} values")
            try:
                value = float(cells[place]) if kind is float else int(cells[place])
            except ValueError:
                fail(op, where, "a number" if kind is float else "an integer", repr(cells[place]))
            if kind is not float and not np.iinfo(kind).min <= value <= np.iinfo(kind).max:
                fail(op, where, "an integer of 64 bits", value)
    fail(op, path.name, "comma-separated numbers", error)
