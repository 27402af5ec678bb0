"""Training on Lightning: configurations, data and networks. Needs ``pip install "equikernels[train]"``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..checks import need
from .config import Config as Config
from .config import load as load

if TYPE_CHECKING:
    from .data import HitData as HitData
    from .data import JetData as JetData
    from .module import Classifier as Classifier
    from .trainer import fit as fit
    from .trainer import load_model as load_model
    from .trainer import score_jets as score_jets

# What needs Lightning is imported when it is asked for.
_HOMES = {name: module for module, names in {
    "data": ("HitData", "JetData"), "trainer": ("fit", "load_model", "score_jets"), "module": ("Classifier",),
}.items() for name in names}  # fmt: skip


def check_installed(op: str) -> None:
    """Raises ImportError, which names the extra, where a library that training needs is missing."""
    for module in ("lightning", "yaml"):
        need(op, module, "train")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    check_installed(f"equikernels.train.{name}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
