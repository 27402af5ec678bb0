"""Triton kernels: further implementations of the ops, written in Python, compiled where they run.

An op names the module of its kernels with :func:`provide`; nothing of Triton is imported before a kernel is called.
On CUDA they serve an op that has no kernel in C++ from the start, and take the place of the others in a context where
the backend "triton" is chosen. With TRITON_INTERPRET=1 (Triton's interpreter, for tests) "triton" runs on CPU tensors,
in the same way: the public op, its checks, fakes and derivatives stay, the kernel beneath them is another.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch.library import Library

from . import _chosen, _native

INTERPRETED = os.environ.get("TRITON_INTERPRET", "") == "1"
MIN_CAPABILITY = (8, 0)  # Ampere: what the kernels are compiled and checked for

# public op -> (module that defines a function per dispatcher op, by its name; those names)
KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {}

_installed = find_spec("triton") is not None
_key = "CPU" if INTERPRETED else "CUDA"
_served: list[Library] = []  # implementations that stay
_override: Library | None = None  # those that run where "triton" is chosen
_lock = threading.RLock()
_choosing = 0  # contexts, and blocks of a context, that have chosen "triton"


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
        _attach(module, names, _override, chosen=True)


def choose(active: bool) -> None:
    """A context chooses "triton", or no longer does.

    PyTorch's dispatcher knows no contexts: while any context has chosen "triton", what it calls decides, in Python,
    between the two kernels. Afterwards it calls the others by themselves again, unless there are other threads, which
    may be on their way into what would be removed.
    """
    global _choosing, _override
    with _lock:
        _choosing += 1 if active else -1
        if _choosing > 0 and _override is None and usable() is None:
            _override = Library("equikernels", "IMPL")
            for module, names in KERNELS.values():
                _attach(module, names, _override, chosen=True)
        elif _choosing == 0 and _override is not None and threading.active_count() == 1:
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


def _attach(module: str, names: Sequence[str], library: Library | None = None, *, chosen: bool = False) -> Library:
    """``chosen``: for contexts that have chosen "triton"; others have the kernel that was there."""
    library = Library("equikernels", "IMPL") if library is None else library
    with warnings.catch_warnings():  # that a kernel is overridden is what was asked for
        warnings.simplefilter("ignore")
        for name in names:
            kernel = _where_chosen(module, name) if chosen else _lazy(module, name)
            library.impl(name, kernel, _key, with_keyset=chosen, allow_override=True)
    return library


def _lazy(module: str, name: str) -> Callable[..., Any]:
    def kernel(*args: Any) -> Any:
        return getattr(import_module(module), name)(*args)

    return kernel


def _where_chosen(module: str, name: str) -> Callable[..., Any]:
    chosen, op = _lazy(module, name), f"equikernels::{name}"
    there = torch._C._dispatch_has_kernel_for_dispatch_key(op, _key)
    other = torch.library.get_kernel(op, _key) if there else None

    def kernel(keyset: torch._C.DispatchKeySet, *args: Any) -> Any:
        if other is None or _chosen.current() == "triton":
            return chosen(*args)
        return other.call_boxed(keyset, *args)

    return kernel
