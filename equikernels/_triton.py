"""Triton kernels: further implementations of the ops, written in Python, compiled where they run.

An op names the module of its kernels with :func:`provide`; nothing of Triton is imported before a kernel is called.
On CUDA they serve an op that has no kernel in C++ from the start, and take the place of the others while the backend
"triton" is chosen. With TRITON_INTERPRET=1 (Triton's interpreter, for tests) "triton" runs on CPU tensors, in the same
way: the public op, its checks, fakes and derivatives stay, the kernel beneath them is another.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch.library import Library

from . import _native

INTERPRETED = os.environ.get("TRITON_INTERPRET", "") == "1"
MIN_CAPABILITY = (8, 0)  # Ampere: what the kernels are compiled and checked for

# public op -> (module that defines a function per dispatcher op, by its name; those names)
KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {}

_installed = find_spec("triton") is not None
_key = "CPU" if INTERPRETED else "CUDA"
_served: list[Library] = []  # implementations that stay
_override: Library | None = None  # those of the chosen backend


def provide(op: str, module: str, names: Sequence[str]) -> None:
    """Declares the Triton kernels of a public op: ``module`` has a function for each dispatcher op in ``names``, which
    takes the arguments of its schema."""
    KERNELS[op] = (module, tuple(names))
    if usable() is not None:
        return
    if not INTERPRETED:
        missing = [n for n in names if not torch._C._dispatch_has_kernel_for_dispatch_key(f"equikernels::{n}", _key)]
        if missing:
            _served.append(_attach(module, missing))
    if _override is not None:
        _attach(module, names, _override)


def choose(active: bool) -> None:
    """Puts the Triton kernels in place of others, or those others back."""
    global _override
    if active and _override is None and usable() is None:
        _override = Library("equikernels", "IMPL")
        for module, names in KERNELS.values():
            _attach(module, names, _override)
    elif not active and _override is not None:
        _override._destroy()
        _override = None


def usable() -> str | None:
    """Why no Triton kernel can run in this process, or None where some can."""
    if _native.cpu_reason is not None:  # which defines the ops
        return _native.cpu_reason
    if not _installed:
        return "triton is not installed"
    if not INTERPRETED and torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA"
    return None


def refusal(op: str, device: torch.device) -> str | None:
    """Why an op has no Triton kernel for tensors on a device, or None where it has."""
    if op not in KERNELS:
        return "no Triton kernel for this op"
    if (reason := usable()) is not None:
        return reason
    if device.type != _key.lower():
        where = "the interpreter (TRITON_INTERPRET) runs on the CPU" if INTERPRETED else "Triton kernels run on CUDA"
        return f"{where}, not on {device.type!r}"
    if INTERPRETED or not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(device)
    if (properties.major, properties.minor) < MIN_CAPABILITY:
        return f"compute capability {properties.major}.{properties.minor}: at least 8.0 is needed"
    return None


def _attach(module: str, names: Sequence[str], library: Library | None = None) -> Library:
    library = Library("equikernels", "IMPL") if library is None else library
    with warnings.catch_warnings():  # that a kernel is overridden is what was asked for
        warnings.simplefilter("ignore")
        for name in names:
            library.impl(name, _lazy(module, name), _key, allow_override=True)
    return library


def _lazy(module: str, name: str) -> Callable[..., Any]:
    def kernel(*args: Any) -> Any:
        return getattr(import_module(module), name)(*args)

    return kernel
