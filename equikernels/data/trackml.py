"""Readers of hits: TrackML events (arXiv 1904.06778) and the CSV files of ACTS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .tables import Columns, find, header, look_up, need, read, refuse


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
    """Reads ``<prefix>-hits.csv``, ``<prefix>-truth.csv`` and ``<prefix>-particles.csv``, also .csv.gz and .csv.bz2.

    Columns may have any order. Other columns, truth of hits that are not in the file of hits, and the file of cells are
    ignored. Without a file of truth and one of particles, as in the events for tests of the TrackML challenge, every
    hit is noise.

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
    op, prefix = "load_trackml", Path(prefix)
    hits_file = need(op, prefix, "hits")
    whole = {"hit_id": int, "x": float, "y": float, "z": float, "volume_id": int, "layer_id": int}
    hits = read(op, hits_file, whole, key="hit_id")
    xyz = np.stack([hits["x"], hits["y"], hits["z"]], axis=1)
    if find(prefix, "truth", "particles") is None:
        none = np.zeros(len(hits), np.int64)
        return _hits(xyz, hits["volume_id"], hits["layer_id"], hits["hit_id"], none, none.astype(np.float64))
    truth_file, particles_file = need(op, prefix, "truth"), need(op, prefix, "particles")
    truth = read(op, truth_file, {"hit_id": int, "particle_id": int}, key="hit_id")
    particles = read(op, particles_file, {"particle_id": int, "px": float, "py": float}, key="particle_id")

    row, found = look_up(hits["hit_id"], truth["hit_id"])
    if not found.all():
        bad = int(np.flatnonzero(~found)[0])
        refuse(op, hits_file, "hit_id", bad, f"a hit with a row in {truth_file.name}", hits["hit_id"][bad])
    particle = truth["particle_id"][row]
    owner, found = look_up(particle, particles["particle_id"])
    noise = particle == 0
    if not (found | noise).all():
        bad = int(row[np.flatnonzero(~(found | noise))[0]])
        expected = f"0 or a particle of {particles_file.name}"
        refuse(op, truth_file, "particle_id", bad, expected, truth["particle_id"][bad])
    pt = np.zeros(len(particle))
    pt[~noise] = np.hypot(particles["px"], particles["py"])[owner[~noise]]
    return _hits(xyz, hits["volume_id"], hits["layer_id"], hits["hit_id"], particle, pt)


def _hits(*columns: np.ndarray) -> Hits:
    return Hits(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))


# Bits of the identifiers of ACTS: of a surface, and of a particle where it has five columns.
VOLUME, LAYER = (56, 0xFF), (36, 0xFFF)
BARCODE = {"pv": (52, 12), "sv": (40, 12), "part": (24, 16), "gen": (16, 8), "subpart": (0, 16)}
PARTICLES = ("particles_simulated", "particles_initial", "particles")


def load_acts(prefix: str | Path) -> Hits:
    """Reads the simulated hits of ACTS, ``<prefix>-hits.csv``, and the particles, ``<prefix>-particles_simulated.csv``
    (or ``-particles_initial.csv``, ``-particles.csv``), also as ``.csv.gz`` or ``.csv.bz2``.

    Positions are true positions; volume and layer are those of the surface's identifier. Particles are numbered by one
    column, particle_id, or by five (particle_id_pv, _sv, _part, _gen, _subpart), which become one number.

    Args:
        prefix: such as ``"odd_output/event000000000"``.

    Returns:
        Hits in the order of the file; ``hit_id`` is the row.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: as :func:`load_trackml`.
    """
    op, prefix = "load_acts", Path(prefix)
    hits_file, particles_file = need(op, prefix, "hits"), need(op, prefix, *PARTICLES)
    place: Columns = {"geometry_id": np.uint64, "tx": float, "ty": float, "tz": float}
    hits, particle = _with_barcode(op, hits_file, place)
    particles, barcode = _with_barcode(op, particles_file, {"px": float, "py": float})
    owner, found = look_up(particle, barcode)
    if not found.all():
        bad = int(np.flatnonzero(~found)[0])
        refuse(op, hits_file, "particle_id", bad, f"a particle of {particles_file.name}", particle[bad])
    volume, layer = (
        (hits["geometry_id"] >> np.uint64(k) & np.uint64(mask)).astype(np.int64) for k, mask in (VOLUME, LAYER)
    )
    xyz = np.stack([hits["tx"], hits["ty"], hits["tz"]], axis=1)
    pt = np.hypot(particles["px"], particles["py"])[owner]
    return _hits(xyz, volume, layer, np.arange(len(hits)), particle, pt)


def _with_barcode(op: str, path: Path, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """(the columns, int64 number of the particle of each row)."""
    if "particle_id" in header(path):
        table = read(op, path, {"particle_id": np.uint64, **columns})
        return table, table["particle_id"].view(np.int64)
    table = read(op, path, {**{f"particle_id_{name}": int for name in BARCODE}, **columns})
    barcode = np.zeros(len(table), np.uint64)
    for name, (place, bits) in BARCODE.items():
        part = table[f"particle_id_{name}"]
        wrong = np.flatnonzero((part < 0) | (part >= 1 << bits))
        if len(wrong):
            refuse(op, path, f"particle_id_{name}", int(wrong[0]), f"a number of {bits} bits", part[wrong[0]])
        barcode |= part.astype(np.uint64) << np.uint64(place)
    return table, barcode.view(np.int64)
