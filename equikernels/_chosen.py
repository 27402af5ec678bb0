"""The backend chosen, of each context (:mod:`contextvars`): threads and asyncio's tasks choose for themselves."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Any

BACKENDS = ("auto", "reference", "cpu", "cuda", "triton")

DEFAULT = os.environ.get("EQUIKERNELS_BACKEND", "auto") or "auto"
if DEFAULT not in BACKENDS:
    raise ValueError(f"EQUIKERNELS_BACKEND: expected one of {', '.join(BACKENDS)}, got {DEFAULT!r}")

# The blocks this context is in: (block, its backend), the innermost last.
blocks: ContextVar[tuple[tuple[object, str], ...]] = ContextVar("equikernels_backend", default=())


def current() -> str:
    inside = blocks.get()
    return inside[-1][1] if inside else DEFAULT


def __getattr__(name: str) -> Any:
    # Dynamo does not know context variables. It reads what a module lacks by asking the module, here, and asks again
    # before it uses what it has compiled.
    if name == "name":
        return current()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
