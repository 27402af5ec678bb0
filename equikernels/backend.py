"""Chooses the implementation of an op and reports the reason.

Every op has a plain-PyTorch reference, and kernels for some devices: C++ ("cpu"), CUDA C++ ("cuda") and Triton
("triton", on CUDA). By default ("auto") an op runs its kernel for the tensors' device, CUDA C++ before Triton, or the
reference if there is none. A backend chosen by name is used or raises an error; nothing replaces it.
"""

from __future__ import annotations

from contextlib import ContextDecorator

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _chosen, _gpu, _native, _triton
from ._chosen import BACKENDS, DEFAULT

AUTO = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}  # device -> backends, in order of preference

# op -> devices with a C++ kernel; filled by the op modules. Those with a Triton kernel are in _triton.KERNELS.
KERNELS: dict[str, tuple[str, ...]] = {}

# Ops that are made of other ops if they have no kernel.
COMPOSED: set[str] = set()

# Parts of other ops: if "triton" is chosen, they run their C++ kernel.
PARTS: set[str] = set()

# Ops whose Triton kernels call them.
WITH_PARTS: set[str] = set()


_traced: tuple[str, ...] = ()  # while Dynamo traces: backends of the enclosing blocks

if DEFAULT == "triton":
    _triton.choose(True)


def current() -> str:
    """The chosen backend of this context."""
    if torch.compiler.is_dynamo_compiling():
        return _traced[-1] if _traced else _chosen.name
    return _chosen.current()


class NoKernelError(RuntimeError):
    """The backend chosen by name has no kernel for a call; another machine would have none either."""


class use_backend(ContextDecorator):
    """Chooses the backend inside a ``with`` block, or a decorated function, for this context.

    A context is a thread or an asyncio task (:mod:`contextvars`). A task inherits the choice of the context that
    created it. A thread starts with the default, ``EQUIKERNELS_BACKEND`` or "auto", unless it runs in a copy of a
    context (``contextvars.copy_context().run``). A generator shares the context of its caller: a choice that it makes
    between two values also holds for the caller.

    A backward pass runs on the backend of its forward pass, whatever the choice in the thread that runs it. There are
    two exceptions, which follow the choice where backward runs (on GPUs a thread of autograd, with the default): a
    recomputed forward pass (activation checkpointing), and the choice between CUDA C++ and Triton in a backward pass
    compiled by torch.compile.

    Args:
        name: "auto", "reference", "cpu", "cuda" (CUDA C++) or "triton".

    Raises:
        ValueError: no such backend.
    """

    def __init__(self, name: str) -> None:
        if name not in BACKENDS:
            raise ValueError(f"use_backend: name: expected one of {', '.join(BACKENDS)}, got {name!r}")
        self.name = name

    def __enter__(self) -> None:
        if torch.compiler.is_dynamo_compiling():
            _trace(self.name)
            return
        if self.name == "triton":
            _triton.choose(True)
        _chosen.blocks.set((*_chosen.blocks.get(), (self, self.name)))

    def __exit__(self, *raised: object) -> None:
        if torch.compiler.is_dynamo_compiling():
            _trace(None)
            return
        # Generators may end blocks in another order than they began, or in another context.
        inside = _chosen.blocks.get()
        for k in reversed(range(len(inside))):
            if inside[k][0] is self:
                _chosen.blocks.set(inside[:k] + inside[k + 1 :])
                break
        if self.name == "triton":
            _triton.choose(False)


def _trace(name: str | None) -> None:
    """Enters a block that Dynamo traces, or leaves the innermost."""
    global _traced
    if name == "triton":
        torch._dynamo.graph_break()  # kernels are selected when compiled code runs, outside the block
    _traced = _traced[:-1] if name is None else (*_traced, name)


def _language(op: str, backend: str, device: torch.device) -> str:
    """The backend of an op's kernel if ``backend`` is chosen."""
    return device.type if backend == "triton" and op in PARTS else backend


def _refusal(op: str, backend: str, device: torch.device) -> str | None:
    """The reason why a backend has no kernel of an op for tensors on a device, or None."""
    backend = _language(op, backend, device)
    if backend == "triton":
        return _triton.refusal(op, device) or (_machine_refusal(device) if op in WITH_PARTS else None)
    if backend != device.type:
        return f"the tensors are on {device.type!r}"
    return _machine_refusal(device) if _has_kernel(op, backend) else "no kernel for this op"


def _machine_refusal(device: torch.device) -> str | None:
    """The reason why no C++ kernel runs on a device, or None."""
    if device.type == "cpu":
        return _native.cpu_reason
    return _native.cuda_reason or _gpu.refusal("cuda", device)


def use_kernel(op: str, *tensors: Tensor, limit: str | None = None) -> bool:
    """True if the op's kernel is to run on these tensors, False for the reference.

    Under torch.func transforms and forward-mode AD the reference runs: its PyTorch ops have every derivative and
    batching rule, while a custom op would lose the tangent or loop.

    Args:
        op: name of the public op.
        tensors: its arguments.
        limit: the reason why the op's kernel on this device does not support it.

    Raises:
        RuntimeError: the backend chosen by name cannot run this call.
    """
    return _use_kernel(current(), op, tensors, limit)


def _use_kernel(name: str, op: str, tensors: tuple[Tensor, ...], limit: str | None) -> bool:
    device = tensors[0].device
    if name == "auto" and device.type == "cpu":  # what follows, in less time
        return limit is None and _native.cpu_reason is None and "cpu" in KERNELS[op] and not transformed(tensors)
    if name == "reference":
        return False
    named = name != "auto"
    if named and name in AUTO and device.type != name:  # under any transform
        raise RuntimeError(f"{op}: backend {name!r} was requested, but the tensors are on {device.type!r}")
    if transformed(tensors):
        return False
    for backend in (name,) if named else AUTO.get(device.type, ()):
        reason = _refusal(op, backend, device)
        if reason is None and limit is None:
            return True
        if named:
            kind = (
                NoKernelError if reason is None or not _has_kernel(op, _language(op, backend, device)) else RuntimeError
            )
            raise kind(f"{op}: backend {name!r} was requested: {reason or limit}")
    return False


def use_shortcut(op: str, *tensors: Tensor) -> bool:
    """As :func:`use_kernel`, for an op that can be made of other ops: if the backend chosen by name has no kernel of
    it, the other ops run on that backend."""
    name = current()
    if name not in ("auto", "reference") and _refusal(op, name, tensors[0].device) is not None:
        return False
    return _use_kernel(name, op, tensors, None)


def transformed(tensors: tuple[Tensor, ...]) -> bool:
    """Whether one of the tensors is under a torch.func transform or forward-mode AD."""
    if torch.compiler.is_compiling():
        # Dynamo evaluates this if no transform is active and breaks the graph if one is: the frame then runs eagerly
        # and uses the reference. A transform traced into an op would silently lose its tangent.
        return torch._C._functorch.maybe_current_level() is not None
    if any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors)):
        return True
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def backends() -> BackendReport:
    """The implementation of each op on each device, with reasons. ``print(equikernels.backends())`` shows a table.

    The rows "cpu", "cuda" and "other" are devices, under the current backend; the row "triton" tells whether
    ``use_backend("triton")`` has a kernel of the op.
    """
    report = BackendReport()
    for op in KERNELS:
        report[op] = {device: _served(op, torch.device(device)) for device in ("cpu", "cuda")}
        device = torch.device("cpu" if _triton.INTERPRETED else "cuda")
        reason = _refusal(op, "triton", device)
        report[op]["triton"] = _kernel(_language(op, "triton", device)) if reason is None else f"refused ({reason})"
        if op in COMPOSED and not _has_kernel(op, "triton"):
            report[op]["triton"] = "made of other ops"
        report[op]["other"] = "reference"
    return report


def _served(op: str, device: torch.device) -> str:
    """The implementation on a device under the current backend, with the reason if it is not a kernel."""
    name = current()
    if name == "reference":
        return "reference (EQUIKERNELS_BACKEND or use_backend says so)"
    reasons = {}
    for backend in AUTO[device.type] if name == "auto" else (name,):
        reasons[backend] = _refusal(op, backend, device)
        if reasons[backend] is None:
            return _kernel(_language(op, backend, device))
    if name != "auto":
        return f"refused ({reasons[name]})"
    if op in COMPOSED and device.type not in KERNELS[op]:
        return "made of other ops"
    told = [r for backend, r in reasons.items() if r is not None and _has_kernel(op, backend)]
    return f"reference ({'; '.join(dict.fromkeys(told)) or 'no kernel for this op'})"


def _has_kernel(op: str, backend: str) -> bool:
    return op in _triton.KERNELS if backend == "triton" else backend in KERNELS[op]


def _kernel(backend: str) -> str:
    if backend == "cpu":
        return f"kernel ({_native.active_isa()})"
    if backend == "triton" and _triton.INTERPRETED:
        return "Triton kernel (interpreted)"
    return f"Triton {CUDA_STATUS}" if backend == "triton" else CUDA_STATUS


# These kernels have not run on a GPU yet: they are compiled and checked offline.
CUDA_STATUS = "kernel (compiled, not yet run on a GPU)"


def _products() -> str:
    if _native.bfloat16_rate == 0:
        return "float32 (it has no bfloat16 products)"
    kind = "bfloat16" if _native.bfloat16_pays else "float32"
    unit = "AMX tiles" if _native.bfloat16_unit == "tiles" else _native.bfloat16_unit
    rate = f"bfloat16 products at {_native.bfloat16_rate:.1f} times float32's rate, by {unit}"
    return f"{kind} ({rate}; {_native.active_isa()} in use)"


class BackendReport(dict[str, dict[str, str]]):
    """op -> device -> implementation."""

    def __str__(self) -> str:
        lines = [f"backend: {current()}"] + ([_native.stale] if _native.stale is not None else [])
        lines.append(f'products at precision "medium" on this CPU: {_products()}')
        high = "two parts of bfloat16" if _native.two_parts_pay else "float32"
        lines.append(f'products at precision "high" on this CPU: {high}')
        for op, devices in self.items():
            lines += [f"  {op}"] + [f"    {device:6s} {what}" for device, what in devices.items()]
        return "\n".join(lines)
