"""Trains, evaluates and scores: what the commands do, and what a program may call."""

from __future__ import annotations

import json
import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from .._version import __version__
from ..checks import fail
from ..data import Jets
from ..nn import SyncBatchNorm
from ..pretrained import pretrained_card, pretrained_names, weights
from .config import Config
from .data import EventData, data_of
from .module import Classifier

RESUME = "last.ckpt"


class Clock(Callback):
    """How long steps take, and how much of it the trainer waits for data."""

    def __init__(self) -> None:
        self.step, self.waiting = 0.0, 0.0
        self._since: float | None = None

    def on_train_epoch_start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        now = time.perf_counter()
        self.waiting += now - (self._since or now)
        self._since = now

    def on_train_batch_end(self, *_: Any) -> None:
        now = time.perf_counter()
        self.step += now - (self._since or now)
        self._since = now

    def as_dict(self) -> dict[str, float]:
        whole = max(self.step + self.waiting, 1e-12)
        return {"seconds_in_steps": self.step, "share_of_waiting_for_data": self.waiting / whole}


def trainer_of(config: Config, output: Path, devices: int | str = 1, **options: Any) -> lightning.Trainer:
    """A Trainer with the callbacks of a configuration; ``options`` are Lightning's and go before ours."""
    t = config.training
    mode = "min" if t.monitor == "loss" else "max"
    monitor = f"validation_{t.monitor}"
    callbacks: list[Callback] = [
        ModelCheckpoint(output, "best", monitor=monitor, mode=mode, enable_version_counter=False),
        # of every epoch: save_last would write it where the best one is written alone
        ModelCheckpoint(output, RESUME.removesuffix(".ckpt"), enable_version_counter=False),
        Clock(),
    ]
    if t.patience is not None:
        callbacks.append(EarlyStopping(monitor, mode=mode, patience=t.patience))
    given: dict[str, Any] = {
        "max_epochs": t.epochs,
        "devices": devices,
        "precision": t.precision,
        "gradient_clip_val": t.clip,
        "callbacks": callbacks,
        "logger": CSVLogger(output, name="", version=""),
        "default_root_dir": output,
        "enable_progress_bar": sys.stderr.isatty(),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 10**9,
        "use_distributed_sampler": False,  # the data modules share events out themselves
        "accelerator": "auto",
    }
    with quiet():
        return lightning.Trainer(**{**given, **options})


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's remarks on what is intended here; its warnings on other things stay."""
    said = logging.getLogger("lightning.pytorch")
    before = said.level
    said.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in (
                "Checkpoint directory", "does not have many workers", "smaller than the logging interval", "LeafSpec",
                "sync_dist=True", "TreeSpec",
            ):  # fmt: skip
                warnings.filterwarnings("ignore", f".*{text}.*")
            yield
    finally:
        said.setLevel(before)


def fit(
    config: Config, output: str | Path, *, devices: int | str = 1, resume: bool = False, **options: Any
) -> dict[str, Any]:
    """Trains a network and tests the best one.

    Written to ``output``: ``best.ckpt``, ``last.ckpt``, ``metrics.csv`` (an epoch a line), ``report.json``.

    Args:
        config: see :class:`Config`.
        output: a folder.
        devices: processes or GPUs, as Lightning's Trainer takes them.
        resume: go on from ``last.ckpt`` in the folder.
        options: further arguments of the Trainer (``num_nodes``, ``strategy``, ``logger``, ...).

    Returns:
        What ``report.json`` holds.

    Raises:
        ValueError, TypeError: bad input, before the first step; the message names the key of the configuration.
        FileNotFoundError: nothing to resume.
    """
    output = Path(output)
    last = output / RESUME
    if resume and not last.is_file():
        raise FileNotFoundError(f"train: resume: expected {last}, got no such file")
    output.mkdir(parents=True, exist_ok=True)
    events = data_of(config)
    events.setup("fit")
    if config.data.test is not None:
        events.setup("test")
    lightning.seed_everything(config.training.seed, verbose=False)
    model = Classifier(config.as_dict())
    trainer = trainer_of(config, output, devices, **options)
    if trainer.world_size > 1:
        SyncBatchNorm.convert(model.network)
    start = time.perf_counter()
    with quiet():
        trainer.fit(model, events, ckpt_path=str(last) if resume else None, weights_only=True)
    seconds = time.perf_counter() - start
    report = {
        "config": config.as_dict(),
        "version": __version__,
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": trainer.current_epoch,
        "seconds": seconds,
        "events_read": events.events_read,
        "seconds_of_reading": events.seconds_of_reading,
        **next(c for c in trainer.callbacks if isinstance(c, Clock)).as_dict(),  # type: ignore[attr-defined]
        "validation": _plain(trainer.callback_metrics, "validation_"),
    }
    if trainer.is_global_zero:
        best = _load(output / "best.ckpt")
        model.load_state_dict(best["state_dict"])
        if "test" in events.parts:
            score, label = predict(model, events, "test")
            report["test"] = model.task.summary(score, label)
            np.savez_compressed(output / "test_scores.npz", score=score.float().numpy(), label=label.numpy())
        (output / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return report


def load_model(path: str | Path) -> Classifier:
    """The network of a checkpoint of :func:`fit`, or of the package by its name, in evaluation.

    Raises:
        FileNotFoundError: no such file and no such name.
        ValueError: another kind of checkpoint; the message says what is missing.
    """
    if str(path) in pretrained_names():
        model = Classifier(pretrained_card(str(path))["config"])
        model.network.load_state_dict(weights(str(path)))
        return model.eval()
    checkpoint = _load(Path(path))
    config = (checkpoint.get("hyper_parameters") or {}).get("config") if isinstance(checkpoint, dict) else None
    if config is None or "state_dict" not in checkpoint:
        fail(str(path), "checkpoint", "one of `equikernels train`, with its configuration", "another file")
    model = Classifier(config)
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        fail(str(path), "state_dict", f"the weights of {config['network']} with its options", error)
    return model.eval()


@torch.inference_mode()
def predict(model: Classifier, events: EventData, part: str) -> tuple[Tensor, Tensor]:
    """Scores and labels of all events of a part, in order, in one process."""
    model.eval()
    scores, labels = [], []
    parts, size = events.parts[part], max(events.config.data.batch_size, 1)
    for first in range(0, len(parts), size):
        index = torch.arange(first, min(first + size, len(parts)))
        batch = model.transfer_batch_to_device(events.batch(events.take(parts, index)), model.device, 0)
        scores.append(model.task.score(model(batch)).double().cpu())
        labels.append(model.task.label(batch).cpu())
    return torch.cat(scores), torch.cat(labels)


@torch.inference_mode()
def score_jets(model: Classifier, chunks: Iterable[Jets], batch_size: int = 100) -> Iterable[Tensor]:
    """The probability of signal of every jet, chunk by chunk."""
    for chunk in chunks:
        found = [model.task.score(model(batch.to(model.device))).double().cpu() for batch in chunk.batches(batch_size)]
        yield torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def _load(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        fail(str(path), "checkpoint", "a file of torch.save with tensors and plain values", str(error).split("\n")[0])


def _plain(found: Any, prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): float(v) for name, v in found.items() if name.startswith(prefix)}
