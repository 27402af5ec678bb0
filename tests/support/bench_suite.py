"""Imports the benchmark suite, installed or from the checkout, and makes a sample result."""

from __future__ import annotations

import importlib
from typing import Any

from equikernels import cli


def module(name: str) -> Any:
    return importlib.import_module(f"{cli.bench_package()}.{name}")


machine, side_by_side = module("machine"), module("side_by_side")


def document(ours: float = 10.0, theirs: float = 100.0, mib: float = 50.0) -> dict[str, Any]:
    return {
        **machine.machine("net", 2),
        "rows": [
            side_by_side.row("forward", [ours / 1e3] * 3, [theirs / 1e3] * 3),
            {"what": "op", "equikernels_ms": ours},
        ],
        "training_step_peak_mib": [{"what": "process", "equikernels": mib, "published": 500.0, "ratio": 500.0 / mib}],
    }
