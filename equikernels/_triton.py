"""Registers Triton kernels, further implementations of the ops, which Triton compiles at run time.

An op names the module of its kernels with :func:`provide`; Triton is imported when a kernel is first called. On CUDA a
Triton kernel implements an op without a C++ kernel, and replaces C++ kernels in contexts that choose the backend
"triton". With TRITON_INTERPRET=1 (Triton's interpreter, for tests) "triton" also runs on CPU tensors. The public op,
its checks, fakes and derivatives are the same; only the kernel differs.
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

from . import _chosen, _gpu, _native

INTERPRETED = os.environ.get("TRITON_INTERPRET", "") == "1"

# public op -> (module that defines a function per dispatcher op, by its name; those names)
KERNELS: dict[str, tuple[str, tuple[str, ...]]] = {}

_installed = find_spec("triton") is not None
_key = "CPU" if INTERPRETED else "CUDA"
_served: list[Library] = []  # permanent implementations
_override: Library | None = None  # implementations in contexts that choose "triton"
_lock = threading.RLock()
_choosing = 0  # number of contexts, and of blocks in them, that have chosen "triton"


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
    """Notes that a context chooses "triton", or no longer does.

    PyTorch's dispatcher does not support contexts: while any context has chosen "triton", a Python function in the
    dispatcher selects one of the two kernels. Afterwards it is removed, unless other threads exist, which may be
    calling it.
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
    """The reason why no Triton kernel can run in this process, or None."""
    if _native.cpu_reason is not None:  # defines the ops
        return _native.cpu_reason
    if not _installed:
        return "triton is not installed"
    if not INTERPRETED and torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA"
    return None


def refusal(op: str, device: torch.device) -> str | None:
    """The reason why an op has no Triton kernel for tensors on a device, or None."""
    if op not in KERNELS:
        return "no Triton kernel for this op"
    if (reason := usable()) is not None:
        return reason
    if device.type != _key.lower():
        where = "the interpreter (TRITON_INTERPRET) runs on the CPU" if INTERPRETED else "Triton kernels run on CUDA"
        return f"{where}, not on {device.type!r}"
    return None if INTERPRETED else _gpu.refusal("triton", device)


def _attach(module: str, names: Sequence[str], library: Library | None = None, *, chosen: bool = False) -> Library:
    """``chosen``: for contexts that have chosen "triton"; other contexts keep the existing kernel."""
    library = Library("equikernels", "IMPL") if library is None else library
    with warnings.catch_warnings():  # the override is intended
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
