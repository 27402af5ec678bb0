"""Top taggers in boosted frames: figure 3 of "Equivariance Is Not All You Need", figure 2 of the Snowmass paper (arXiv
2203.06153)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels import metrics
from equikernels.data import Jets, boosted, top_tagging_scalars, with_beams
from equikernels.train import Classifier
from equikernels.train.config import Config
from equikernels.train.tasks import JetBatch

from .events import Events
from .figures import DPI, draw, figure_of, save
from .invariance import GAMMAS, KINDS, boost, changes
from .study import Job, Numbers, Place, Results
from .tables import cell, markdown
from .training import TrainingStudy, networks, on, values_of, with_limit, with_training

BETAS = (0.0, 0.4, 0.8, 0.95, 0.99, 0.999, 0.9999)
LARGEST_RAPIDITY = 2.65  # of random boosts in training: beta = 0.99
EPOCHS, LIMIT, TEST = 3, 2000, 500  # of a quick run: epochs, jets of training and of test
BATCH = 100
WITHOUT_SYMMETRY = ("EGNN", "PFN", "ParticleNet")  # no boosts: trained in one frame, and with random boosts
INVARIANCE = "logits of LorentzNet, seeded weights"
BOOSTED = ", random boosts in training"


def augmented(jets: Jets, seed: int) -> Jets:
    """Each jet boosted along x by a random rapidity, up to :data:`LARGEST_RAPIDITY` in both directions."""
    rapidity = torch.rand(len(jets), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    beta = ((2 * rapidity - 1) * LARGEST_RAPIDITY).tanh()
    return replace(jets, p4=boosted(jets.p4, jets.ptr, beta))


class Boosts(TrainingStudy):
    name = "boosts"
    asks = "Do taggers keep their accuracy in boosted frames?"
    source = "Thais, Murnane 2023, figure 3; arXiv 2203.06153, figure 2"

    def groups(self, full: bool) -> dict[str, dict[str, Any]]:
        found = networks("jets", full)
        invariant = replace(
            found["PELICAN"], options={**found["PELICAN"].options, "stabilizer": "so13", "method": "input"}
        )
        configs = {"LorentzNet": found["LorentzNet"], "PELICAN without spurions": invariant}
        configs |= {name: config for name, config in found.items() if full and name not in configs}
        configs |= {name: found[name] for name in WITHOUT_SYMMETRY if name in found}
        configs |= {f"{name}{BOOSTED}": found[name] for name in WITHOUT_SYMMETRY if name in found}
        if not full:
            configs = {
                name: with_limit(with_training(config, epochs=EPOCHS), LIMIT) for name, config in configs.items()
            }
        test = None if full else TEST
        made = {name: values_of(config, boosted=name.endswith(BOOSTED), test=test) for name, config in configs.items()}
        return {**made, INVARIANCE: {}}

    def run(self, job: Job, place: Place) -> Numbers:
        return dict(changes(job.seed)) if job.group == INVARIANCE else super().run(job, place)

    def seconds(self, job: Job, place: Place) -> float | None:
        return 15.0 if job.group == INVARIANCE else super().seconds(job, place)

    def altered(self, job: Job) -> str:
        return BOOSTED if job.values["boosted"] else ""

    def training(self, job: Job, events: Events | None) -> str | None:
        return None if job.group == INVARIANCE else super().training(job, events)

    def config(self, job: Job, place: Place) -> Config:
        assert place.events is not None
        events = place.events
        if job.values["boosted"]:
            parts = {part: place.folder / f"{part}.npz" for part in ("train", "validation")}
            for k, (part, path) in enumerate(parts.items()):
                if not path.exists():
                    augmented(ek.data.read_jets(getattr(events, part)), 2 * job.seed + k).save(path)
            events = replace(events, **{part: str(path) for part, path in parts.items()})
        return on(Config.of(job.values["config"]), events, job.seed)

    @torch.inference_mode()
    def evaluate(self, model: Classifier, report: Mapping[str, Any], job: Job, place: Place) -> Numbers:
        """Accuracy and AUC at each of BETAS, in both precisions. "moved": the beams, which LorentzNet reads beside the
        jet, are boosted too; elsewhere they stay."""
        assert place.events is not None
        jets = ek.data.read_jets(place.events.test, max_constituents=model.config.data.max_constituents)
        jets = jets[: job.values["test"]]
        ways: dict[str, Callable[[Jets, Tensor, torch.dtype], Tensor]] = {
            "": lambda batch, turn, dtype: at_fixed_beams(model, batch, turn, dtype)
        }
        if model.config.network == "LorentzNet":
            ways[", moved"] = lambda batch, turn, dtype: at_moved_beams(model, batch, turn, dtype)
        numbers: Numbers = {"auc": report["test"]["auc"], "accuracy": report["test"]["accuracy"]}
        for dtype in (torch.float32, torch.float64):
            model.to(dtype)
            for name, way in ways.items():
                found = [quality_at(jets, boost(beta), dtype, way) for beta in BETAS]
                kind = f"{str(dtype).removeprefix('torch.')}{name}"
                numbers |= {f"{what}, {kind}": [f[what] for f in found] for what in ("accuracy", "auc")}
        return numbers

    def table(self, results: Results) -> str:
        rows = []
        for title, group, kind in lines_of(results):
            found = results.curve(group, f"accuracy, {kind}")
            rows.append([title, *(cell(s, 3) for s in found)])
        accuracies = markdown(["accuracy at beta", *map(str, BETAS)], rows)
        gammas = [0, 4, 8, 12]
        changed = [[kind, *(worst(results, kind, k) for k in gammas)] for kind in KINDS if INVARIANCE in results.groups]
        head = ["largest change of a logit at gamma", *(f"{GAMMAS[k]:g}" for k in gammas)]
        return f"{accuracies}\n\n{markdown(head, changed)}"

    def plot(self, results: Results, path: Path) -> None:
        rapidity = torch.tensor(BETAS, dtype=torch.float64).atanh().tolist()
        figure = figure_of(figsize=(6.4, 8.4), dpi=DPI)
        above, below = figure.subplots(2, 1)
        lines = {
            title: (rapidity, results.curve(group, f"accuracy, {kind}"))
            for title, group, kind in lines_of(results)
            if not kind.startswith("float64")
        }
        draw(above, lines)
        above.set(xlabel="rapidity of the boost along x (beta 0.99: 2.65)", ylabel="accuracy, float32")
        draw(below, {kind: (GAMMAS, results.curve(INVARIANCE, kind)) for kind in KINDS})
        below.set(xlabel="Lorentz factor of a boost of jet and beams", ylabel="largest change / largest logit")
        below.set(xscale="log", yscale="log")
        save(figure, path)


def worst(results: Results, kind: str, k: int) -> str:
    return f"{max(numbers[kind][k] for numbers in results.groups[INVARIANCE]):.0e}"


def lines_of(results: Results) -> list[tuple[str, str, str]]:
    """(title, group, kind of curve)."""
    found = []
    for group, numbers in results.groups.items():
        for name in numbers[0]:
            if name.startswith("accuracy, "):
                kind = name.removeprefix("accuracy, ")
                beams = {"LorentzNet": ", beams moved too" if "moved" in kind else ", beams fixed"}.get(group, "")
                found.append((f"{group}{beams}, {kind.removesuffix(', moved')}", group, kind))
    return found


def quality_at(
    jets: Jets, turn: Tensor, dtype: torch.dtype, way: Callable[[Jets, Tensor, torch.dtype], Tensor]
) -> dict[str, float]:
    """Of boosted jets; a score that is not finite counts as 0: background."""
    score = torch.cat([way(batch, turn, dtype).double() for batch in jets.batches(BATCH)]).nan_to_num(0.0)
    return {"accuracy": metrics.accuracy(score, jets.label), "auc": metrics.auc(score, jets.label)}


def at_fixed_beams(model: Classifier, batch: Jets, turn: Tensor, dtype: torch.dtype) -> Tensor:
    """Scores of boosted jets, four-momenta and weights in ``dtype``."""
    p4 = (batch.p4.double() @ turn.T).to(dtype)
    return model.task.score(model(JetBatch(p4, batch.ptr, batch.label)))


def at_moved_beams(model: Classifier, batch: Jets, turn: Tensor, dtype: torch.dtype) -> Tensor:
    """The same where jets and beams are boosted together."""
    x, ptr, is_beam = with_beams(batch.p4.double(), batch.ptr)
    x = (x @ turn.T).to(dtype)
    return model.task.score(model.network(x, top_tagging_scalars(x, is_beam), ek.Graph.complete(ptr)))
