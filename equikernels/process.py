"""Measures the memory of this process, and runs functions in a fresh process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any


def memory(key: str) -> int | None:
    """A field of /proc/self/status in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def reset_peak() -> None:
    # If this is not allowed the mark only rises, which is correct for growing batches.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def above(resident: int | None) -> int | None:
    """Bytes between the high-water mark and the given resident memory."""
    peak = memory("VmHWM")
    return None if peak is None or resident is None else max(peak - resident, 0)


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Runs a function in a fresh process and returns its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()
