"""Says why a GPU and its driver cannot run the kernels, before a backend is chosen. Each GPU is asked once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from . import _native

Version = tuple[int, int]
TRITON_CAPABILITY = (8, 0)  # Ampere: the oldest architecture for which the Triton kernels are compiled and checked
TRITON_CUDA = (12, 0)  # Triton's compiler is CUDA 12's: older drivers do not load its code


class Gpu(NamedTuple):
    capability: Version
    driver: Version  # the CUDA version it supports; (0, 0): unknown


def query(index: int) -> Gpu:
    """Asks a device and the driver."""
    ask = getattr(torch._C, "_cuda_getDriverVersion", None)
    driver = int(ask()) if ask is not None else 0
    return Gpu(torch.cuda.get_device_capability(index), (driver // 1000, driver % 1000 // 10))


def cuda_limit(gpu: Gpu, build: Mapping[str, str]) -> str | None:
    """The reason why a GPU cannot run the CUDA C++ kernels of a build, or None.

    Code of an architecture runs on those of the same major version from it on. PTX, of the last architecture of the
    build, is compiled by the driver for any later one. A driver runs code of its own major version of CUDA and of
    earlier ones; it compiles PTX of its version and of earlier ones.
    """
    archs = [(int(a) // 10, int(a) % 10) for a in build.get("cuda_archs", "").split()]
    if not archs:
        return None  # the build does not say
    has_code = any(a[0] == gpu.capability[0] and a <= gpu.capability for a in archs)
    if not has_code and gpu.capability < archs[-1]:
        listed = ", ".join(map(_text, archs))
        return (
            f"the GPU has compute capability {_text(gpu.capability)}, {_native.CUDA_LIBRARY.name} has code for {listed}"
            f" and later than {_text(archs[-1])}: build it with EQUIKERNELS_CUDA_ARCHS"
        )
    major, _, rest = build.get("cuda", "").partition(".")
    toolkit = (int(major), int(rest.split(".")[0])) if major and rest else (0, 0)
    needed = (toolkit[0], 0) if has_code else toolkit
    if (0, 0) < gpu.driver < needed:
        return f"the driver supports CUDA {_text(gpu.driver)}, {_native.CUDA_LIBRARY.name} needs {_text(needed)}"
    return None


def triton_limit(gpu: Gpu) -> str | None:
    """The reason why a GPU cannot run the Triton kernels, or None."""
    if gpu.capability < TRITON_CAPABILITY:
        needed = _text(TRITON_CAPABILITY)
        return f"the GPU has compute capability {_text(gpu.capability)}, the Triton kernels need {needed}"
    if (0, 0) < gpu.driver < TRITON_CUDA:
        return f"the driver supports CUDA {_text(gpu.driver)}, Triton needs {_text(TRITON_CUDA)}"
    return None


def refusal(backend: str, device: torch.device) -> str | None:
    """The reason why "cuda" or "triton" cannot run on a CUDA device, or None; None also without a device to ask."""
    return _refusal(backend, -1 if device.index is None else device.index)


_known: dict[tuple[str, int], str | None] = {}


def _refusal(backend: str, index: int) -> str | None:
    if (backend, index) in _known:
        return _known[backend, index]
    if not torch.cuda.is_available():
        return None
    at = torch.cuda.current_device() if index < 0 else index
    if (backend, at) not in _known:
        gpu = query(at)
        build = _native.build_info(_native.CUDA_LIBRARY)
        _known[backend, at] = cuda_limit(gpu, build) if backend == "cuda" else triton_limit(gpu)
    return _known[backend, at]


# As torch._dynamo.assume_constant_result does; importing it would import Triton.
_refusal._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
