"""Studies whose jobs are trainings: a configuration, trained by ``equikernels.train``, and what is evaluated of it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import torch

import equikernels
from equikernels.train import Classifier, fit, load, load_model
from equikernels.train.config import Config, shipped
from equikernels.train.data import EventData, data_of
from equikernels.train.tasks import TASKS

from .events import Events, size
from .study import Job, Numbers, Place, Study, seeds

TIMED = 4  # steps of an estimate, the first not counted
# Options of a quick run's networks that have no small configuration.
SMALL: dict[str, dict[str, Any]] = {
    "EFP": {"degree": 5},
    "EGNN": {"hidden_nf": 24, "n_layers": 3},
    "GNN": {"hidden_nf": 24, "n_layers": 3},
    "RadialField": {"hidden_nf": 24, "n_layers": 3},
    "SchNet": {"hidden_nf": 24, "n_layers": 2, "n_gaussians": 16},
    "TFN": {"width": 4, "n_layers": 2},
    "LGN": {"num_channels": [2, 3, 2], "n_basis": 5},
    "ParT": {"embed": [32, 64, 32], "pair_embed": [16, 16], "heads": 4, "n_blocks": 2, "n_class_blocks": 1},
    "ParticleNet": {"k": 7, "widths": [[16, 16, 16], [32, 32, 32]], "n_hidden": 64},
    "VecNet": {"n_hidden": 24, "n_layers": 3},
}
# Of quick runs that compare all networks: they would take most of the time.
LEFT_OUT = ("RadialField", "SchNet", "TFN")
BATCH, PARTICLES = 64, 40  # at most, of a quick run: few events need many steps
FORWARD = 0.35  # of a step's time, about: the pass over events without gradients


def networks(data: str, full: bool, particles: int = PARTICLES) -> dict[str, Config]:
    """Network -> a configuration of the package, of all that read jets or hits: the published one, or for a quick run
    the small one, or else the published one with the options of SMALL, on at most so many particles of a jet."""
    found: dict[str, Config] = {}
    for name in sorted(shipped(), key=lambda name: name.endswith("_small") == full):
        config = load(name)
        if TASKS[config.network].data == data:
            found.setdefault(config.network, config)
    if not full:
        found = {name: small(config, particles) for name, config in found.items()}
    return dict(sorted(found.items()))


def small(config: Config, particles: int = PARTICLES) -> Config:
    """For a quick run."""
    data = replace(config.data, batch_size=min(config.data.batch_size, BATCH))
    if TASKS[config.network].data != "hits":
        data = replace(data, max_constituents=min(data.max_constituents or particles, particles))
    return replace(config, data=data, options={**config.options, **SMALL.get(config.network, {})})


def with_training(config: Config, **values: Any) -> Config:
    return replace(config, training=replace(config.training, **values))


def with_limit(config: Config, limit: int) -> Config:
    """On that many training events."""
    return replace(config, data=replace(config.data, limit=limit))


def on(config: Config, events: Events, seed: int) -> Config:
    """A configuration on a study's events."""
    data = replace(config.data, train=events.train, validation=events.validation, test=events.test)
    return with_training(replace(config, data=data), seed=seed)


class TrainingStudy(Study):
    """Trains configurations with some seeds.

    A job's values are {"config": ..., ...}, as :meth:`job` makes them; the files and the seed are filled in when it
    runs.
    """

    def points(self, full: bool) -> list[Job]:
        groups = self.groups(full)
        return [Job(group, seed, values) for seed in seeds(full) for group, values in groups.items()]

    def groups(self, full: bool) -> dict[str, dict[str, Any]]:
        """Group -> values of its jobs, by :func:`values_of`."""
        raise NotImplementedError

    def config(self, job: Job, place: Place) -> Config:
        """The configuration that a job trains."""
        assert place.events is not None
        return on(Config.of(job.values["config"]), place.events, job.seed)

    def run(self, job: Job, place: Place) -> Numbers:
        name = self.training(job, place.events)
        kept = None if name is None or place.trainings is None else place.trainings / name
        model, report = trained(self.config(job, place), place.folder, kept)
        numbers = {"parameters": report["parameters"], "epochs": report["epochs"], "training_s": report["seconds"]}
        return {**numbers, **self.evaluate(model, report, job, place)}

    def evaluate(self, model: Classifier, report: Mapping[str, Any], job: Job, place: Place) -> Numbers:
        """The numbers of a trained network; here the test metrics of :func:`equikernels.metrics.summary`."""
        return quality(report)

    def seconds(self, job: Job, place: Place) -> float | None:
        return seconds_of_training(self.config(job, place))

    def altered(self, job: Job) -> str:
        """The change that the job makes to the training events, in words; empty if it makes none."""
        return ""

    def training(self, job: Job, events: Events | None) -> str | None:
        assert events is not None
        config = on(Config.of(job.values["config"]), events, job.seed)
        sizes = [size(Path(path)) for path in (events.train, events.validation, events.test)]
        versions = [equikernels.__version__, torch.__version__]
        text = json.dumps([config.as_dict(), events.about, sizes, self.altered(job), versions], sort_keys=True)
        return f"{config.network}_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def values_of(config: Config, **more: Any) -> dict[str, Any]:
    """Values of a job."""
    return {"config": config.as_dict(), **more}


def quality(report: Mapping[str, Any]) -> Numbers:
    """Test metrics; a rejection where no background passes is None, for there is a bound alone."""
    found = dict(report["test"])
    for efficiency in ("0.3", "0.5"):
        if found.pop(f"rejection_{efficiency}_bound"):
            found[f"rejection_{efficiency}"] = found[f"rejection_{efficiency}_error"] = None
    return found


def trained(config: Config, folder: Path, kept: Path | None = None) -> tuple[Classifier, dict[str, Any]]:
    """The best network of a training, and its report; what training prints goes into a file of the folder.

    Args:
        config: what is trained.
        folder: of files that this makes.
        kept: where a finished training of this configuration is or, after it, will be; None: it is not kept.
    """
    done = kept if kept is not None and kept.exists() else folder / "fit"
    with (folder / "training.log").open("w") as log, contextlib.redirect_stdout(log), warnings.catch_warnings():
        # networks share activations, which have no state: an evaluated network leaves them in evaluation
        warnings.filterwarnings("ignore", message=r"Found .* in eval mode")
        if done != kept:
            fit(config, done, enable_progress_bar=False)
            if kept is not None:
                kept.parent.mkdir(exist_ok=True)
                done = done.rename(kept)
        return load_model(done / "best.ckpt"), json.loads((done / "report.json").read_text())


def seconds_of_training(config: Config) -> float:
    """About how long a training and its test take: a few steps are timed, and the passes over validation and test are
    taken to cost :data:`FORWARD` of a step for each batch."""
    events = data_of(config)
    events.setup("fit")
    lightning.seed_everything(config.training.seed, verbose=False)
    model = Classifier(config.as_dict())
    optimizer = torch.optim.SGD(model.network.parameters(), 0.0)
    times = []
    for batch in itertools.islice(shuffled(events), TIMED):
        start = time.perf_counter()
        loss = model.task.loss(model(batch), model.task.label(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    step = sum(times[1:]) / len(times[1:]) if len(times) > 1 else times[0]
    batches = {part: -(-len(found) // config.data.batch_size) for part, found in events.parts.items()}
    forward = FORWARD * step * batches["validation"]
    return config.training.epochs * (step * batches["train"] + forward) + forward


def shuffled(events: EventData) -> Any:
    d = events.config.data
    return events.batches(events.parts["train"], {"shuffle": True, "bucket": d.bucket, "seed": 0, "workers": 0})
