"""Trackers on rotated hits: figures 2 and B1 of EuclidNet's paper (arXiv 2304.05293)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from equikernels import metrics
from equikernels.data import HitGraph, load_sample_hit_graphs, save_hit_graphs
from equikernels.train import Classifier
from equikernels.train.config import Config
from equikernels.train.tasks import Hits

from .covariance import TURNS, violations
from .events import Events, read_hits
from .figures import DPI, MORE, deviation, figure_of, save, style
from .study import Job, Numbers, Place, Results, spread_of
from .tables import cell, markdown
from .tracking import trackers
from .training import TrainingStudy, on, values_of

DEGREES = (0, 45, 90, 135, 180)
NAMES = ("EuclidNet, h 8", "Interaction Network, h 16")
COVARIANCE = "covariance of EuclidNet's points"


def rotated(graph: HitGraph, degrees: float) -> HitGraph:
    """The hits turned about the beam; differences of azimuths, which edges have, stay."""
    phi = graph.x[:, 1].double() + degrees / 180
    x = graph.x.clone()
    x[:, 1] = (phi - 2 * torch.round(phi / 2)).float()
    return replace(graph, x=x)


class Rotations(TrainingStudy):
    name = "rotations"
    asks = "Do trackers depend on the azimuth at which they are trained?"
    source = "arXiv 2304.05293, figures 2 and B1; Thais, Murnane 2023, figure 4"
    data = "hits"

    def groups(self, full: bool) -> dict[str, dict[str, Any]]:
        found = trackers(full)
        made = {
            f"{name}, trained at {degrees}": values_of(found[name], network=name, degrees=degrees)
            for name in NAMES
            for degrees in (DEGREES if full else DEGREES[::2])
        }
        return {**made, COVARIANCE: {}}

    def altered(self, job: Job) -> str:
        return f"turned by {job.values['degrees']}" if job.values["degrees"] else ""

    def training(self, job: Job, events: Events | None) -> str | None:
        return None if job.group == COVARIANCE else super().training(job, events)

    def config(self, job: Job, place: Place) -> Config:
        """On turned files, which are written into the job's folder; at 0 on the events themselves."""
        assert place.events is not None
        if job.values["degrees"] == 0:
            return super().config(job, place)
        parts = {}
        for part in ("train", "validation"):
            path = place.folder / f"{part}.npz"
            if not path.exists():
                graphs = read_hits(Path(getattr(place.events, part)))
                save_hit_graphs(path, [rotated(graph, job.values["degrees"]) for graph in graphs])
            parts[part] = str(path)
        return on(Config.of(job.values["config"]), replace(place.events, **parts), job.seed)

    def run(self, job: Job, place: Place) -> Numbers:
        if job.group != COVARIANCE:
            return super().run(job, place)
        graphs = load_sample_hit_graphs()
        kinds = (torch.float64, torch.float32)
        return {str(dtype).removeprefix("torch."): violations(graphs, job.seed, dtype) for dtype in kinds}

    def seconds(self, job: Job, place: Place) -> float | None:
        return 5.0 if job.group == COVARIANCE else super().seconds(job, place)

    def evaluate(self, model: Classifier, report: Mapping[str, Any], job: Job, place: Place) -> Numbers:
        """AUC at each of DEGREES."""
        assert place.events is not None
        graphs = read_hits(Path(place.events.test))
        return {"auc": report["test"]["auc"], "aucs": [auc_at(model, graphs, degrees) for degrees in DEGREES]}

    def table(self, results: Results) -> str:
        rows = []
        for group, found in results.groups.items():
            if group != COVARIANCE:
                curve = [cell(s) for s in results.curve(group, "aucs")]
                rows.append([group, *curve, f"{max(max(n['aucs']) - min(n['aucs']) for n in found):.1e}"])
        head = ["network", *(f"AUC at {degrees}" for degrees in DEGREES), "largest change"]
        worst = {
            name: max(max(found[name]["distance"]) for found in results.groups.get(COVARIANCE, []))
            for name in ("float64", "float32")
            if COVARIANCE in results.groups
        }
        text = ", ".join(f"{value:.1e} in {name}" for name, value in worst.items())
        return f"{markdown(head, rows)}\n\nLargest distance of EuclidNet's points from covariance: {text}."

    def plot(self, results: Results, path: Path) -> None:
        figure = figure_of(figsize=(9.5, 3.8), dpi=DPI)
        left, right = figure.subplots(1, 2)
        for colour, name in zip(MORE, NAMES, strict=False):
            groups = [group for group in results.groups if group.startswith(f"{name}, ")]
            for k, group in enumerate(groups):
                found = results.curve(group, "aucs")
                means, bars = [s.mean for s in found], [deviation(s) for s in found]
                label = name if k == 0 else None
                left.errorbar(DEGREES, means, yerr=bars, color=colour, alpha=0.6, marker="o", capsize=2, label=label)
        left.set(xlabel="evaluated on hits turned by [degrees]", ylabel="AUC of edges")
        for colour, kind in zip(MORE, ("float64", "float32"), strict=False):
            for name, line in (("distance", "-"), ("ratio", ":")):
                values = [found[kind][name] for found in results.groups.get(COVARIANCE, [])]
                means = [s.mean for column in zip(*values, strict=True) if (s := spread_of(column)) is not None]
                if means:
                    right.semilogy(TURNS, means, line, color=colour, marker="o", markersize=3, label=f"{kind}, {name}")
        right.axhline(1e-8, color="grey", linewidth=0.8)
        right.set(xlabel="rotation about the beam [degrees]", ylabel="violation of covariance")
        for axes in (left, right):
            style(axes)
            axes.legend(fontsize=8, frameon=False)
        save(figure, path)


@torch.inference_mode()
def auc_at(model: Classifier, graphs: Sequence[HitGraph], degrees: float) -> float:
    """Of turned hits."""
    scores, labels = [], []
    for graph in graphs:
        batch = Hits.of([rotated(graph, degrees)])
        scores.append(model.task.score(model(batch)).double())
        labels.append(model.task.label(batch))
    return metrics.auc(torch.cat(scores), torch.cat(labels))
