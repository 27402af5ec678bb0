"""Stores the chosen backend of each context (:mod:`contextvars`): every thread and asyncio task has its own."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Any

BACKENDS = ("auto", "reference", "cpu", "cuda", "triton")

DEFAULT = os.environ.get("EQUIKERNELS_BACKEND", "auto") or "auto"
if DEFAULT not in BACKENDS:
    raise ValueError(f"EQUIKERNELS_BACKEND: expected one of {', '.join(BACKENDS)}, got {DEFAULT!r}")

# The blocks that enclose this point of the context: (block, its backend), the innermost last.
blocks: ContextVar[tuple[tuple[object, str], ...]] = ContextVar("equikernels_backend", default=())


def current() -> str:
    inside = blocks.get()
    return inside[-1][1] if inside else DEFAULT


def __getattr__(name: str) -> Any:
    # Dynamo does not support context variables. It calls this function for a missing attribute, and calls it again
    # before it uses compiled code.
    if name == "name":
        return current()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
