"""Sample launches of the Triton kernels of the rank-2 ops, recorded from the ops' own implementations on tensors
without data, and the report of the compiler. Needs triton, no GPU.

From the top of the source tree, ``python -m tests.support.triton_forms`` writes docs/triton.md.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor

from equikernels import _triton
from equikernels.ops import triton_launch
from equikernels.ops.pairs import reference
from equikernels.ops.pairs import triton as pairs

from . import ROOT
from .triton_report import ARCHS

PAGE = ROOT / "docs" / "triton.md"
NAMES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Launch:
    op: str  # the dispatcher's
    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]

    def compile(self, arch: int) -> Any:
        """As in the launcher: None and 1 are constants, pointers are aligned."""
        names = self.kernel.arg_names
        given = dict(zip(names, self.arguments, strict=False))
        constants = {k: v for k, v in self.constants.items() if k in names}
        constants |= {k: v for k, v in given.items() if v is None or (k.startswith("stride") and v == 1)}
        signature, aligned = {}, {}
        for place, name in enumerate(names):
            if name in constants:
                signature[name] = "constexpr"
            elif isinstance(given[name], Tensor):
                signature[name] = NAMES[given[name].dtype]
                aligned[(place,)] = [["tt.divisibility", 16]]
            else:
                signature[name] = "i32" if given[name] < 2**31 else "i64"
        source = triton.compiler.ASTSource(
            fn=self.kernel,
            signature=signature,
            constexprs={(names.index(k),): v for k, v in constants.items()},
            attrs=aligned,
        )
        target = triton.backends.compiler.GPUTarget("cuda", arch, 32)
        options = {k: v for k, v in self.constants.items() if k not in names}
        return triton.compile(source, target=target, options=options)


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Records launches instead of running them."""
    launches: list[Launch] = []
    ops = {name for _, names in _triton.KERNELS.values() for name in names}

    def keep(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        frame = sys._getframe(1)
        while frame.f_code.co_name not in ops and frame.f_back is not None:
            frame = frame.f_back
        launches.append(Launch(frame.f_code.co_name, kernel, grid, arguments, constants))

    before, triton_launch.launch = triton_launch.launch, keep
    try:
        yield launches
    finally:
        triton_launch.launch = before


class Batch:
    """Tensors without data, for events of one size."""

    def __init__(self, events: int = 16, n: int = 54, dtype: torch.dtype = torch.float32) -> None:
        self.nodes, self.pairs, self.dtype = events * n, events * n * n, dtype
        self.table = self.empty(2 * (events + 1), dtype=torch.int64)
        self.graph = self.table, self.pairs, 2

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(*shape, dtype=dtype or self.dtype, device="meta")

    def layer(self, channels: int, width: int, slope: float = 0.01) -> None:
        """A mix and its backward pass."""
        T, weights = self.empty(self.pairs, channels), [self.empty(channels, width) for _ in range(2)]
        out = pairs.rank2_mix(T, *weights, self.empty(self.nodes, 3, width), *self.graph, self.nodes, slope)
        wanted = [True, True, True]
        pairs.rank2_mix_backward(out, out, T, *weights, None, *self.graph, self.nodes, slope, wanted)

    def rows(self, channels: int, width: int) -> None:
        """A pairwise network with its norm, and its backward pass."""
        x, weight, bias = self.empty(self.pairs, channels), self.empty(width, channels), self.empty(width)
        tensors, options = [x, weight, bias, bias, bias, None, None], reference.RowsOptions(reference.BATCH, 0.01, 1e-5)
        rest = *self.graph, *options.encoded()
        out, affine, moments, _ = pairs.rows_network(tensors, *rest)
        pairs.rows_network_backward([out, affine], tensors, [out, moments], *rest, [t is not None for t in tensors])


FORMS: dict[str, Callable[[], object]] = {
    "layer, 35 -> 60 channels, float32": lambda: Batch().layer(35, 60),
    "layer, 35 -> 60 channels, float64": lambda: Batch(dtype=torch.float64).layer(35, 60, slope=0.0),
    "layer, 35 -> 60 channels, bfloat16": lambda: Batch(dtype=torch.bfloat16).layer(35, 60),
    "layer, 72 -> 128 channels, float32": lambda: Batch().layer(72, 128),
    "layer, 72 -> 128 channels, float64": lambda: Batch(dtype=torch.float64).layer(72, 128),
    "rows, 60 -> 35 channels, float32": lambda: Batch().rows(60, 35),
    "rows, 60 -> 35 channels, bfloat16": lambda: Batch(dtype=torch.bfloat16).rows(60, 35),
}


@dataclass(frozen=True)
class Compiled:
    """A launch's kernel on one architecture; registers per thread, sizes in bytes."""

    launch: Launch
    arch: int
    warps: int
    registers: int
    shared: int
    spilled: int  # and what of the stack is used otherwise


def compiled(launches: Iterable[Launch]) -> list[Compiled]:
    """Every launch for every architecture, in parallel where ptxas runs."""
    jobs = [(launch, arch, launch.compile(arch)) for launch in launches for arch in ARCHS]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda job: _ptxas(job[2], job[1]), jobs))
    return [
        Compiled(launch, arch, kernel.metadata.num_warps, registers, kernel.metadata.shared, spilled)
        for (launch, arch, kernel), (registers, spilled) in zip(jobs, reports, strict=True)
    ]


def _ptxas(kernel: Any, arch: int) -> tuple[int, int]:
    """Registers, and bytes of stack and spills."""
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(kernel.asm["ptx"])
        command = [ptxas, "-v", f"-arch={'sm_90a' if arch == 90 else f'sm_{arch}'}", path, "-o", path.with_suffix(".o")]
        done = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", done)
    assert registers is not None
    return int(registers[1]), sum(int(n) for n in re.findall(r"(\d+) bytes (?:stack|spill)", done))


def section(form: str, kernels: list[Compiled]) -> str:
    """A table of one form: of the launches of a kernel by an op, the largest numbers."""
    lines = [f"## {form}", "", "| op | kernel | warps | " + " | ".join(f"sm_{a}" for a in ARCHS) + " |"]
    lines.append("|---" * (3 + len(ARCHS)) + "|")
    rows = dict.fromkeys((k.launch.op, k.launch.kernel.__name__) for k in kernels)
    for op, name in rows:
        mine = [k for k in kernels if (k.launch.op, k.launch.kernel.__name__) == (op, name)]
        cells = [_cell([k for k in mine if k.arch == arch]) for arch in ARCHS]
        lines.append(f"| `{op}` | `{name}` | {max(k.warps for k in mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(kernels: list[Compiled]) -> str:
    registers, shared, spilled = (max(getattr(k, n) for k in kernels) for n in ("registers", "shared", "spilled"))
    return f"{registers}, {shared / 1024:.1f} kB shared" + (f", {spilled} B spilled" if spilled else "")


def head() -> str:
    return f"""# Registers and shared memory of the Triton kernels

Written by `python -m tests.support.triton_forms`, Triton {triton.__version__}. Kernels are compiled for the arguments
they are launched with, events of 54 particles; where an op launches one several times, the largest numbers are given.
Registers are per thread, shared memory is per block. No kernel spills. Tests check this, and that this page is current.
"""


def main() -> None:
    sections = []
    for form, call in FORMS.items():
        with recorded() as launches:
            call()
        sections.append(section(form, compiled(launches)))
    PAGE.write_text("\n".join([head(), *sections]))
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
