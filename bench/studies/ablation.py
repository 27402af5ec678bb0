"""LorentzNet with and without equivariance: table 6 of "Equivariance Is Not All You Need"."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .figures import against_parameters
from .fractions import on_share
from .study import Published, Results
from .tables import cell, markdown, other_data
from .training import TrainingStudy, networks, values_of

SOURCE = "Thais, Murnane 2023, table 6"
WITH, WITHOUT = "LorentzNet", "LorentzNet without equivariance"
# Accuracy, AUC and 1/eps_B at eps_S = 0.3. What the published network without equivariance reads is in no source; ours
# reads four-momenta.
PUBLISHED = {WITH: "0.942, 0.9868, 2195 ± 173", WITHOUT: "0.934, 0.9832, 1105 ± 59"}


class Ablation(TrainingStudy):
    name = "ablation"
    asks = "How much of LorentzNet's accuracy does equivariance give?"
    source = SOURCE

    def groups(self, full: bool) -> dict[str, dict[str, Any]]:
        config = on_share(networks("jets", full)["LorentzNet"], 1.0, full)  # as `fractions` trains it
        without = replace(config, options={**config.options, "equivariant": False})
        return {WITH: values_of(config), WITHOUT: values_of(without)}

    def table(self, results: Results) -> str:
        head = ["network", "parameters", "accuracy", "AUC", "1/eps_B (0.3)", "other data"]
        digits = {"accuracy": 4, "auc": 4, "rejection_0.3": 0}
        rows = []
        for group, found in results.groups.items():
            cells = [cell(results.spread(group, key), d) for key, d in digits.items()]
            published = other_data(Published(PUBLISHED[group], SOURCE))
            rows.append([group, f"{found[0]['parameters']:,}", *cells, published])
        return markdown(head, rows)

    def plot(self, results: Results, path: Path) -> None:
        against_parameters(results, "auc", "AUC", path)
