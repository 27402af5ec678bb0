"""Accuracy of top taggers, with and without Lorentz symmetry: table 1 of "Equivariance Is Not All You Need"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .study import Published, Results
from .tables import cell, markdown, other_data
from .training import LEFT_OUT, TrainingStudy, networks, values_of, with_limit, with_training

EPOCHS, LIMIT, PARTICLES = 4, 2000, 60  # of a quick run: epochs, training jets, and most particles of a jet
SOURCE = "Thais, Murnane 2023, table 1"
# Accuracy, AUC and 1/eps_B at eps_S = 0.3 on the Top Quark Tagging Reference Dataset, 1.2 million training jets.
PUBLISHED = {
    "EFP": ("0.932", "0.980", "384", "1k"),
    "LGN": ("0.929", "0.964", "435 ± 95", "4.5k"),
    "LorentzNet": ("0.942", "0.9868", "2195 ± 173", "220k"),
    "PELICAN": ("0.943", "0.987", "2289 ± 204", "45k"),
    "PFN": ("0.932", "0.982", "891 ± 18", "82k"),
    "ParticleNet": ("0.938", "0.985", "1298 ± 46", "498k"),
    "ResNeXt": ("0.936", "0.984", "1122 ± 47", "1.46M"),
    "VecNet": ("0.935", "0.984", "", "633k"),
}


class Accuracy(TrainingStudy):
    name = "accuracy"
    asks = "Do Lorentz-equivariant networks tag top quarks better than others?"
    source = f"{SOURCE}; CTD 2022"

    def groups(self, full: bool) -> dict[str, dict[str, Any]]:
        found = networks("jets", full, PARTICLES)
        if not full:
            found = {name: config for name, config in found.items() if name not in LEFT_OUT}
            found = {name: with_limit(with_training(config, epochs=EPOCHS), LIMIT) for name, config in found.items()}
        return {name: values_of(config) for name, config in found.items()}

    def table(self, results: Results) -> str:
        head = ["network", "parameters", "accuracy", "AUC", "1/eps_B (0.3)", "1/eps_B (0.5)", "other data"]
        rows = []
        for name, found in results.groups.items():
            digits = {"accuracy": 4, "auc": 4, "rejection_0.3": 0, "rejection_0.5": 0}
            cells = [cell(results.spread(name, key), d) for key, d in digits.items()]
            rows.append([name, f"{found[0]['parameters']:,}", *cells, other_data(published(name))])
        return markdown(head, rows)

    def plot(self, results: Results, path: Path) -> None:
        from .figures import against_parameters

        against_parameters(results, "auc", "AUC", path)


def published(name: str) -> Published | None:
    if name not in PUBLISHED:
        return None
    accuracy, auc, rejection, parameters = PUBLISHED[name]
    text = f"{accuracy}, {auc}" + (f", {rejection}" if rejection else "")
    return Published(f"{text}, {parameters} parameters", SOURCE)
