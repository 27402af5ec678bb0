"""npz: this package's packed jets, kinematics_<split> of taggers, EnergyFlow. Arrays are read in pieces."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from ...checks import fail
from ..four_momenta import cartesian
from .common import OP, Array, Labels, Options, Part, from_padded, listed, need, real_rows, spans


class Member:
    """An array in an npz file, read from the start to the end without the whole in memory."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        self.file: IO[bytes] = archive.open(f"{name}.npy")
        version = np.lib.format.read_magic(self.file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        self.shape, fortran, self.dtype = read(self.file)
        if fortran and len(self.shape) > 1:
            fail(OP, name, "an array in C order (np.ascontiguousarray)", "Fortran order")
        if self.dtype.hasobject:
            fail(OP, name, "an array of numbers", "Python objects")

    def take(self, rows: int) -> Array:
        """The next rows."""
        shape = (rows, *self.shape[1:])
        wanted = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        data = self.file.read(wanted)
        if len(data) < wanted:
            raise EOFError(f"array ends after {len(data)} of {wanted} bytes")
        return np.frombuffer(data, self.dtype).reshape(shape)

    def all(self) -> Array:
        return self.take(self.shape[0]) if self.shape else self.take(1)[0]


def members(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist()]


def packed(path: Path, options: Options) -> Iterator[Part]:
    """Arrays p4 [n_total, 4], ptr [n_jets + 1], label [n_jets], feature_<name> and truth_<name>, as :meth:`Jets.save`
    writes them."""
    start, of_jet = "feature_", "truth_"
    names = members(path)
    with zipfile.ZipFile(path) as archive:
        counts = np.diff(Member(archive, "ptr").all())
        p4 = Member(archive, "p4")
        if len(p4.shape) != 2 or p4.shape[1] != 4 or (counts < 0).any() or counts.sum() != p4.shape[0]:
            fail(
                OP, path.name, "p4 [n, 4], and ptr that rises from 0 to n", f"p4 {list(p4.shape)}, {counts.sum()} rows"
            )
        flat = [name for name in names if name not in ("p4", "ptr") and not name.startswith((start, of_jet))]
        labels = Labels(options.label, flat, ["label"])
        label = labels.of(lambda name: Member(archive, name).all())
        features = {n.removeprefix(start): Member(archive, n) for n in names if n.startswith(start)}
        truth = {n.removeprefix(of_jet): Member(archive, n).all() for n in names if n.startswith(of_jet)}
        for lo, hi in spans(len(counts), options.chunk):
            rows = int(counts[lo:hi].sum())
            columns = {name: member.take(rows) for name, member in features.items()}
            part = None if label is None else label[lo:hi]
            of_jets = {name: column[lo:hi] for name, column in truth.items()}
            yield Part(p4.take(rows).astype(np.float64), counts[lo:hi], part, columns, of_jets)


def kinematics(path: Path, options: Options) -> Iterator[Part]:
    """Arrays kinematics_<split> [n, N, 4] (E, px, py, pz) and labels_<split> [n], splits such as train, val, test."""
    start = "kinematics_"
    names = members(path)
    splits = [name.removeprefix(start) for name in names if name.startswith(start)]
    if options.split not in splits and (options.split is not None or len(splits) > 1):
        fail(OP, "split", f"one of {', '.join(splits)}", repr(options.split))
    split = options.split or splits[0]
    with zipfile.ZipFile(path) as archive:
        p4 = Member(archive, start + split)
        if len(p4.shape) != 3 or p4.shape[2] != 4:
            fail(OP, f"{path.name}: {start}{split}", "shape [n, N, 4]", list(p4.shape))
        labels = Labels(options.label, names, [f"labels_{split}"])
        label = labels.of(lambda name: Member(archive, name).all())
        for lo, hi in spans(p4.shape[0], options.chunk):
            rows = p4.take(hi - lo)
            yield Part(*from_padded(rows, real_rows(rows)), None if label is None else label[lo:hi])


def energyflow(path: Path, options: Options) -> Iterator[Part]:
    """Arrays X [n, N, 4] (pt, rapidity, phi, pdg id) and y [n]; masses are those of the Particle Data Group."""
    particle = need("particle")
    names = members(path)
    with zipfile.ZipFile(path) as archive:
        rows = Member(archive, "X")
        if len(rows.shape) != 3 or rows.shape[2] not in (3, 4):
            fail(OP, f"{path.name}: X", "shape [n, N, 4]", list(rows.shape))
        labels = Labels(options.label, names, ["y"])
        label = labels.of(lambda name: Member(archive, name).all())
        for lo, hi in spans(rows.shape[0], options.chunk):
            block = rows.take(hi - lo).astype(np.float64)
            real = block[:, :, 0] != 0
            parts = dict(zip(("pt", "rapidity", "phi", "pdgid"), block[real].T, strict=False))
            features = {}
            parts["mass"] = np.zeros_like(parts["pt"])
            if "pdgid" in parts:
                pdg_id = np.nan_to_num(parts.pop("pdgid")).astype(np.int64)
                features["pdg_id"] = pdg_id
                parts["mass"] = _masses(particle.Particle, pdg_id)
            yield Part(cartesian(parts), real.sum(1), None if label is None else label[lo:hi], features)


def _masses(particle: type, pdg_id: Array) -> Array:
    """GeV."""
    kinds, which = np.unique(pdg_id, return_inverse=True)
    masses = []
    for kind in kinds.tolist():
        try:
            masses.append((particle.from_pdgid(kind).mass or 0.0) / 1000)  # type: ignore[attr-defined]
        except Exception as error:  # of particle: an id it does not know
            raise ValueError(
                f"{OP}: X: expected PDG ids, got {kind}; ids are {listed([str(k) for k in kinds])}"
            ) from error
    return np.array(masses)[which]
