"""Describes the environment for bug reports."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from . import _gpu, _native, _waiting
from ._version import __version__
from .backend import backends

PACKAGES = ("numpy", "triton", "torch-geometric", "awkward", "h5py")
VARIABLES = (
    "EQUIKERNELS_BACKEND",
    "EQUIKERNELS_CPU",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
)


def environment() -> str:
    """Versions, hardware, build and backends, one per line."""
    lines = [
        _line("equikernels", f"{__version__} ({Path(__file__).parent})"),
        _line("torch", f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})"),
        _line("python", f"{platform.python_version()} ({platform.python_implementation()})"),
        _line("system", f"{platform.platform()}, {' '.join(platform.libc_ver())}"),
        *(_line(name, _version(name)) for name in PACKAGES),
        _line("CPU", f"{cpu_name()}, {os.cpu_count()} logical cores"),
        _line("torch threads", str(torch.get_num_threads())),
        _line("threads wait", _waiting.how),
        _line("instruction sets", f"{', '.join(_native.available_isas()) or 'none'}; in use: {_native.active_isa()}"),
        _line("GPU", gpu_names()),
    ]
    if _native.cpu_reason is None:
        lines.append(_line("CPU features", _native.cpu_features() or "none"))
        lines += [_line(f"build: {key}", value or "none") for key, value in _native.build_info().items()]
    lines += [
        _line("CPU kernels", _native.cpu_reason or "loaded"),
        _line("CUDA kernels", _native.cuda_reason or "loaded"),
    ]
    lines += [_line(name, os.environ[name]) for name in VARIABLES if name in os.environ]
    return "\n".join([*lines, str(backends())])


def _line(name: str, value: str) -> str:
    return f"{name + ':':26s} {value}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def gpu_names() -> str:
    if not torch.cuda.is_available():
        return "none that torch can use"
    found = []
    for index in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(index)
        refused = [_gpu.refusal(backend, torch.device("cuda", index)) for backend in ("cuda", "triton")]
        found.append(", ".join([f"{p.name}, compute capability {p.major}.{p.minor}", *filter(None, refused)]))
    return "; ".join(found)
