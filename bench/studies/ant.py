"""Power to weight: both ant factors of top taggers by their size (arXiv 2202.06941; arXiv 2203.06153, figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from equikernels.metrics import ant_v1, ant_v2
from equikernels.train import Classifier

from .accuracy import EPOCHS, LIMIT, PARTICLES
from .figures import curves
from .study import Job, Numbers, Place, Published, Results
from .tables import cell, markdown, other_data
from .training import LEFT_OUT, TrainingStudy, networks, values_of, with_limit, with_training

SCALES = {False: (0.5, 1.0), True: (0.25, 0.5, 1.0, 2.0)}  # of the widths, by kind of run
SOURCE = "Thais, Murnane 2023, table 1"
# 1e5 times the second factor, of networks of the published size.
PUBLISHED = {
    "EFP": "5000",
    "LGN": "617",
    "LorentzNet": "35.0",
    "PELICAN": "171",
    "PFN": "67.8",
    "ParticleNet": "13.4",
    "ResNeXt": "4.28",
    "VecNet": "9.87 (633k parameters), 350 (15k)",
}
# Options that are widths, or lists of them.
WIDTHS = (
    "n_hidden", "n_free", "hidden_nf", "width", "widths", "num_channels_scalar", "num_channels_m", "num_channels_2to2",
    "num_channels_out", "num_channels_m_out",
)  # fmt: skip


class Ant(TrainingStudy):
    name = "ant"
    asks = "Which network gives the most background rejection, and AUC, for its parameters?"
    source = f"{SOURCE}; arXiv 2203.06153, figure 3; CTD 2022"

    def groups(self, full: bool) -> dict[str, dict[str, Any]]:
        found = {}
        for name, given in networks("jets", full, PARTICLES).items():
            wide = bool(given.options.keys() & set(WIDTHS))
            if not full and (name in LEFT_OUT or not wide):  # of one size, that of `accuracy`
                continue
            config = given if full else with_limit(with_training(given, epochs=EPOCHS), LIMIT)
            for scale in SCALES[full] if wide else (1.0,):
                options = {key: scaled(v, scale) if key in WIDTHS else v for key, v in config.options.items()}
                found[f"{name}, widths x {scale:g}"] = values_of(
                    replace(config, options=options), network=name, scale=scale
                )
        return found

    def evaluate(self, model: Classifier, report: Mapping[str, Any], job: Job, place: Place) -> Numbers:
        return with_factors(super().evaluate(model, report, job, place), report["parameters"])

    def table(self, results: Results) -> str:
        rows = []
        for group, values in results.jobs("network", "scale"):
            other = PUBLISHED.get(values["network"]) if values["scale"] == 1 else None
            row = [group, f"{results.groups[group][0]['parameters']:,}", *factor_cells(results, group)]
            rows.append([*row, other_data(Published(other, SOURCE) if other else None)])
        return markdown(["network", "parameters", *FACTORS, "10^5 v2, other data"], rows)

    def plot(self, results: Results, path: Path) -> None:
        lines: dict[str, tuple[list[float], list[Any]]] = {}
        for group, values in results.jobs("network", "scale"):
            places, found = lines.setdefault(values["network"], ([], []))
            places.append(results.groups[group][0]["parameters"])
            found.append(results.spread(group, "ant_v2"))
        options = {"xlabel": "parameters", "ylabel": "ant factor v2", "xscale": "log", "yscale": "log"}
        curves(lines, path, **options)


def scaled(value: Any, scale: float) -> Any:
    """A width, or lists of widths, of at least 1."""
    return [scaled(v, scale) for v in value] if isinstance(value, list | tuple) else max(1, round(value * scale))


def with_factors(numbers: Numbers, parameters: int) -> Numbers:
    """Beside test metrics the ant factors of them; None where no background passes."""
    rejection = numbers["rejection_0.3"]
    v1 = None if rejection is None else ant_v1(rejection, parameters)
    return {**numbers, "ant_v1": v1, "ant_v2": ant_v2(numbers["auc"], parameters)}


# Column -> number, factor that it is shown times, digits.
FACTORS = {
    "accuracy": ("accuracy", 1.0, 4),
    "AUC": ("auc", 1.0, 4),
    "1/eps_B (0.3)": ("rejection_0.3", 1.0, 0),
    "10^3 v1": ("ant_v1", 1e3, 2),
    "10^5 v2": ("ant_v2", 1e5, 1),
}


def factor_cells(results: Results, group: str) -> list[str]:
    """The columns of :data:`FACTORS`."""
    cells = []
    for name, factor, digits in FACTORS.values():
        found = results.spread(group, name)
        shown = found and found._replace(mean=factor * found.mean, deviation=factor * found.deviation)
        cells.append(cell(shown, digits))
    return cells
