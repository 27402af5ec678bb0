"""Trackers with and without rotational symmetry: table 1 of EuclidNet's paper, table 2 of "Equivariance Is Not All You
Need"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from equikernels import metrics
from equikernels.train import Classifier
from equikernels.train.config import Config
from equikernels.train.data import data_of
from equikernels.train.trainer import predict

from .figures import against_parameters
from .study import Job, Numbers, Place, Published, Results
from .tables import cell, markdown, other_data
from .training import TrainingStudy, networks, values_of, with_training

EPOCHS, RATE = 20, 5e-3  # of a quick run
SOURCE = "arXiv 2304.05293, table 1"
# The papers' "hidden" 8, 16, 32 are widths 16, 32, 40 of the Interaction Network, by its parameters. EuclidNet's
# published counts (967, 2,580, 4,448) are not those of the released network at any widths.
WIDTHS = {8: 16, 16: 32, 32: 40}
PUBLISHED = {
    "EuclidNet, h 8": ("0.9913 ± 0.004", "0.946 ± 0.022", "0.796 ± 0.040"),
    "Interaction Network, h 16": ("0.9849 ± 0.006", "0.931 ± 0.021", "0.732 ± 0.052"),
    "EuclidNet, h 16": ("0.9932 ± 0.003", "0.953 ± 0.014", "0.819 ± 0.033"),
    "Interaction Network, h 32": ("0.9932 ± 0.004", "0.958 ± 0.019", "0.817 ± 0.073"),
    "EuclidNet, h 32": ("0.9941 ± 0.003", "0.955 ± 0.019", "0.926 ± 0.023"),
    "Interaction Network, h 40": ("0.9978 ± 0.003", "0.979 ± 0.022", "0.995 ± 0.043"),
}


def trackers(full: bool) -> dict[str, Config]:
    """Name -> configuration of both networks, at two widths of a quick run or three."""
    found = networks("hits", full)
    sizes = list(WIDTHS.items())[: None if full else 2]
    made = {}
    for euclid, interaction in sizes:
        for title, name, width in (
            (f"EuclidNet, h {euclid}", "EuclidNet", {"n_hidden": euclid}),
            (f"Interaction Network, h {interaction}", "InteractionNetwork", {"hidden_size": interaction}),
        ):
            config = replace(found[name], options={**found[name].options, **width})
            made[title] = config if full else quick(config)
    return made


def quick(config: Config) -> Config:
    schedule = {"schedule": "one_cycle", "schedule_options": {}}
    return with_training(config, epochs=EPOCHS, learning_rate=RATE, **schedule)


class Tracking(TrainingStudy):
    name = "tracking"
    asks = "Do rotation-equivariant networks find tracks better than others, at a given number of parameters?"
    source = f"{SOURCE}; Thais, Murnane 2023, table 2"
    data = "hits"

    def groups(self, full: bool) -> dict[str, dict[str, Any]]:
        return {title: values_of(config) for title, config in trackers(full).items()}

    def evaluate(self, model: Classifier, report: Mapping[str, Any], job: Job, place: Place) -> Numbers:
        """The cut is chosen on the validation events."""
        events = data_of(self.config(job, place))
        events.setup("fit")
        events.setup("test")
        with torch.inference_mode():
            cut = metrics.balanced_threshold(*predict(model, events, "validation"))
            score, label = predict(model, events, "test")
        return {"auc": metrics.auc(score, label), "threshold": cut, **edges(score, label, cut)}

    def table(self, results: Results) -> str:
        head = ["network", "parameters", "AUC", "efficiency", "purity", "balanced accuracy", "other data"]
        rows = []
        for title, found in results.groups.items():
            names = ("auc", "efficiency", "purity", "balanced_accuracy")
            cells = [cell(results.spread(title, name)) for name in names]
            other = Published(", ".join(PUBLISHED[title]), SOURCE) if title in PUBLISHED else None
            rows.append([title, f"{found[0]['parameters']:,}", *cells, other_data(other)])
        return markdown(head, rows)

    def plot(self, results: Results, path: Path) -> None:
        against_parameters(results, "auc", "AUC of edges", path)


def edges(score: torch.Tensor, label: torch.Tensor, cut: float) -> Numbers:
    """Efficiency and purity at a cut, and the mean of the shares of true and of false edges on the right side."""
    found = metrics.edge_selection(score, label, cut)
    rejected = float((score[label == 0] < cut).double().mean())
    return {**found._asdict(), "balanced_accuracy": (found.efficiency + rejected) / 2}
