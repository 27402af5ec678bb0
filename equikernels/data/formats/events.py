"""Events of generators: LHE and HepMC. The particles of the final state are the constituents."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import fail
from .common import OP, Array, Options, Part, need

FINAL = 1  # the status of stable particles


def _part(rows: list[Array]) -> Part:
    """Of (E, px, py, pz, pdg id) [n, 5] of each event."""
    table = np.concatenate([np.empty((0, 5)), *rows])
    features = {"pdg_id": table[:, 4].astype(np.int64)}
    return Part(np.ascontiguousarray(table[:, :4]), np.array([len(row) for row in rows], np.int64), None, features)


def _parts(events: Iterator[Array], chunk: int) -> Iterator[Part]:
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # pylhe's word for a file that ends too early
            rows = list(islice(events, chunk))
        if not rows:
            return
        yield _part(rows)


def lhe(path: Path, options: Options) -> Iterator[Part]:
    """Les Houches events, also gzipped, read by pylhe."""

    def events() -> Iterator[Array]:
        for event in need("pylhe").LHEFile.fromfile(str(path), with_attributes=False).events:
            final = [p for p in event.particles if p.status == FINAL]
            yield np.array([[p.e, p.px, p.py, p.pz, p.id] for p in final], np.float64).reshape(-1, 5)

    return _parts(events(), options.chunk)


def hepmc(path: Path, options: Options) -> Iterator[Part]:
    """HepMC3 and HepMC2 in ASCII, also compressed, read by pyhepmc. The file says its unit."""
    pyhepmc = need("pyhepmc")
    if path.suffix not in (".gz", ".bz2", ".xz"):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 200))
            if b"END_EVENT_LISTING" not in file.read():
                fail(OP, path.name, "a complete HepMC file", "no END_EVENT_LISTING at its end (truncated)")

    def rows(event: Any) -> Array:
        columns = event.numpy.particles
        final = columns.status == FINAL
        scale = 1e-3 if event.momentum_unit == pyhepmc.Units.MEV else 1.0
        p4 = np.stack([columns.e, columns.px, columns.py, columns.pz], axis=1)[final] * scale
        return np.concatenate([p4, columns.pid[final, None]], axis=1)

    def events() -> Iterator[Array]:
        with pyhepmc.open(str(path)) as file:
            for event in file:
                yield rows(event)

    return _parts(events(), options.chunk)
