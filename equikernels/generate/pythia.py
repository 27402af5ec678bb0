"""Events of Pythia 8 as NumPy arrays."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import checks

Array = npt.NDArray[Any]
SEEDS = 900_000_000  # Pythia's largest


def need(module: str) -> Any:
    return checks.need("generate", module, "generate")


def progress(total: int, what: str) -> Any:
    """A progress bar on a terminal, nothing elsewhere."""
    return need("tqdm").tqdm(total=total, unit=what, disable=not sys.stderr.isatty())


@dataclass
class Particles:
    """The particles of some events, all in one list.

    Attributes:
        event: the event of each; 0 to events - 1.
        pdg_id, status: of Pythia.
        mother: row of the first mother.
        p4: (E, px, py, pz), GeV.
        vertex: (x, y, z) where it was produced, mm.
    """

    events: int
    event: Array
    pdg_id: Array
    status: Array
    mother: Array
    p4: Array
    vertex: Array


class Generator:
    """Proton-proton collisions at an energy in GeV."""

    def __init__(self, seed: int, energy: float, settings: Sequence[str]) -> None:
        self.pythia = need("pythia8mc").Pythia("", False)
        fixed = [
            "Print:quiet = on",
            f"Beams:eCM = {energy}",
            "Random:setSeed = on",
            f"Random:seed = {1 + seed % SEEDS}",
        ]
        for line in (*fixed, *settings):
            if not self.pythia.readString(line):
                raise ValueError(f"generate: Pythia does not know {line!r}")
        if not self.pythia.init():
            raise RuntimeError("generate: Pythia does not start with these settings")

    def next(self, events: int) -> Particles:
        """The next events."""
        ak = need("awkward")
        batch = self.pythia.nextBatch(events)["prt"]
        counts = ak.to_numpy(ak.num(batch)).astype(np.int64)

        def column(array: Any) -> Array:
            return ak.to_numpy(ak.flatten(array), allow_missing=False)

        first = np.repeat(np.cumsum(counts) - counts, counts)
        p, vertex = batch["p"], batch["vProd"]
        return Particles(
            len(counts),
            np.repeat(np.arange(len(counts)), counts),
            column(batch["id"]).astype(np.int64),
            column(batch["status"]).astype(np.int64),
            column(batch["mother1"]) + first,
            np.stack([column(p[name]) for name in ("e", "px", "py", "pz")], axis=1),
            np.stack([column(ak.fill_none(vertex[name], 0.0)) for name in ("px", "py", "pz")], axis=1),
        )

    def charge(self, pdg_id: Array) -> Array:
        """In units of the proton's."""
        kinds, which = np.unique(pdg_id, return_inverse=True)
        return np.array([self.pythia.particleData.chargeType(int(kind)) / 3 for kind in kinds])[which]
