"""Runs the CUDA kernels on CPU tensors: the C++ compiler compiles csrc's .cu files against cuda_on_cpu/. This checks
indices, barriers, shuffles and sums, but not speed."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

import equikernels as ek
from equikernels import backend
from equikernels.ops import fused_op
from equikernels.ops.message_passing import known
from equikernels.ops.message_passing import op as message_op
from equikernels.ops.message_passing import rows as row_op

from . import ROOT
from .cases import Case, Inputs
from .ptxas_report import build_sources
from .tools import assert_as_good_as_eager, cotangent_for, reference, value_and_grads

HERE = Path(__file__).parent / "cuda_on_cpu"
SOURCES = [HERE / "emulator.cpp", HERE / "mma.cpp"]
COMPILER = shutil.which("g++")
CCACHE = shutil.which("ccache")
FLAGS = [
    "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wno-psabi",
    "-ffp-contract=off", "-DEK_WITH_CUDA", f"-I{HERE}",
    # A GPU faults on a misaligned vector access; here the process ends with a message.
    "-fsanitize=alignment,bounds,shift,integer-divide-by-zero,signed-integer-overflow", "-fno-sanitize-recover=all",
]  # fmt: skip
TORCH = Path(torch.__file__).parent
FULL_GRID = 4 * 132  # blocks that fill a GPU
# Instead of those checks, ThreadSanitizer on the kernels; the emulator itself only tells it what it needs to know.
WATCHED = [flag for flag in FLAGS if not flag.startswith(("-fsanitize", "-fno-sanitize"))] + ["-g1", "-DEK_TSAN=1"]

KERNEL = re.compile(r"__global__\s+void\s+(?:__launch_bounds__\((?:[^()]|\([^()]*\))*\)\s+)?(\w+)\(")

# Terms of a sum of TF32 and of bfloat16 products, and extra bits, of devices of a kind: see cuda_runtime.h.
TENSOR_CORES = {"sm_80": (4, 8, 1), "sm_90": (8, 16, 2)}
KEY = torch._C.DispatchKeySet(torch._C.DispatchKey.PrivateUse1)


def build(folder: Path, name: str, sources: list[Path], torch_ops: bool = False, watched: bool = False) -> Path:
    """Compiles sources and the emulator to a library in ``folder``; once for all processes. ``watched``: for
    ThreadSanitizer.

    Raises:
        RuntimeError: a source does not compile; the message is the compiler's.
    """
    assert COMPILER is not None
    library = folder / f"{name}.so"
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if library.exists():
            return library
        objects = [folder / f"{name}_{source.parent.name}_{source.stem}.o" for source in sources]
        flags = [*WATCHED, "-fsanitize=thread"] if watched else FLAGS
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(_compile, sources, objects, [watched] * len(sources)))
        _run([COMPILER, "-shared", *flags, "-o", library.with_suffix(".tmp"), *objects, *(_LINK if torch_ops else [])])
        library.with_suffix(".tmp").rename(library)
    return library


_LINK = [f"-L{TORCH / 'lib'}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu"]


def _compile(source: Path, target: Path, watched: bool) -> None:
    cuda = ["-x", "c++", "-D__CUDACC__", "-include", "cuda_runtime.h"] if source.suffix == ".cu" else []
    stable = ["-isystem", TORCH / "include", "-DTORCH_TARGET_VERSION=0x020a000000000000"]
    device = ["-include", HERE / "emulated.h"] if source.stem == "register" else []
    flags = [*WATCHED, *(["-fsanitize=thread"] if cuda else [])] if watched else FLAGS
    _run([*([CCACHE] if CCACHE else []), COMPILER, *flags, *stable, *cuda, *device, "-c", source, "-o", target])


def _in_csrc(file: str) -> str:
    return os.path.relpath(file, ROOT / "csrc")


def _run(command: list[Any]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stdout


def registered(key: str) -> set[str]:
    """Names of our ops that have a kernel under a dispatch key."""
    prefix = "equikernels::"
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


def build_probes(folder: Path, watched: bool = False) -> Path:
    return build(folder, "probes", [*SOURCES, HERE / "probes.cu"], watched=watched)


def load_probes(folder: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(build_probes(folder)))
    library.emulator_last_error.restype = ctypes.c_char_p
    library.emulator_requests.restype = ctypes.c_long
    library.emulator_fill.argtypes = [ctypes.c_int64]
    library.grid_of.argtypes = [ctypes.c_int64, ctypes.c_int64]
    library.grid_of.restype = ctypes.c_int64
    return library


USES = {"message_passing": ("invariants",)}  # folders of csrc whose kernels another folder's ops launch


class Emulator:
    def __init__(self, folder: Path, ops: str = "*", watched: bool = False) -> None:
        """``ops``: the folder of csrc whose ops are emulated; all of them without it."""
        folders = (ops, *USES.get(ops, ()))
        kernels = [ROOT / source for source in build_sources() if ops == "*" or Path(source).parts[1] in folders]
        sources = [*SOURCES, *ROOT.glob(f"csrc/{ops}/register.cpp"), *kernels]
        self.path = build(folder, "emulated_ops", sources, torch_ops=True, watched=watched)
        torch.ops.load_library(self.path)
        self.library = ctypes.CDLL(str(self.path))
        self.library.emulator_seen.restype = ctypes.c_char_p
        self.library.emulator_launches.restype = self.library.emulator_requests.restype = ctypes.c_long
        self.library.emulator_fill.argtypes = [ctypes.c_int64]
        self.ops = sorted(registered("PrivateUse1"))

    @property
    def launches(self) -> int:
        """Kernels launched so far."""
        return int(self.library.emulator_launches())

    @cached_property
    def kernels(self) -> dict[int, str]:
        """Every kernel that is compiled: its place in the library, and "file in csrc: name"."""
        sources = "".join(path.read_text() for path in ROOT.glob("csrc/**/*.cu*"))
        names = KERNEL.findall(sources)
        symbol = re.compile(r"(\w+) [tTwW] (?:void )?(?:\w+::|\(anonymous namespace\)::)*(\w+)[<(]")
        found = [symbol.match(line) for line in _run(["nm", "-C", self.path]).splitlines() if "lambda" not in line]
        places = [match[1] for match in found if match and match[2] in names]
        asked = _run(["addr2line", "-f", "-C", "-e", self.path, *places]).splitlines()
        made = {}
        for place, name, at in zip(places, asked[::2], asked[1::2], strict=True):
            short = re.sub(r"^void |ek::|\(anonymous namespace\)::", "", name)
            made[int(place, 16)] = f"{_in_csrc(at.split(':')[0])}: {short}"
        return made

    def seen(self) -> set[str]:
        """Kernels launched since the last call, by name, and barriers passed, "file in csrc:line"."""
        lines = self.library.emulator_seen().decode().split()
        kernels = {self.kernels[int(line, 16)] for line in lines if line.startswith("0x")}
        return kernels | {_in_csrc(line) for line in lines if not line.startswith("0x")}

    @contextmanager
    def schedule(self, seed: int = 0, most_blocks: int = 0) -> Iterator[None]:
        """The order of blocks and threads (0: as numbered, 1: backwards, else: random), and a cap on the grid."""
        self.library.emulator_set(seed, most_blocks)
        try:
            yield
        finally:
            self.library.emulator_set(0, 0)

    @contextmanager
    def filled_by(self, blocks: int) -> Iterator[None]:
        """As if so many blocks filled the GPU: few of them give small graphs the schedule of large ones."""
        self.library.emulator_fill(blocks)
        try:
            yield
        finally:
            self.library.emulator_fill(FULL_GRID)

    @contextmanager
    def tensor_cores(self, kind: str) -> Iterator[None]:
        """How sums are cut off, instead of as on sm_80, where it happens most."""
        self.library.emulator_set_tensor_cores(*TENSOR_CORES[kind])
        try:
            yield
        finally:
            self.library.emulator_set_tensor_cores(*TENSOR_CORES["sm_80"])

    @contextmanager
    def device(self, capability: int, shared: int) -> Iterator[None]:
        """A device of that compute capability, times 10, and shared memory of a block, instead of an H200."""
        self.library.emulator_set_gpu(capability, shared)
        forget_plans()
        try:
            yield
        finally:
            self.library.emulator_set_gpu(90, 227 * 1024)
            forget_plans()

    @contextmanager
    def without_barrier(self, file: str, line: int) -> Iterator[None]:
        """The __syncthreads or __syncwarp in that line is left out."""
        self.library.emulator_leave_out(file.encode(), line)
        try:
            yield
        finally:
            self.library.emulator_leave_out(b"", 0)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """On CPU tensors, ops that have a CUDA kernel run it, by the plans for CUDA; others are made of these."""
        library = torch.library.Library("equikernels", "IMPL")
        kernels = dict(backend.KERNELS)
        fused_op._answer = lambda query, *rest: _ANSWER(f"{query}_cuda", *rest)
        try:
            backend.KERNELS.update({op: devices if "cuda" in devices else () for op, devices in kernels.items()})
            for name in self.ops:
                library.impl(name, _redispatch(getattr(torch.ops.equikernels, name).default), "CPU")
            forget_plans()
            yield
        finally:
            library._destroy()
            backend.KERNELS.update(kernels)
            fused_op._answer = _ANSWER
            forget_plans()


def _redispatch(op: Any) -> Callable[..., Any]:
    return lambda *args: op.redispatch(KEY, *args)


_ANSWER = fused_op._answer


def forget_plans() -> None:
    _ANSWER.cache_clear()
    for plans in (message_op._CALLS, row_op._CALLS, known._known):
        plans.clear()


MARKS = [
    pytest.mark.skipif(COMPILER is None, reason="no g++ on the PATH"),
    pytest.mark.skipif(ek._native.cpu_reason is not None, reason=str(ek._native.cpu_reason)),
    pytest.mark.filterwarnings("ignore:Warning only once for all operators"),  # the override is intended
]


def check(case: Case, graph: ek.Graph, exact: Inputs) -> None:
    """Values and gradients by the rule for every backend."""
    oracle_inputs = {name: t.double() for name, t in exact.items()}
    dtype = max((t.dtype for t in exact.values()), key=lambda dtype: dtype.itemsize)
    cotangent = cotangent_for(reference(case, oracle_inputs, graph)).to(dtype)
    oracle = value_and_grads(lambda i: reference(case, i, graph), oracle_inputs, cotangent.double())
    eager = value_and_grads(lambda i: reference(case, i, graph), exact, cotangent)
    result = value_and_grads(lambda i: case.run(i, graph), exact, cotangent)
    assert_as_good_as_eager(result, eager, oracle, ["out", *exact], case.weights)
