"""HDF5: the top tagging reference files (pandas tables), LorentzNet's and PELICAN's own, JetNet."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ...checks import fail
from ..four_momenta import cartesian
from .common import OP, Array, Labels, Options, Part, from_padded, listed, need, real_rows, spans


def top_tagging(path: Path, options: Options) -> Iterator[Part]:
    """A pandas table with columns E_0, PX_0, PY_0, PZ_0, E_1, ... and is_signal_new, of the layout "table" or "fixed".

    h5py reads it, not pandas: pandas would unpickle what the file holds, and so run its code.
    """
    with need("h5py").File(path) as file:
        found: dict[str, str] = {}
        file.visititems(lambda name, node: found.update(_kind(name, node)))
        if options.split not in found and (options.split is not None or len(found) != 1):
            fail(OP, "split", f"one of the tables {listed(found)}", repr(options.split))
        name = options.split or next(iter(found))
        layouts = {"frame_table": _from_table, "frame": _from_fixed}
        if found[name] not in layouts:
            fail(OP, f"{path.name}: {name}", "a DataFrame", f"a pandas object of type {found[name]}")
        yield from layouts[found[name]](path, file[name], options)


def _kind(name: str, node: Any) -> dict[str, str]:
    kind = node.attrs.get("pandas_type")
    return {} if kind is None else {name: kind.decode() if isinstance(kind, bytes) else str(kind)}


class _Text(pickle.Unpickler):
    """Reads numbers, text, lists and the like; refuses a pickle that names a class or a function."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"an attribute with {module}.{name}")


def _from_table(path: Path, group: Any, options: Options) -> Iterator[Part]:
    """The layout "table": rows of blocks of columns of one dtype; attributes hold the pickled lists of their names."""
    table = _decoded(group["table"])
    place: dict[str, tuple[str, int | None]] = {}
    for block in table.dtype.names:
        if block.startswith("values_block_"):
            names = _Text(io.BytesIO(bytes(table.attrs[f"{block}_kind"])), encoding="utf-8").load()
            place |= {str(name): (block, k) for k, name in enumerate(names)}
        else:
            place[block] = (block, None)
    columns = _Columns(path, place, options)

    def take(rows: Array, names: list[str]) -> Array:
        block, first = place[names[0]]
        wanted = [(block, None if first is None else first + k) for k in range(len(names))]
        if first is not None and [place[name] for name in names] == wanted:
            return rows[block][:, first : first + len(names)]
        at = [place[name] for name in names]
        return np.stack([rows[block] if k is None else rows[block][:, k] for block, k in at], axis=1)

    for lo, hi in spans(len(table), options.chunk):
        rows = table[lo:hi]
        yield columns.part(lambda names, rows=rows: take(rows, names))


def _from_fixed(path: Path, group: Any, options: Options) -> Iterator[Part]:
    """The layout "fixed": datasets block<k>_values [n, columns] and block<k>_items, the names of their columns."""
    total = len(group["axis1"])
    blocks: list[Any] = []
    place: dict[str, tuple[int, int]] = {}
    for values in (name for name in group if name.endswith("_values")):
        names = group[values.replace("_values", "_items")].asstr()[:]
        place |= {name: (len(blocks), k) for k, name in enumerate(names)}
        blocks.append(_decoded(group[values]))
        if blocks[-1].shape != (total, len(names)):
            fail(OP, f"{path.name}: {values}", f"shape {[total, len(names)]}", list(blocks[-1].shape))
    columns = _Columns(path, place, options)

    def take(rows: list[Array], names: list[str]) -> Array:
        number, first = place[names[0]]
        if [place[name] for name in names] == [(number, first + k) for k in range(len(names))]:
            return rows[number][:, first : first + len(names)]
        return np.stack([rows[number][:, k] for number, k in map(place.__getitem__, names)], axis=1)

    for lo, hi in spans(total, options.chunk):
        rows = [block[lo:hi] for block in blocks]
        yield columns.part(lambda names, rows=rows: take(rows, names))


def _decoded(data: Any) -> Any:
    """A dataset that h5py can read: filters that it has not, such as blosc, come with hdf5plugin."""
    properties = data.id.get_create_plist()
    filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    if not all(map(need("h5py").h5z.filter_avail, filters)):
        need("hdf5plugin")
    return data


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
