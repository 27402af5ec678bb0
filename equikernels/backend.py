"""Which implementation an op runs on, and why.

Every op has a plain-PyTorch reference, and kernels for some devices. By default ("auto") a kernel is used where one
exists for the tensors' device; elsewhere the reference runs. A backend asked for by name is used or refused, never
replaced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _native

BACKENDS = ("auto", "reference", "cpu", "cuda")

_name = os.environ.get("EQUIKERNELS_BACKEND", "auto") or "auto"
if _name not in BACKENDS:
    raise ValueError(f"EQUIKERNELS_BACKEND: expected one of {', '.join(BACKENDS)}, got {_name!r}")

# op -> devices with a kernel; filled by the op modules.
KERNELS: dict[str, tuple[str, ...]] = {}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Chooses the backend inside a ``with`` block.

    Args:
        name: "auto", "reference", "cpu" or "cuda".

    Raises:
        ValueError: no such backend.
    """
    global _name
    if name not in BACKENDS:
        raise ValueError(f"use_backend: name: expected one of {', '.join(BACKENDS)}, got {name!r}")
    before = _name
    _name = name
    try:
        yield
    finally:
        _name = before


def _refusal(op: str, device: str) -> str | None:
    """Why an op has no kernel for a device type, or None where it has."""
    if device in ("cpu", "cuda") and device not in KERNELS[op]:
        return "no kernel for this op"
    if device == "cpu":
        return _native.cpu_reason
    if device == "cuda":
        return _native.cuda_reason
    return f"no kernels for device {device!r}"


def use_kernel(op: str, *tensors: Tensor) -> bool:
    """True where the op's kernel is to run on these tensors, False for the reference.

    Under torch.func transforms and forward-mode AD the reference runs: it is made of PyTorch ops that have every
    derivative and batching rule, where a custom op would lose the tangent or loop.

    Raises:
        RuntimeError: a backend was asked for by name that cannot run here.
    """
    if _name == "reference":
        return False
    device = tensors[0].device.type
    if _name != "auto" and device != _name:
        raise RuntimeError(f"{op}: backend {_name!r} was asked for, but the tensors are on {device!r}")
    if _transformed(tensors):
        return False
    reason = _refusal(op, device)
    if reason is not None and _name != "auto":
        raise RuntimeError(f"{op}: backend {_name!r} was asked for: {reason}")
    return reason is None


def _transformed(tensors: tuple[Tensor, ...]) -> bool:
    if torch.compiler.is_compiling():
        # Dynamo knows the answer where no transform is active and breaks the graph where one is: the frame then runs
        # eagerly, and finds the reference. A transform traced into an op would silently lose its tangent.
        return torch._C._functorch.maybe_current_level() is not None
    if any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in tensors):
        return True
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def backends() -> BackendReport:
    """What runs where, for each op, and why not elsewhere. ``print(equikernels.backends())`` shows a table."""
    report = BackendReport()
    for op in KERNELS:
        report[op] = {}
        for device in ("cpu", "cuda"):
            reason = _refusal(op, device)
            if _name == "reference":
                report[op][device] = "reference (EQUIKERNELS_BACKEND or use_backend says so)"
            elif reason is not None:
                report[op][device] = f"reference ({reason})"
            else:
                report[op][device] = f"kernel ({_native.active_isa()})" if device == "cpu" else CUDA_STATUS
        report[op]["other"] = "reference"
    return report


# No GPU has run these kernels yet: they are compiled and checked offline.
CUDA_STATUS = "kernel (compiled, not yet run on a GPU)"


class BackendReport(dict[str, dict[str, str]]):
    """op -> device -> what runs there."""

    def __str__(self) -> str:
        lines = [f"backend: {_name}"]
        for op, devices in self.items():
            lines += [f"  {op}"] + [f"    {device:6s} {what}" for device, what in devices.items()]
        return "\n".join(lines)
