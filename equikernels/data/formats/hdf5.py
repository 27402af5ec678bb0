"""HDF5: the top tagging reference files (pandas tables), LorentzNet's and PELICAN's own, JetNet."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import fail
from ..four_momenta import cartesian
from .common import OP, Array, Labels, Options, Part, from_padded, listed, need, real_rows, spans


def top_tagging(path: Path, options: Options) -> Iterator[Part]:
    """A pandas table with columns E_0, PX_0, PY_0, PZ_0, E_1, ... and is_signal_new."""
    tables = need("tables")
    with tables.open_file(str(path)) as file:
        groups = {n._v_pathname.strip("/"): n for n in file.walk_groups() if hasattr(n._v_attrs, "pandas_type")}
        if options.split not in groups and (options.split is not None or len(groups) != 1):
            fail(OP, "split", f"one of the tables {listed(groups)}", repr(options.split))
        group = groups[options.split or next(iter(groups))]
        if group._v_attrs.pandas_type == "frame_table":
            yield from _from_table(path, group.table, options)
            return
        key = group._v_pathname
    frame = need("pandas").read_hdf(path, key)
    place = {name: k for k, name in enumerate(frame.columns)}
    columns = _Columns(path, place, options)
    for lo, hi in spans(len(frame), options.chunk):
        part = frame.iloc[lo:hi]
        yield columns.part(lambda names, part=part: part[names].to_numpy(np.float64))


def _from_table(path: Path, table: Any, options: Options) -> Iterator[Part]:
    """The rows of a table as pandas lays it out: blocks of columns of one dtype, their names in an attribute."""
    place: dict[str, tuple[str, int | None]] = {}
    for block in table.colnames:
        names = getattr(table.attrs, f"{block}_kind", None) if block.startswith("values_block_") else None
        place |= {block: (block, None)} if names is None else {name: (block, k) for k, name in enumerate(names)}
    columns = _Columns(path, place, options)

    def take(rows: Array, names: list[str]) -> Array:
        block, first = place[names[0]]
        wanted = [(block, None if first is None else first + k) for k in range(len(names))]
        if first is not None and [place[name] for name in names] == wanted:
            return rows[block][:, first : first + len(names)]
        at = [place[name] for name in names]
        return np.stack([rows[block] if k is None else rows[block][:, k] for block, k in at], axis=1)

    for lo, hi in spans(table.nrows, options.chunk):
        rows = table.read(lo, hi)
        yield columns.part(lambda names, rows=rows: take(rows, names))


class _Columns:
    """Jets from a function that returns columns side by side."""

    def __init__(self, path: Path, place: dict[str, Any], options: Options) -> None:
        length = next(k for k in range(len(place) + 1) if f"E_{k}" not in place)
        self.names = [f"{component}_{k}" for k in range(length) for component in ("E", "PX", "PY", "PZ")]
        missing = [name for name in self.names or ["E_0"] if name not in place]
        others = [name for name in place if name not in set(self.names)]
        if missing:
            fail(OP, path.name, "columns E_0, PX_0, PY_0, PZ_0, E_1, ...", f"no {missing[0]} (others: {others[:20]})")
        self.labels = Labels(options.label, others, ["is_signal_new", "is_signal"])

    def part(self, get: Any) -> Part:
        block = get(self.names)
        p4 = block.reshape(len(block), -1, 4)
        p4, counts = from_padded(p4, real_rows(p4))
        return Part(p4, counts, self.labels.of(lambda name: get([name])[:, 0]))


def pmu(path: Path, options: Options) -> Iterator[Part]:
    """Datasets Pmu [n, N, 4] (E, px, py, pz), Nobj [n], is_signal or label [n]."""
    with need("h5py").File(path) as file:
        p4 = file["Pmu"]
        if p4.ndim != 3 or p4.shape[2] != 4:
            fail(OP, f"{path.name}: Pmu", "shape [n, N, 4]", list(p4.shape))
        flat = [name for name, data in file.items() if data.ndim == 1 and len(data) == len(p4)]
        labels = Labels(options.label, flat, ["is_signal", "label"])
        for lo, hi in spans(len(p4), options.chunk):
            rows = p4[lo:hi]
            real = real_rows(rows)
            if "Nobj" in flat:
                real &= np.arange(rows.shape[1]) < file["Nobj"][lo:hi][:, None]
            packed, counts = from_padded(rows, real)
            yield Part(packed, counts, labels.of(partial(_rows, file, lo, hi)))


def _rows(file: Any, lo: int, hi: int, name: str) -> Array:
    return file[name][lo:hi]


def jetnet(path: Path, options: Options) -> Iterator[Part]:
    """Datasets particle_features [n, N, 4] (eta and phi relative to the jet, pt / jet pt, mask) and jet_features
    [n, 4] (pt, eta, mass, number). The azimuth of the jet is not in the file: it is 0. Particles are massless."""
    with need("h5py").File(path) as file:
        if "jet_features" not in file:
            fail(OP, path.name, "datasets particle_features and jet_features", f"{', '.join(file)}")
        particles, jets = file["particle_features"], file["jet_features"]
        if particles.ndim != 3 or particles.shape[2] < 3 or jets.ndim != 2 or jets.shape[1] < 2:
            got = f"{list(particles.shape)} and {list(jets.shape)}"
            fail(OP, path.name, "particle_features [n, N, 4] and jet_features [n, 4]", got)
        flat = [name for name, data in file.items() if data.ndim == 1 and len(data) == len(jets)]
        labels = Labels(options.label, flat, ["is_signal", "label"])
        for lo, hi in spans(len(jets), options.chunk):
            rows, jet = particles[lo:hi].astype(np.float64), jets[lo:hi].astype(np.float64)
            real = rows[:, :, 3] > 0.5 if rows.shape[2] > 3 else rows[:, :, 2] != 0
            eta, phi, pt = (rows[:, :, k][real] for k in range(3))
            jet_pt, jet_eta = (np.repeat(jet[:, k], real.sum(1)) for k in range(2))
            parts = {"pt": pt * jet_pt, "eta": eta + jet_eta, "phi": phi, "mass": np.zeros_like(pt)}
            yield Part(cartesian(parts), real.sum(1), labels.of(partial(_rows, file, lo, hi)))
