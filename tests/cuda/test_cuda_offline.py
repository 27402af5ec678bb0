"""Tests the CUDA library without a GPU: it compiles without spills, links only to libraries of a CUDA torch, and if it
cannot be used the package reports the reason."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import equikernels as ek

from ..support import ROOT
from ..support.ptxas_report import (
    REPORTED,
    Kernel,
    build_archs,
    build_flags,
    build_folders,
    build_sources,
    count_code,
    find_cuobjdump,
    find_nvcc,
    markdown,
    parse,
    report,
)

NVCC = find_nvcc()
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc on the PATH, in CUDA_HOME or in /usr/local/cuda")

DISASSEMBLER = find_cuobjdump()
needs_disassembler = pytest.mark.skipif(DISASSEMBLER is None, reason="no cuobjdump beside nvcc, and no triton")

LIBRARY = ek._native.CUDA_LIBRARY
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason=f"{LIBRARY.name} was not built")

# Kernels whose stack frame is known and accepted, in bytes, by (source, name). None so far.
STACK_FRAMES: dict[tuple[str, str], int] = {}


@pytest.fixture(scope="module")
def kernels() -> list[Kernel]:
    assert NVCC is not None
    return report(NVCC, disassembler=DISASSEMBLER)


def test_every_cuda_source_is_built() -> None:
    on_disk = {str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.cu")}
    assert set(build_sources()) == on_disk
    assert set(build_folders()) == {path.parent.name for path in ROOT.glob("csrc/*/register.cpp")}


@needs_nvcc
def test_no_kernel_spills(kernels: list[Kernel]) -> None:
    for source in build_sources():
        for arch in REPORTED:
            assert any(k.source == source and k.arch == arch and k.registers > 0 for k in kernels), (source, arch)
    assert [k for k in kernels if k.spill_stores or k.spill_loads] == []
    assert [k for k in kernels if k.stack != STACK_FRAMES.get((k.source, k.name), 0)] == []
    # 256 threads a block: a kernel that uses more registers than this cannot have one block on an SM
    assert max(k.registers for k in kernels) <= 65536 // 256
    assert max(k.shared for k in kernels) <= 48 * 1024


@needs_nvcc
@needs_disassembler
def test_no_kernel_branches_by_a_table_or_uses_local_memory(kernels: list[Kernel]) -> None:
    """A switch in a loop, for example over activations, costs an indirect branch for each number."""
    assert [k for k in kernels if k.indirect or k.local] == []


@needs_nvcc
@needs_disassembler
def test_an_indirect_branch_and_local_memory_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "code.cu").write_text("""
__global__ void choice(float* p, int kind) {
  float v = p[threadIdx.x];
  switch (kind) {
    case 0: v = expf(v); break;
    case 1: v = tanhf(v); break;
    case 2: v = sqrtf(v); break;
    case 3: v = erff(v); break;
    case 4: v = logf(v); break;
    case 5: v = cbrtf(v); break;
  }
  p[threadIdx.x] = v;
}
template <int n> __global__ void wanderer(int* p) {
  int a[n];
  for (int k = 0; k < n; ++k) a[k] = p[k];
  for (int k = 0; k < n; ++k) p[k] = a[p[k] & 31];
}
template __global__ void wanderer<32>(int*);
""")
    assert NVCC is not None
    found = {k.name: k for k in report(NVCC, ["code.cu"], ["90"], tmp_path, DISASSEMBLER)}
    assert found["choice"].indirect > 0
    assert found["choice"].local == found["wanderer<32>"].indirect == 0
    assert found["wanderer<32>"].local >= 32


def test_code_is_counted_by_kernel() -> None:
    text = """
		Function : void ek::(anonymous namespace)::k<4, float>(ek::Args<float>)
	.headerflags	@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;     /* 0x00000a00ff017b82 */
                                                              /* 0x000fe20000000800 */
        /*0010*/              @!P0 BRX R4 -0x30 (*"BRANCH_TARGETS .L_1"*) ;
        /*0020*/               @P1 STL.64 [R1+0x8], R2 ;
		Function : other
        /*0000*/                   LDL R1, [R1] ;
"""
    assert count_code(text) == {"k<4, float>": {"indirect": 1, "local": 1}, "other": {"indirect": 0, "local": 1}}


@needs_nvcc
def test_older_and_newer_architectures_compile(tmp_path: Path) -> None:
    """The kernels that use instructions which not every architecture has; without optimisation, which takes longer."""
    assert NVCC is not None
    listed = subprocess.run([NVCC, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    others = [arch for arch in build_archs() if arch not in REPORTED and f"compute_{arch}" in listed]
    assert set(REPORTED) < set(build_archs())
    for arch in others:
        for source in (ROOT / "csrc" / "message_passing" / "channels").glob("*.cu"):
            fast = ["-Xcicc", "-O0", "-Xptxas", "-O0", f"-arch=sm_{arch}", "-cubin", "-o", tmp_path / "cubin"]
            done = subprocess.run([NVCC, *build_flags(), *fast, source], capture_output=True, text=True)
            assert done.returncode == 0, f"{source.name} for sm_{arch}: {done.stderr}"


def test_the_table_has_every_kernel_and_what_is_wrong_with_it() -> None:
    good = Kernel("csrc/a/a.cu", "k<4, float>", "80", stack=0, spill_stores=0, spill_loads=0, registers=32, shared=256)
    bad = Kernel("csrc/a/a.cu", "k<4, float>", "90", stack=8, spill_stores=4, spill_loads=12, registers=80)
    page = markdown([good, bad], "CUDA 13.0")
    assert "| kernel | sm_80 | sm_90 |" in page
    assert "| `k<4, float>` | 32 (100 %), 256 B shared | 80 (37 %), 8 B stack, 16 B spilled |" in page


@needs_nvcc
def test_a_spill_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "spill.cu").write_text("""
__global__ void __launch_bounds__(1024, 2) greedy(float* p) {
  float a[64];
  for (int k = 0; k < 64; ++k) a[k] = p[k * 2048 + threadIdx.x];
  __syncthreads();
  for (int k = 0; k < 64; ++k) p[threadIdx.x * 64 + k] = a[k] * a[63 - k];
}
__global__ void wanderer(int* p) {
  int a[32];
  for (int k = 0; k < 32; ++k) a[k] = p[k];
  for (int k = 0; k < 32; ++k) p[k] = a[p[k] & 31];
}
""")
    assert NVCC is not None
    found = {k.name: k for k in report(NVCC, ["spill.cu"], ["80"], root=tmp_path)}
    assert found["greedy"].spill_stores > 0
    assert found["greedy"].spill_loads > 0
    assert found["wanderer"].stack == 128
    assert found["wanderer"].spill_stores == 0


@needs_nvcc
def test_a_source_that_does_not_compile_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "broken.cu").write_text("__global__ void broken() { return nothing; }")
    assert NVCC is not None
    with pytest.raises(RuntimeError, match=r"broken.cu for sm_90: .*nothing"):
        report(NVCC, ["broken.cu"], ["90"], root=tmp_path)


def test_parse_reads_registers_and_shared_memory() -> None:
    text = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z1k' for 'sm_80'
ptxas info    : Function properties for void ek::(anonymous namespace)::k<4, double>(ek::Args<double>)
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 80 registers, used 1 barriers, 8 bytes cumulative stack size, 1024 bytes smem, 544 bytes cmem[0]
ptxas info    : Function properties for ek::helper(float)
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
"""
    assert parse(text, "a.cu", "80") == [
        Kernel("a.cu", "k<4, double>", "80", stack=8, spill_stores=4, spill_loads=12, registers=80, shared=1024),
        Kernel("a.cu", "helper", "80", stack=0, spill_stores=0, spill_loads=0),
    ]


def _readelf(what: str, library: Path = LIBRARY) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf (binutils)")
    return subprocess.run(["readelf", "-W", what, library], capture_output=True, text=True, check=True).stdout


def _symbols(library: Path, defined: bool) -> set[str]:
    """Dynamic symbols without a version: symbols of system libraries have one, torch's do not."""
    rows = [line.split() for line in _readelf("--dyn-syms", library).splitlines()]
    return {row[7] for row in rows if len(row) == 8 and "@" not in row[7] and (row[6] != "UND") == defined}


@needs_library
def test_the_library_needs_no_cuda_runtime() -> None:
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", _readelf("-d")))
    system = {
        "libc.so.6",
        "libm.so.6",
        "libdl.so.2",
        "librt.so.1",
        "libpthread.so.0",
        "libgcc_s.so.1",
        "libstdc++.so.6",
    }
    assert needed - system - {"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"} == {"libtorch.so", "libtorch_cpu.so"}
    assert "RUNPATH" not in _readelf("-d")
    assert "RPATH" not in _readelf("-d")


@needs_library
def test_what_the_library_leaves_undefined_comes_from_torch() -> None:
    weak = {"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__gmon_start__"}  # the compiler's
    undefined = _symbols(LIBRARY, defined=False) - weak
    # Only the stable C interface: no at::, c10:: or CUDA runtime.
    assert "aoti_torch_get_current_cuda_stream" in undefined
    assert [name for name in undefined if not re.match("(aoti_)?torch_", name)] == []
    # A CUDA torch exports these since 2.10, a CPU torch does not.
    cuda_torch = {
        "aoti_torch_get_current_cuda_stream",
        "torch_c10_cuda_check_msg",
        "torch_c10_cuda_free_error_msg",
    }
    torch_cpu = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    assert undefined - _symbols(torch_cpu, defined=True) <= cuda_torch


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_under_a_cpu_torch_the_package_says_why_there_is_no_cuda() -> None:
    code = "import equikernels as ek; print(ek._native.cuda_reason); print(ek.backends())"
    path = {"PYTHONPATH": str(Path(ek.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **path}, cwd="/", capture_output=True, text=True, check=True
    )
    reason, *table = done.stdout.splitlines()
    assert reason == ek._native.cuda_reason
    assert reason == (ek._native.cpu_reason or f"torch {torch.__version__} has no CUDA")
    cuda = [line for line in table if line.split()[0] == "cuda"]
    assert cuda
    told = (f"reference ({reason})", "no kernel for this op", "made of other ops")
    assert all(any(words in line for words in told) for line in cuda)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_cuda_asked_for_by_name_is_refused() -> None:
    with ek.use_backend("cuda"), pytest.raises(RuntimeError, match="backend 'cuda' was requested"):
        ek.pairwise_invariants(torch.zeros(2, 4), ek.Graph.complete(torch.tensor([0, 2])))
