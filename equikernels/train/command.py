"""The commands ``equikernels train``, ``evaluate``, ``score`` and ``export``."""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import data, deploy, metrics
from ..checks import fail, need
from ..data import Jets
from .config import Config, load
from .module import Classifier
from .trainer import fit, load_model, score_jets

SUFFIXES = (".parquet", ".csv", ".npz")
CHUNK = 10_000  # jets in memory


def train(arguments: argparse.Namespace) -> int:
    _threads(arguments)
    config = with_arguments(load(arguments.config), arguments)
    report = fit(config, arguments.output, devices=arguments.devices, resume=arguments.resume)
    events, seconds = report["events_read"], max(report["seconds_of_reading"], 1e-9)
    print(f"{events:,} events read in {seconds:.2f} s ({events / seconds:,.0f} a second)")
    waiting = 100 * report["share_of_waiting_for_data"]
    print(
        f"{report['parameters']:,} parameters, {report['epochs']} epochs in {report['seconds']:.0f} s; "
        f"{waiting:.1f} % of the time of its steps was waiting for data"
    )
    if "test" in report and "auc" not in report["test"]:
        print(", ".join(f"{name} {value:.4f}" for name, value in report["test"].items()))
    elif "test" in report:
        print(lines(report["test"]))
        scores = np.load(arguments.output / "test_scores.npz")
        plots(arguments.output, scores["score"], scores["label"], config.network)
    print(f"Written to {arguments.output}: best.ckpt, last.ckpt, metrics.csv, report.json")
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    _threads(arguments)
    model = _classifier("evaluate", arguments)
    labels: list[torch.Tensor] = []

    def chunks() -> Iterator[Jets]:
        for chunk in _chunks(model.config, arguments.data):
            labels.append(chunk.label)
            yield chunk

    score = _joined(list(score_jets(model, chunks())), arguments.data)
    label = torch.cat(labels)
    found = metrics.summary(score, label)
    print(lines(found))
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")
        plots(arguments.out, score.numpy(), label.numpy(), model.config.network)
    return 0


def score(arguments: argparse.Namespace) -> int:
    _threads(arguments)
    if arguments.out.suffix not in SUFFIXES:
        fail("score", "--out", f"a file that ends in {', '.join(SUFFIXES)}", arguments.out)
    model = _classifier("score", arguments)
    found = _joined(list(score_jets(model, _chunks(model.config, arguments.data))), arguments.data).numpy()
    write_scores(arguments.out, found)
    print(f"{len(found):,} jets scored: {arguments.out}")
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Writes a file that reads four-momenta and gives the probability of signal, without Python."""
    if arguments.out.suffix not in (".onnx", ".pt2"):
        fail("export", "FILE", "a file that ends in .onnx or .pt2", arguments.out)
    network = load_model(arguments.model).network.eval()
    if arguments.out.suffix == ".pt2":
        deploy.package(network, arguments.out, reads="events", padded_to=arguments.padded_to)
    else:
        options = {"max_constituents": arguments.max_constituents, "padded_to": arguments.padded_to}
        deploy.export_onnx(network.float(), arguments.out, reads="events", **options)
    print(f"wrote {arguments.out}")
    return 0


def write_scores(path: Path, scores: np.ndarray[Any, Any]) -> None:
    """Columns jet (its number in the file) and score."""
    columns: dict[str, Any] = {"jet": np.arange(len(scores)), "score": scores}
    if path.suffix == ".npz":
        np.savez_compressed(path, **columns)
    elif path.suffix == ".csv":
        rows = np.stack([columns["jet"], scores], axis=1)
        np.savetxt(path, rows, fmt=("%d", "%.8g"), delimiter=",", header="jet,score", comments="")
    else:
        awkward = need("score: a Parquet file", "awkward", "data")
        need("score: a Parquet file", "pyarrow", "data")
        awkward.to_parquet(awkward.Array(columns), path)


def with_arguments(config: Config, arguments: argparse.Namespace) -> Config:
    """A configuration with what the command line says instead."""
    files = {"train": arguments.data, "validation": arguments.validation, "test": arguments.test}
    of_data = {name: value for name, value in {**files, "limit": arguments.limit}.items() if value is not None}
    of_training = {"epochs": arguments.epochs, "seed": arguments.seed}
    of_training = {name: value for name, value in of_training.items() if value is not None}
    return replace(
        config,
        data=replace(config.data, **of_data),
        training=replace(config.training, **of_training),
        backend=arguments.backend or config.backend,
    )


def lines(found: dict[str, float]) -> str:
    """Metrics as text."""
    text = [f"{found['events']:,.0f} events: accuracy {found['accuracy']:.4f}, AUC {found['auc']:.5f}"]
    for efficiency in ("0.3", "0.5"):
        name = f"rejection_{efficiency}"
        passed = f"{found[f'{name}_passed']:.0f} background events pass"
        value = (
            f"> {found[name]:.0f}" if found[f"{name}_bound"] else f"{found[name]:.0f} +- {found[f'{name}_error']:.0f}"
        )
        text.append(f"1/eps_B at eps_S = {efficiency}: {value} ({passed})")
    return "\n".join(text)


def plots(folder: Path, score: Any, label: Any, name: str) -> None:
    """ROC and scores, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return
    from .. import plots as drawn

    drawn.roc({name: metrics.roc(score, label)}, folder / "roc.png")
    drawn.score_histogram(score, label, folder / "scores.png")


def _classifier(op: str, arguments: argparse.Namespace) -> Classifier:
    model = load_model(arguments.model).to(arguments.device)
    if model.task.data == "momenta":
        fail(op, "--model", "a classifier; `train --test` evaluates a regression", model.config.network)
    return model


def _chunks(config: Config, path: str) -> Iterator[Jets]:
    return data.iter_jets(path, max_constituents=config.data.max_constituents, chunk=CHUNK)


def _joined(parts: list[torch.Tensor], path: str) -> torch.Tensor:
    whole = torch.cat(parts) if parts else torch.empty(0)
    if len(whole) == 0:
        fail(str(path), "jets", "at least one", "none")
    return whole


def _threads(arguments: argparse.Namespace) -> None:
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
