"""The configuration of a training: a YAML file, checked key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from ..checks import check_choice, fail

OP = "config"
BACKENDS = ("equikernels", "reference", "published")


@dataclass(frozen=True)
class DataConfig:
    """Where events come from.

    Attributes:
        train: a file that :func:`equikernels.data.read_jets` reads, or a folder of hit graphs.
        validation, test: the same; without a validation file a part of the training events is taken.
        validation_fraction: of that part.
        batch_size: events, of each process.
        max_constituents: the hardest that are kept, or None: all.
        limit: of training events, or None: all.
        bucket: of this many batches, shuffled events are sorted by size before they are cut into batches; see
            :meth:`equikernels.data.Jets.loader`. 0, as published: batches are random samples. Packed networks are no
            faster with it; formulas that pad (``backend: published``) are, and learn another thing: a batch norm sees
            batches of one multiplicity at a time.
        workers: processes that load data; 0: this one.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None
    validation_fraction: float = 0.1
    batch_size: int = 32
    max_constituents: int | None = None
    limit: int | None = None
    bucket: int = 0
    workers: int = 0


@dataclass(frozen=True)
class TrainingConfig:
    """How weights are fitted.

    Attributes:
        epochs: passes over the training events.
        optimizer: "AdamW" or "Adam", of torch.optim.
        learning_rate, weight_decay, amsgrad: of the optimizer.
        schedule: of the learning rate: "constant", "step", "one_cycle", "flat_decay", "lorentznet",
            "pelican".
        schedule_options: of the schedule, see :mod:`equikernels.train.schedules`.
        clip: largest norm of the gradient, or None.
        monitor: the best checkpoint is that of the largest "accuracy" or "auc", or of the smallest "loss".
        patience: epochs without a better one after which training stops, or None.
        seed: of weights, order of events and dropout.
        precision: of Lightning's Trainer, such as "32-true" or "bf16-mixed".
    """

    epochs: int = 10
    optimizer: str = "AdamW"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    amsgrad: bool = False
    schedule: str = "constant"
    schedule_options: dict[str, Any] = field(default_factory=dict)
    clip: float | None = None
    monitor: str = "accuracy"
    patience: int | None = None
    seed: int = 0
    precision: str = "32-true"


@dataclass(frozen=True)
class Config:
    """A training.

    Attributes:
        network: a name of :data:`equikernels.train.tasks.TASKS`.
        options: of the network's constructor.
        data, training: see there.
        backend: "equikernels"; "reference": the same network on plain PyTorch; "published": the published formula.
    """

    network: str
    options: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    backend: str = "equikernels"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str = OP) -> Config:
        """Of nested mappings, as YAML gives them.

        Raises:
            ValueError, TypeError: an unknown or missing key, or a value of another type; the message names it.
        """
        from .schedules import SCHEDULES
        from .tasks import TASKS

        config: Config = _read(cls, values, where)
        check_choice(where, "network", config.network, TASKS)
        check_choice(where, "backend", config.backend, BACKENDS)
        check_choice(where, "training.schedule", config.training.schedule, SCHEDULES)
        check_choice(where, "training.optimizer", config.training.optimizer, ("AdamW", "Adam"))
        check_choice(where, "training.monitor", config.training.monitor, ("accuracy", "auc", "loss"))
        for name, value in (("training.epochs", config.training.epochs), ("data.batch_size", config.data.batch_size)):
            if value < 1:
                fail(where, name, "at least 1", value)
        for name, value in (("data.bucket", config.data.bucket), ("data.workers", config.data.workers)):
            if value < 0:
                fail(where, name, "at least 0", value)
        if not 0 < config.data.validation_fraction < 1:
            fail(where, "data.validation_fraction", "a number between 0 and 1", config.data.validation_fraction)
        return config


def shipped() -> list[str]:
    """Names of the configurations of the package."""
    folder = resources.files("equikernels.train") / "configs"
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def load(source: str | Path) -> Config:
    """A configuration from a YAML file, or one of the package by its name, such as "lorentznet".

    Raises:
        FileNotFoundError: no such file, and no such name.
        ValueError, TypeError: no mapping, or something in it; the message names the file and the key.
    """
    import yaml

    path = Path(source)
    if path.suffix == "" and str(source) in shipped():
        text = (resources.files("equikernels.train") / "configs" / f"{source}.yaml").read_text()
    elif path.is_file():
        text = path.read_text()
    else:
        raise FileNotFoundError(f"{source}: no such file, and none of {', '.join(shipped())}")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        fail(str(source), "YAML", "a mapping", error)
    if not isinstance(values, Mapping):
        fail(str(source), "YAML", "a mapping", type(values).__name__)
    return Config.of(values, str(source))


def _read(kind: Any, values: Mapping[str, Any], where: str, prefix: str = "") -> Any:
    hints, known = get_type_hints(kind), {f.name: f for f in fields(kind)}
    for name in values:
        if name not in known:
            fail(where, f"{prefix}{name}", f"one of {', '.join(known)}", "another key")
    made = {}
    for name, f in known.items():
        path, hint = f"{prefix}{name}", hints[name]
        if name not in values:
            if f.default is MISSING and f.default_factory is MISSING:
                fail(where, path, "a value", "none")
            continue
        value = values[name]
        if hint in (DataConfig, TrainingConfig):
            if not isinstance(value, Mapping):
                fail(where, path, "a mapping", repr(value), TypeError)
            made[name] = _read(hint, value, where, f"{path}.")
        else:
            made[name] = _as(hint, value, where, path)
    return kind(**made)


def _as(hint: Any, value: Any, where: str, path: str) -> Any:
    kinds = getattr(hint, "__args__", (hint,)) if not hasattr(hint, "__origin__") else (hint.__origin__,)
    if float in kinds and isinstance(value, str):  # YAML reads 1e-3 as text
        try:
            value = float(value)
        except ValueError:
            fail(where, path, "a number", repr(value), TypeError)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    right = any(isinstance(value, k) for k in kinds) and not (isinstance(value, bool) and bool not in kinds)
    if not right:
        names = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        fail(where, path, names, repr(value), TypeError)
    return value
