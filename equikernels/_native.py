"""Loads the compiled libraries and says why one is missing. Without them everything runs on the reference path."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import torch

_HERE = Path(__file__).parent
OPS_LIBRARY = _HERE / "_ops.so"
CUDA_LIBRARY = _HERE / "_ops_cuda.so"

host: ModuleType | None = None


def _load(path: Path) -> str | None:
    """Loads an op library; returns the reason where that fails."""
    if not path.exists():
        return f"{path.name} was not built"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load under torch {torch.__version__}: {error}"
    return None


def _load_cpu() -> str | None:
    # A second definition of the op namespace in one process is fatal in libtorch: raise here instead.
    if hasattr(torch.ops.equikernels, "invariants"):
        raise ImportError("equikernels: another copy of the op library is already loaded in this process")
    return _load(OPS_LIBRARY)


def _load_cuda(cpu_reason: str | None) -> str | None:
    if cpu_reason is not None:
        return cpu_reason
    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA"
    return _load(CUDA_LIBRARY)


cpu_reason: str | None = _load_cpu()
cuda_reason: str | None = _load_cuda(cpu_reason)

if cpu_reason is None:
    try:
        from . import _host as host  # type: ignore[no-redef,attr-defined]
    except ImportError:
        host = None

ISAS = ("baseline", "avx2", "avx512")


def active_isa() -> str:
    """The instruction set of the CPU kernels: "baseline", "avx2" or "avx512"; "none" without kernels."""
    return host.active_isa(str(OPS_LIBRARY)) if host is not None else "none"


def set_isa(name: str) -> None:
    """Selects the instruction set of the CPU kernels.

    Args:
        name: "baseline", "avx2" or "avx512".

    Raises:
        ValueError: no such set.
        RuntimeError: this CPU or this build does not support it.
    """
    if name not in ISAS:
        raise ValueError(f"set_isa: name: expected one of {', '.join(ISAS)}, got {name!r}")
    if host is None:
        raise RuntimeError(f"set_isa: {cpu_reason or '_host was not built'}")
    if not host.set_isa(str(OPS_LIBRARY), name):
        raise RuntimeError(f"set_isa: name: this CPU or this build has no {name}")


def available_isas() -> tuple[str, ...]:
    """The instruction sets that this CPU and this build support."""
    if host is None:
        return ()
    now = active_isa()
    available = tuple(name for name in ISAS if host.set_isa(str(OPS_LIBRARY), name))
    set_isa(now)
    return available


_wanted = os.environ.get("EQUIKERNELS_CPU", "")
if _wanted and host is not None:
    set_isa(_wanted)
