"""Loads the compiled libraries and says why one is missing. Without them everything runs on the reference path."""

from __future__ import annotations

import ctypes
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ._version import __version__

_HERE = Path(__file__).parent
OPS_LIBRARY = _HERE / "_ops.so"
CUDA_LIBRARY = _HERE / "_ops_cuda.so"
SOURCES = _HERE.parent / "csrc"  # in a checkout
REBUILD = "build the libraries again: `make` in the checkout, or `pip install --no-build-isolation -e .`"


def _load(path: Path) -> str | None:
    """Loads an op library; returns the reason where that fails."""
    if not path.exists():
        return f"{path.name} was not built"
    try:
        torch.ops.load_library(path)
    except OSError as error:
        return f"{path.name} does not load under torch {torch.__version__}: {error}"
    return None


def build_info(path: Path = OPS_LIBRARY) -> dict[str, str]:
    """The version, sources and tools of a loaded library; empty without it, or if it does not record them."""
    build = getattr(ctypes.CDLL(str(path)), "equikernels_build", None) if path.exists() else None
    if build is None:
        return {}
    build.restype = ctypes.c_char_p
    pairs = (line.partition(":") for line in build().decode().splitlines())
    return {key: value.strip() for key, _, value in pairs}


def hash_of_sources(folder: Path = SOURCES) -> str:
    """What CMake compiles into the libraries to tell the sources they are built from."""
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file())
    hashes = "".join(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files)
    return hashlib.sha256(hashes.encode()).hexdigest()[:12]


def _load_cpu() -> str | None:
    # A second definition of an op in one process is fatal in libtorch: raise here instead.
    if hasattr(torch.ops.equikernels, "invariants"):
        raise ImportError("equikernels: another copy of the op library is already loaded in this process")
    reason = _load(OPS_LIBRARY)
    if reason is None and (version := build_info().get("version", "unknown")) != __version__:
        raise ImportError(
            f"equikernels: {OPS_LIBRARY} is of version {version}, the Python files are of {__version__}: {REBUILD}"
        )
    return reason


def _stale() -> str | None:
    """In a checkout, whether the library was built from other sources than those that lie there."""
    if cpu_reason is not None or not SOURCES.is_dir():
        return None
    built, there = build_info().get("sources", "unknown"), hash_of_sources()
    if built == there:
        return None
    return f"{OPS_LIBRARY.name} was built from other sources ({built}) than those in {SOURCES} ({there}): {REBUILD}"


def _load_cuda() -> str | None:
    if cpu_reason is not None:
        return cpu_reason
    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA"
    if (reason := _load(CUDA_LIBRARY)) is not None:
        return reason
    mine, other = (build_info(path).get("sources", "unknown") for path in (OPS_LIBRARY, CUDA_LIBRARY))
    if mine != other:
        return f"{CUDA_LIBRARY.name} was built from other sources ({other}) than {OPS_LIBRARY.name} ({mine}): {REBUILD}"
    return None


cpu_reason: str | None = _load_cpu()
cuda_reason: str | None = _load_cuda()
stale: str | None = _stale()
if stale is not None:
    warnings.warn(f"equikernels: {stale}", RuntimeWarning, stacklevel=2)

_library = ctypes.CDLL(str(OPS_LIBRARY)) if cpu_reason is None else None
ISAS = ("baseline", "avx2", "avx512")


def _isa(request: int = -1) -> int:
    """Switches the instruction set, unless the request is -1; returns the set in use, or -1 where it cannot be had."""
    assert _library is not None
    return int(_library.equikernels_isa(request))


def active_isa() -> str:
    """The instruction set the CPU kernels use: "baseline", "avx2" or "avx512"; "none" without kernels."""
    return "none" if _library is None else ISAS[_isa()]


def _bfloat16_rate() -> float:
    """How many bfloat16 products this CPU adds up in the time of a float32 one; 0: it has none."""
    if _library is None:
        return 0.0
    _library.equikernels_bfloat16_rate.restype = ctypes.c_double
    return float(_library.equikernels_bfloat16_rate())


def _check_bfloat16() -> bool:
    return active_isa() == "avx512" and bfloat16_rate >= ENOUGH


def _check_two_parts() -> bool:
    return active_isa() == "avx512" and bfloat16_unit == "tiles" and bfloat16_rate >= 3 * ENOUGH


UNITS = ("none", "dot products", "tiles")
bfloat16_rate = _bfloat16_rate()
bfloat16_unit = "none" if _library is None else UNITS[_library.equikernels_bfloat16_unit()]
ENOUGH = 1.5  # bfloat16 products cost the rounding of their factors: below this rate they do not pay
# Of the instruction set in use; constants, which torch.compile can read. Two parts take three products.
bfloat16_pays, two_parts_pay = _check_bfloat16(), _check_two_parts()


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
    if _library is None:
        raise RuntimeError(f"set_isa: {cpu_reason}")
    if _isa(ISAS.index(name)) < 0:
        raise RuntimeError(f"set_isa: name: this CPU or this build has no {name}")
    global bfloat16_pays, two_parts_pay
    bfloat16_pays, two_parts_pay = _check_bfloat16(), _check_two_parts()


def available_isas() -> tuple[str, ...]:
    """The instruction sets this machine and this build have."""
    if _library is None:
        return ()
    now = active_isa()
    available = tuple(name for k, name in enumerate(ISAS) if _isa(k) == k)
    set_isa(now)
    return available


def cpu_features() -> str:
    """Instruction sets of this CPU that the kernels can use."""
    if _library is None:
        return ""
    _library.equikernels_cpu_features.restype = ctypes.c_char_p
    return str(_library.equikernels_cpu_features().decode())


def multiply_adds(iterations: int) -> float:
    """Runs independent float32 multiply-adds on the calling thread; returns the operations done."""
    assert _library is not None, cpu_reason
    loop = _library.equikernels_multiply_adds
    loop.argtypes, loop.restype = [ctypes.c_int64], ctypes.c_double
    return float(loop(iterations))


def _on_memory(name: str, arguments: str, result: Any = None) -> Callable[..., Any] | None:
    """A function of the library that works on host memory: "p" stands for a pointer, "i" an integer, "d" a number."""
    if _library is None:
        return None
    function = getattr(_library, name)
    kinds = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "d": ctypes.c_double}
    function.argtypes, function.restype = [kinds[letter] for letter in arguments], result
    return function


# See csrc/graph/complete.h; None without the library. A call takes a microsecond, an op or a step of NumPy several.
complete_table = _on_memory("equikernels_complete_table", "piiip", ctypes.c_int64)
prepended = _on_memory("equikernels_prepended", "piipp")
spacelike = _on_memory("equikernels_spacelike", "piiid", ctypes.c_int64)

_wanted = os.environ.get("EQUIKERNELS_CPU", "")
if _wanted and _library is not None:
    set_isa(_wanted)
