"""Spurions in a Lorentz-invariant network against non-invariant inputs: Bogatskiy, BOOST 2024.

Both methods show the same vectors to PELICAN: as particles beside the jet's, which leaves the network invariant, or as
products of components, which does not. Networks of one seed start from the same weights behind the inputs and give the
same first outputs: the spurions of ``shared_start`` count in sums by weights that are learned, and 0 at first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import lightning
import torch

from equikernels.data import read_jets
from equikernels.train import Classifier, load
from equikernels.train.config import Config

from .study import Job, Numbers, Place, Results
from .tables import cell, markdown
from .training import TrainingStudy, quality, small, values_of, with_limit, with_training

SOURCE = "Bogatskiy, BOOST 2024"
EPOCHS, LIMIT = 5, 2000  # of a quick run: epochs and training jets
ALIKE = 100  # jets of the first outputs
ROUNDING = 1e-10  # of first outputs in float64
# From the most symmetric to none: the group, the stabilizer, and the methods that show its vectors.
HIERARCHY = (
    ("SO(1,3)", "so13", ("input",)),
    ("SO(3)", "so3", ("input", "spurions")),
    ("SO(2)", "so2", ("input", "spurions")),
    ("none", "11", ("input", "spurions")),
)
SMALL = {
    "num_channels_scalar": 6,
    "num_channels_m": [[16], [16]],
    "num_channels_2to2": [12, 12],
    "num_channels_out": [16],
    "num_channels_m_out": [16, 12],
    "drop_rate": 0.0,
    "drop_rate_out": 0.0,
}


class Spurions(TrainingStudy):
    """Top tagging; other data and networks are its subclasses."""

    name = "spurions"
    asks = "Does equivariance help, or do the inputs? PELICAN with spurions and with non-invariant inputs, top jets"
    source = SOURCE
    shipped: ClassVar[str] = "pelican"
    columns: ClassVar[dict[str, tuple[str, int]]] = {
        "accuracy": ("accuracy", 4), "auc": ("AUC", 4), "rejection_0.3": ("1/eps_B (0.3)", 0),
    }  # fmt: skip

    def groups(self, full: bool) -> dict[str, dict[str, Any]]:
        base = load(self.shipped)
        if not full:
            base = with_training(base, epochs=EPOCHS, schedule="one_cycle", learning_rate=5e-3)
            base = with_limit(replace(small(base), options={**base.options, **SMALL}), LIMIT)
        found = {}
        for group, stabilizer, methods in HIERARCHY:
            for method in methods:
                options = {**base.options, "stabilizer": stabilizer, "method": method, "shared_start": True}
                found[f"{group}, {method}"] = values_of(replace(base, options=options))
        return found

    def evaluate(self, model: Classifier, report: Mapping[str, Any], job: Job, place: Place) -> Numbers:
        return {**self.quality(report), "first_difference": self.first_difference(job, place)}

    def quality(self, report: Mapping[str, Any]) -> Numbers:
        return quality(report)

    def first_difference(self, job: Job, place: Place) -> float:
        """Of the outputs before training to those of the invariant network of the same seed, over the largest."""
        config = self.config(job, place)
        options = {**config.options, "stabilizer": "so13", "method": "input"}
        assert place.events is not None
        jets = read_jets(place.events.train, limit=ALIKE, max_constituents=config.data.max_constituents)
        found, invariant = (first_outputs(c, jets) for c in (config, replace(config, options=options)))
        return float((found - invariant).abs().max() / invariant.abs().max())

    def table(self, results: Results) -> str:
        head = ["symmetry, method", "parameters", "first outputs", *(title for title, _ in self.columns.values())]
        rows = []
        for group, found in results.groups.items():
            cells = [cell(results.spread(group, name), digits) for name, (_, digits) in self.columns.items()]
            first = max(numbers["first_difference"] for numbers in found)
            alike = "the same" if first < ROUNDING else f"{first:.0e} apart"
            rows.append([group, f"{found[0]['parameters']:,}", alike, *cells])
        return markdown(head, rows)

    def plot(self, results: Results, path: Path) -> None:
        from .figures import bars

        name, (title, _) = next(item for item in self.columns.items() if item[0] != "accuracy")
        bars(results, name, title, path)


class QuarkGluon(Spurions):
    name = "spurions_quark_gluon"
    asks = "The same for quark and gluon jets with particle identities"
    data = "identified"
    shipped = "pelican_qg"


class WMomentum(Spurions):
    name = "spurions_w"
    asks = "The same for the four-momentum of the W boson in a top jet"
    data = "momenta"
    shipped = "pelican_w"
    columns: ClassVar[dict[str, tuple[str, int]]] = {
        "sigma_m": ("sigma_m (%)", 2), "sigma_pt": ("sigma_pT (%)", 2), "sigma_psi": ("sigma_psi (mrad)", 1),
    }  # fmt: skip

    def quality(self, report: Mapping[str, Any]) -> Numbers:
        """Resolutions in percent and milliradians."""
        factors = {"sigma_m": 100.0, "sigma_pt": 100.0, "sigma_psi": 1000.0}
        return {name: factor * report["test"][name] for name, factor in factors.items()}


def first_outputs(config: Config, jets: Any) -> torch.Tensor:
    """Scores of a network before training, in float64."""
    lightning.seed_everything(config.training.seed, verbose=False)
    model = Classifier(config.as_dict()).eval().double()
    with torch.inference_mode():
        return model.task.score(model(jets))
