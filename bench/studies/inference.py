"""How long networks take for a batch of 100: tables 4 and 5 of "Equivariance Is Not All You Need"."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from equikernels.data import load_sample_hit_graphs, load_sample_jets
from equikernels.metrics import spread
from equikernels.train import Classifier
from equikernels.train.config import Config
from equikernels.train.tasks import TASKS, Hits, JetBatch

from .figures import against_parameters
from .study import Job, Numbers, Place, Published, Results, Study, seeds
from .tables import cell, markdown, other_data
from .tracking import trackers
from .training import LEFT_OUT, networks, values_of

JETS, GRAPHS = 100, 1
RUNS, LONGEST = 30, 2.0  # of each job, and seconds for all of them
SOURCE = "Thais, Murnane 2023, tables 4 and 5"
# CPU and GPU, ms for a batch of 100 on a Xeon E5-2698 v4 and a V100; trackers on an EPYC 7713 and an A100.
PUBLISHED = {
    "LGN": "51.4, 1.66",
    "LorentzNet": "32.9, 0.34",
    "PFN": "0.6, 0.12",
    "ParticleNet": "11.0, 0.19",
    "ResNeXt": "5.5, 0.34",
    "EuclidNet, h 16": "4.866 ± 0.402, 0.151 ± 0.005",
    "Interaction Network, h 32": "4.714 ± 0.265, 0.403 ± 0.043",
}


class Inference(Study):
    name = "inference"
    asks = "Does symmetry cost time?"
    source = SOURCE
    data = None
    alone = True

    def points(self, full: bool) -> list[Job]:
        """Published sizes in both kinds of run."""
        taggers = {name: config for name, config in networks("jets", True).items() if full or name not in LEFT_OUT}
        configs = {**taggers, **trackers(full)}
        return [Job(name, seed, values_of(config)) for seed in seeds(full) for name, config in configs.items()]

    def run(self, job: Job, place: Place) -> Numbers:
        torch.manual_seed(job.seed)
        model = Classifier(Config.of(job.values["config"]).as_dict()).eval()
        numbers: Numbers = {"parameters": sum(p.numel() for p in model.parameters())}
        for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
            model.to(device)
            times = timed(model, batch_of(model, device))
            numbers |= {f"{device}_{name}": value for name, value in times.items()}
        return numbers

    def seconds(self, job: Job, place: Place) -> float | None:
        return 2 * LONGEST

    def table(self, results: Results) -> str:
        devices = [d for d in ("cpu", "cuda") if any(f"{d}_ms" in n[0] for n in results.groups.values())]
        rows = []
        for name, found in results.groups.items():
            cells = [cell(results.spread(name, f"{d}_{kind}"), 2) for d in devices for kind in ("ms", "with_graph_ms")]
            other = Published(PUBLISHED[name], SOURCE) if name in PUBLISHED else None
            rows.append([name, f"{found[0]['parameters']:,}", *cells, other_data(other)])
        head = [f"{text}, {d}" for d in devices for text in ("forward [ms]", "with its graph [ms]")]
        return markdown(["network", "parameters", *head, "other machines, CPU and GPU [ms]"], rows)

    def plot(self, results: Results, path: Path) -> None:
        against_parameters(results, "cpu_ms", "forward on the CPU [ms]", path, yscale="log")


def batch_of(model: Classifier, device: str) -> Any:
    """A hundred jets, or one event's hit graph."""
    if TASKS[model.config.network].data == "hits":
        return Hits.of(load_sample_hit_graphs()[:GRAPHS]).to(device)
    jets = load_sample_jets()[:JETS].to(device)
    return JetBatch(jets.p4, jets.ptr, jets.label)


@torch.inference_mode()
def timed(model: Classifier, batch: Any) -> Numbers:
    """Mean milliseconds of the network alone, and together with its inputs and graph, which are made of the batch."""
    dtype = next(model.network.parameters()).dtype
    arguments = model.task.arguments(batch, dtype, False)
    calls: dict[str, Callable[[], Any]] = {
        "ms": lambda: model.network(*arguments),
        "with_graph_ms": lambda: model(batch),
    }
    return {name: mean_of(call) for name, call in calls.items()}


def mean_of(call: Callable[[], Any]) -> float:
    """Of RUNS calls after a warm-up, fewer where they would take longer than LONGEST."""
    seconds_of(call)
    runs = max(2, min(RUNS, math.floor(LONGEST / 2 / max(seconds_of(call), 1e-6))))
    return 1e3 * spread(seconds_of(call) for _ in range(runs)).mean


def seconds_of(call: Callable[[], Any]) -> float:
    """With the device's work done."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
