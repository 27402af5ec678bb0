"""Which implementation an op runs on, and why.

Every op has a plain-PyTorch reference, and kernels for some devices: C++ ("cpu"), CUDA C++ ("cuda") and Triton
("triton", on CUDA). By default ("auto") a kernel is used where one exists for the tensors' device, CUDA C++ before
Triton; elsewhere the reference runs. A backend asked for by name is used or refused, never replaced.
"""

from __future__ import annotations

from contextlib import ContextDecorator

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import _chosen, _native, _triton
from ._chosen import BACKENDS, DEFAULT

AUTO = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}  # device -> backends, the first that can is used

# op -> devices with a C++ kernel; filled by the op modules. Those with a Triton kernel are in _triton.KERNELS.
KERNELS: dict[str, tuple[str, ...]] = {}

# Ops with a kernel that other ops replace where there is none.
COMPOSED: set[str] = set()

# Ops that others are made of: where "triton" is chosen, for the others' sake, they run their C++ kernel.
PARTS: set[str] = set()


_traced: tuple[str, ...] = ()  # while Dynamo traces: backends of the blocks it is in

if DEFAULT == "triton":
    _triton.choose(True)


def current() -> str:
    """The backend chosen in this context."""
    if torch.compiler.is_dynamo_compiling():
        return _traced[-1] if _traced else _chosen.name
    return _chosen.current()


class use_backend(ContextDecorator):
    """Chooses the backend inside a ``with`` block, or a decorated function, for this context.

    A context is a thread or an asyncio task (:mod:`contextvars`). A task sees what was chosen where it was created; a
    thread starts with the default, which is ``EQUIKERNELS_BACKEND`` or "auto", unless it runs in a copy of a context
    (``contextvars.copy_context().run``). A generator shares the context of its caller: what it chooses between two
    values, the caller sees.

    A backward pass runs on the backend of its forward pass, whatever is chosen when, and in whichever thread, it runs.
    Two things go by what is chosen where backward runs, which for GPUs is a thread of autograd's, on the default: a
    forward pass that it runs again (activation checkpointing), and whether a backward pass made by torch.compile calls
    CUDA C++ or Triton.

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
        # Blocks need not end in the order in which they began, where generators hold them, nor in the same context.
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
        torch._dynamo.graph_break()  # kernels are told apart where compiled code runs, which is behind the block
    _traced = _traced[:-1] if name is None else (*_traced, name)


def _language(op: str, backend: str, device: torch.device) -> str:
    """The backend whose kernel of an op runs where ``backend`` is chosen."""
    return device.type if backend == "triton" and op in PARTS else backend


def _refusal(op: str, backend: str, device: torch.device) -> str | None:
    """Why a backend has no kernel of an op for tensors on a device, or None where it has."""
    backend = _language(op, backend, device)
    if backend == "triton":
        return _triton.refusal(op, device)
    if backend != device.type:
        return f"the tensors are on {device.type!r}"
    if not _has_kernel(op, backend):
        return "no kernel for this op"
    return _native.cpu_reason if backend == "cpu" else _native.cuda_reason


def use_kernel(op: str, *tensors: Tensor, cuda_limit: str | None = None, limit: str | None = None) -> bool:
    """True where the op's kernel is to run on these tensors, False for the reference.

    Under torch.func transforms and forward-mode AD the reference runs: it is made of PyTorch ops that have every
    derivative and batching rule, where a custom op would lose the tangent or loop.

    Args:
        op: name of the public op.
        tensors: what it was called with.
        cuda_limit: why the op's CUDA C++ kernel cannot do this call, where it cannot.
        limit: why the op's kernel on this device cannot.

    Raises:
        RuntimeError: a backend was asked for by name that cannot run here.
    """
    name = current()
    if name == "reference":
        return False
    device = tensors[0].device
    named = name != "auto"
    if named and name in AUTO and device.type != name:  # whatever the transform
        raise RuntimeError(f"{op}: backend {name!r} was asked for, but the tensors are on {device.type!r}")
    if transformed(tensors):
        return False
    for backend in (name,) if named else AUTO.get(device.type, ()):
        reason = _refusal(op, backend, device) or limit or (cuda_limit if backend == "cuda" else None)
        if reason is None:
            return True
        if named:
            raise RuntimeError(f"{op}: backend {name!r} was asked for: {reason}")
    return False


def use_shortcut(op: str, *tensors: Tensor) -> bool:
    """As :func:`use_kernel`, for an op that others can be put together to: where a backend asked for by name lacks the
    kernel, they run on that backend."""
    name = current()
    if name not in ("auto", "reference") and _refusal(op, name, tensors[0].device) is not None:
        return False
    return use_kernel(op, *tensors)


def transformed(tensors: tuple[Tensor, ...]) -> bool:
    """Whether a transform of torch.func or forward-mode AD is at work on one of the tensors."""
    if torch.compiler.is_compiling():
        # Dynamo knows the answer where no transform is active and breaks the graph where one is: the frame then runs
        # eagerly, and finds the reference. A transform traced into an op would silently lose its tangent.
        return torch._C._functorch.maybe_current_level() is not None
    if any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors)):
        return True
    return forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)


def backends() -> BackendReport:
    """What runs where, for each op, and why not elsewhere. ``print(equikernels.backends())`` shows a table.

    The rows "cpu", "cuda" and "other" are devices, under the backend chosen now; the row "triton" says whether
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
    """What runs on a device under the backend chosen now, and where that is not a kernel, why."""
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


# No GPU has run these kernels yet: they are compiled and checked offline.
CUDA_STATUS = "kernel (compiled, not yet run on a GPU)"


class BackendReport(dict[str, dict[str, str]]):
    """op -> device -> what runs there."""

    def __str__(self) -> str:
        lines = [f"backend: {current()}"]
        for op, devices in self.items():
            lines += [f"  {op}"] + [f"    {device:6s} {what}" for device, what in devices.items()]
        return "\n".join(lines)
