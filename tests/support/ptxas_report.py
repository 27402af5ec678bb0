"""Reports ptxas data of every CUDA kernel: registers, shared memory, stack frame, spills. Needs nvcc, no GPU.

The flags, sources and architectures are read from CMakeLists.txt, so that the report describes the build.
From the top of the source tree, ``python -m tests.support.ptxas_report`` writes docs/ptxas.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from . import ROOT


@dataclass(frozen=True)
class Kernel:
    """One kernel (or device function that was not inlined) on one architecture; sizes in bytes."""

    source: str  # path in the source tree
    name: str  # without its namespace and arguments, e.g. forward_kernel<4, float>
    arch: str
    stack: int
    spill_stores: int
    spill_loads: int
    registers: int = 0
    shared: int = 0  # static; ptxas does not know what a launch adds
    indirect: int = 0  # branches to an address in a register, where the code was disassembled
    local: int = 0  # loads and stores of local memory, there as well


def find_nvcc() -> Path | None:
    """nvcc where CMake looks for it: on the PATH, in CUDA_HOME, in /usr/local/cuda."""
    places = [os.environ.get("PATH", ""), f"{os.environ.get('CUDA_HOME', '')}/bin", "/usr/local/cuda/bin"]
    found = shutil.which("nvcc", path=os.pathsep.join(places))
    return Path(found) if found else None


def find_cuobjdump() -> Path | None:
    """The disassembler: beside nvcc, or as Triton brings it."""
    nvcc, triton = find_nvcc(), find_spec("triton")
    places = [nvcc.resolve().parent] if nvcc else []
    if triton and triton.origin:
        places.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    found = shutil.which("cuobjdump", path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, places)]))
    return Path(found) if found else None


def _cmake(pattern: str) -> list[str]:
    text = (ROOT / "CMakeLists.txt").read_text()
    match = re.search(pattern, re.sub(r"#.*", "", text))
    assert match, f"CMakeLists.txt has no {pattern}"
    return re.split(r"[\s;]+", match[1].strip())


def build_sources() -> list[str]:
    """The .cu files that CMake builds."""
    return _cmake(r"set\(EK_CUDA_KERNELS\s([^)]*)\)")


def build_folders() -> list[str]:
    """The folders of csrc whose ops CMake registers."""
    return _cmake(r"set\(EK_OPS\s([^)]*)\)")


REPORTED = ["80", "90"]  # compute capabilities whose registers and spills are looked at


def build_archs() -> list[str]:
    """Compute capabilities that CMake builds for where nvcc knows them, e.g. ["80", "90"]."""
    return _cmake(r"set\(EK_KNOWN_ARCHS ([^)]*)\)")


def build_flags() -> list[str]:
    """nvcc's flags of a release build in CMake; flags of the host compiler do not matter here."""
    definitions = [f"-D{name}" for name in _cmake(r"target_compile_definitions\(ek_cuda PRIVATE ([^)]*)\)")]
    standard = _cmake(r"set\(CMAKE_CUDA_STANDARD (\d+)\)")
    options = _cmake(r"target_compile_options\(ek_cuda PRIVATE ([^)]*)\)")
    return ["-O3", "-DNDEBUG", f"-std=c++{standard[0]}", *definitions, *options]


def report(
    nvcc: Path,
    sources: list[str] | None = None,
    archs: list[str] | None = None,
    root: Path = ROOT,
    disassembler: Path | None = None,
) -> list[Kernel]:
    """Compiles every source for every architecture, in parallel, and reads ptxas's report; with a disassembler the code
    for the last architecture.

    Raises:
        RuntimeError: a source does not compile; the message is nvcc's.
    """
    jobs = [(source, arch) for source in sources or build_sources() for arch in archs or REPORTED]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = pool.map(lambda job: _compile(nvcc, root / job[0], job[1], Path(folder)), jobs)
        kernels = [kernel for job, text in zip(jobs, texts, strict=True) for kernel in parse(text, *job)]
        if disassembler is None:
            return kernels
        jobs = [job for job in jobs if job[1] == jobs[-1][1]]
        counts = pool.map(lambda job: _disassemble(disassembler, _cubin(root / job[0], job[1], Path(folder))), jobs)
        code = {(*job, name): n for job, of in zip(jobs, counts, strict=True) for name, n in of.items()}
        return [replace(k, **code.get((k.source, k.arch, k.name), {})) for k in kernels]


def _cubin(source: Path, arch: str, folder: Path) -> Path:
    return folder / f"{source.stem}_{arch}.cubin"


def _compile(nvcc: Path, source: Path, arch: str, folder: Path) -> str:
    cubin = _cubin(source, arch, folder)
    command: list[str | Path] = [
        nvcc,
        *build_flags(),
        "-Xptxas",
        "-v",
        f"-arch=sm_{arch}",
        "-cubin",
        "-o",
        cubin,
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{source.name} for sm_{arch}: {done.stdout}{done.stderr}")
    return subprocess.run(["c++filt"], input=done.stderr, capture_output=True, text=True, check=True).stdout


_FUNCTION = re.compile(
    r"Function properties for (?P<name>.*)\n"
    r"\s*(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
    r"(?:\nptxas info\s*: Used (?P<used>.*))?"
)


def parse(text: str, source: str, arch: str) -> list[Kernel]:
    """Kernels in the output of ``nvcc -Xptxas -v``, demangled."""
    kernels = []
    for match in _FUNCTION.finditer(text):
        used = match["used"] or ""
        registers, shared = (re.search(rf"(\d+) {what}", used) for what in ("registers", "bytes smem"))
        kernels.append(
            Kernel(
                source=source,
                name=_short(match["name"]),
                arch=arch,
                stack=int(match["stack"]),
                spill_stores=int(match["stores"]),
                spill_loads=int(match["loads"]),
                registers=int(registers[1]) if registers else 0,
                shared=int(shared[1]) if shared else 0,
            )
        )
    assert len(kernels) == text.count("Function properties"), "ptxas's report has a form that is not understood"
    return kernels


def _disassemble(tool: Path, cubin: Path) -> dict[str, dict[str, int]]:
    code = subprocess.run([tool, "-sass", cubin], capture_output=True, text=True, check=True).stdout
    return count_code(subprocess.run(["c++filt"], input=code, capture_output=True, text=True, check=True).stdout)


def count_code(text: str) -> dict[str, dict[str, int]]:
    """Indirect branches and accesses of local memory of each kernel in the output of ``cuobjdump -sass``, demangled.
    Code of functions that were not inlined is part of the kernel that calls them."""
    counts: dict[str, dict[str, int]] = {}
    for line in text.splitlines():
        if match := re.match(r"\s*Function : (.*)", line):
            now = counts.setdefault(_short(match[1]), {"indirect": 0, "local": 0})
        elif match := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)", line):
            now["indirect"] += match[1] in ("BRX", "BRXU", "JMX", "JMXU")
            now["local"] += match[1] in ("LDL", "STL")
    return counts


def _short(name: str) -> str:
    """forward_kernel<4, float> of void ek::(anonymous namespace)::forward_kernel<4, float>(ek::Args<float>)."""
    name = re.sub(r"\w+::|\(anonymous namespace\)::|^void ", "", name)
    name = re.sub(r"\(\w+\)(?=\d)", "", name)  # an enumerator is spelled as a cast
    return name.split("(")[0]


def markdown(kernels: list[Kernel], version: str) -> str:
    """One row per kernel, one column per architecture."""
    archs = sorted({k.arch for k in kernels})
    lines = [
        "# Registers and shared memory of the CUDA kernels",
        "",
        f"Written by `python -m tests.support.ptxas_report` from the report of ptxas, {version}. Registers are per",
        "thread; in brackets is the share of an SM's 2048 threads that they leave room for, in blocks of 256. Shared",
        "memory is the static amount of a block. No kernel spills, has a stack or branches by a table: tests check it.",
    ]
    for source in sorted({k.source for k in kernels}):
        rows: dict[str, dict[str, str]] = {}
        for k in kernels:
            if k.source == source:
                notes = [f"{size} B {what}" for what, size in _notes(k).items() if size]
                rows.setdefault(k.name, {})[k.arch] = ", ".join([f"{k.registers} ({occupancy(k.registers)} %)", *notes])
        lines += ["", f"## {source}", "", "| kernel | " + " | ".join(f"sm_{a}" for a in archs) + " |"]
        lines.append("|---" * (1 + len(archs)) + "|")
        lines += [
            f"| `{name}` | " + " | ".join(row.get(a, "") for a in archs) + " |" for name, row in sorted(rows.items())
        ]
    return "\n".join(lines) + "\n"


def occupancy(registers: int) -> int:
    """Per cent of an SM's 2048 threads: 65536 registers, given to warps by 256, so eight a thread, in blocks of 256."""
    blocks = 65536 // (256 * max(8, -(-registers // 8) * 8))
    return 100 * min(blocks, 8) // 8


def _notes(k: Kernel) -> dict[str, int]:
    return {"shared": k.shared, "stack": k.stack, "spilled": k.spill_stores + k.spill_loads}


def nvcc_version(nvcc: Path) -> str:
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"release ([\d.]+)", text)
    return f"CUDA {match[1]}" if match else "CUDA of unknown version"


def main() -> None:
    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("ptxas_report: no nvcc on the PATH, in CUDA_HOME or in /usr/local/cuda")
    page = ROOT / "docs" / "ptxas.md"
    page.write_text(markdown(report(nvcc), nvcc_version(nvcc)))
    print(f"wrote {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
