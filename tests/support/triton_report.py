"""Reports ptxas data of the Triton kernels: registers, shared memory, spills. Needs triton, no GPU.

A kernel is compiled for the arguments of its launch: inside :func:`recorded` an op called on CPU tensors
compiles its kernels for every architecture instead of launching them.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import equikernels as ek
from equikernels import _triton

ARCHS = (80, 90)
SHARED = {80: 99 * 1024, 90: 227 * 1024}  # most a block may have; sm_80 kernels run on sm_86 too, which has less


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel; sizes in bytes, registers per thread."""

    sample: str
    name: str
    arch: int
    warps: int
    registers: int
    shared: int
    stack: int
    spilled: int
    ptx: str


@contextmanager
def recorded(sample: str = "", archs: tuple[int, ...] = ARCHS) -> Iterator[list[Kernel]]:
    """Ops called on CPU tensors in here compile their Triton kernels; their results are uninitialised memory."""
    from triton.runtime.jit import JITFunction

    kernels: list[Kernel] = []

    def compile_instead(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        kernels.extend(_compile(self, args, kwargs, arch, sample) for arch in archs)

    launch, key, missing = JITFunction.run, _triton._key, _triton.usable
    try:
        JITFunction.run = compile_instead
        _triton._key, _triton.usable = "CPU", lambda: None
        with ek.use_backend("triton"):
            yield kernels
    finally:
        JITFunction.run = launch
        _triton._key, _triton.usable = key, missing


def _compile(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], arch: int, sample: str) -> Kernel:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile, make_backend
    from triton.runtime.jit import create_function_from_signature

    target = GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    # As in JITFunction.run, for an absent device.
    binder = create_function_from_signature(function.signature, function.params, backend)
    bound, specialization, options = binder(*args, debug=False, **kwargs)
    options, signature, constexprs, attrs = function._pack_args(backend, kwargs, bound, specialization, options)
    compiled = compile(ASTSource(function, signature, constexprs, attrs), target=target, options=options.__dict__)
    registers, stack, spilled = _ptxas(compiled.asm["ptx"], arch)
    return Kernel(
        sample,
        function.__name__,
        arch,
        compiled.metadata.num_warps,
        registers,
        compiled.metadata.shared,
        stack,
        spilled,
        compiled.asm["ptx"],
    )


def _ptxas(ptx: str, arch: int) -> tuple[int, int, int]:
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        name = "sm_90a" if arch == 90 else f"sm_{arch}"
        command = [knobs.nvidia.ptxas.path, "-v", f"-arch={name}", "-o", os.devnull, str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ptxas: {done.stderr}")
    registers = re.search(r"Used (\d+) registers", done.stderr)
    frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert registers, done.stderr
    assert frame, done.stderr
    return int(registers[1]), int(frame[1]), int(frame[2]) + int(frame[3])
