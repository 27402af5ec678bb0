"""Tests the installed package: location, behaviour without compiled libraries, environment variables."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import equikernels as ek

from .support import ROOT

PACKAGE = Path(ek.__file__).parent

# Every op on a small sparse graph, on the active backend; the sum distinguishes results.
EXERCISE = """
import equikernels as ek, torch
torch.manual_seed(0)
x = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
graph = ek.Graph.from_edge_index(torch.tensor([[0, 1, 2, 3, 0], [1, 2, 3, 4, 4]]), 5)
s = ek.pairwise_invariants(x, graph)
moved = ek.coordinate_update(x, s[:, 0], graph)
total = ek.segment_reduce(ek.segment_softmax(s, graph), graph) + ek.gather_segment_reduce(moved, graph)[:, :2]
(grad,) = torch.autograd.grad(total.sum(), x)
print(repr(float(total.detach().square().sum())), repr(float(grad.square().sum())))
"""


def run(code: str, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh Python that finds the package in ``path`` (by default where this one found it)."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("EQUIKERNELS_")}
    location = {"PYTHONPATH": str(path or PACKAGE.parent)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **location, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
    )


def output(code: str, path: Path | None = None, **environment: str) -> str:
    done = run(code, path, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def python_only(tmp_path: Path) -> Path:
    """A copy of the package without its compiled libraries."""
    shutil.copytree(PACKAGE, tmp_path / "equikernels", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


@pytest.mark.skipif("EQUIKERNELS_TEST_INSTALLED" not in os.environ, reason="only `make test` promises the wheel")
def test_the_installed_wheel_is_what_is_tested() -> None:
    assert PACKAGE.parent == Path(sysconfig.get_path("platlib"))
    assert ROOT / "equikernels" != PACKAGE
    assert ek._native.cpu_reason is None, "the wheel has no CPU kernels"


@pytest.mark.skipif("EQUIKERNELS_TEST_INSTALLED" not in os.environ, reason="only `make test` promises the wheel")
def test_one_wheel_serves_every_python_and_older_systems() -> None:
    wheel = importlib.metadata.distribution("equikernels").read_text("WHEEL")
    assert wheel is not None
    (tag,) = re.findall(r"^Tag: cp310-abi3-(.*)$", wheel, re.MULTILINE)
    systems = {"linux": "manylinux_2_28_", "darwin": r"macosx_1[1-9]_\d+_"}
    assert re.fullmatch(systems[sys.platform] + platform.machine(), tag)
    assert {path.name for path in PACKAGE.glob("*.so")} <= {"_ops.so", "_ops_cuda.so", "libequikernels_ort.so"}


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf (binutils)")
@pytest.mark.parametrize("library", sorted(PACKAGE.glob("*.so")), ids=lambda path: path.name)
def test_a_library_shows_its_own_names_and_knows_no_python(library: Path) -> None:
    read = ["readelf", "-W", "--dyn-syms", "-d", str(library)]
    table = subprocess.run(read, capture_output=True, text=True, check=True).stdout
    assert ("libtorch_cpu.so" in table) == (library.name != "libequikernels_ort.so")
    shown = re.findall(r" (?:GLOBAL|WEAK|UNIQUE) +DEFAULT +\d+ (\w+)", table)
    assert shown
    own = [name for name in shown if name.startswith("equikernels_") or name == "RegisterCustomOps"]
    assert own == shown, "a name that another library could define as well"
    assert re.findall(r"\b_?Py\w+|libpython\S*|libtorch_python\S*", table) == []


def test_without_libraries_the_reference_runs_and_says_why(python_only: Path) -> None:
    report = output("import equikernels as ek; print(ek.__file__); print(ek.backends())", python_only)
    assert str(python_only) in report
    assert "reference (_ops.so was not built)" in report
    assert "kernel (" not in report
    assert output(EXERCISE, python_only) == output(EXERCISE, EQUIKERNELS_BACKEND="reference")


def test_without_libraries_a_model_and_info_run(python_only: Path) -> None:
    code = """
import equikernels as ek, torch
from equikernels.cli import main
jets = ek.data.load_sample_jets()[:3]
x, ptr, is_beam = ek.data.with_beams(jets.p4, jets.ptr)
logits = ek.models.LorentzNet(2, 8, n_layers=2).eval()(x, ek.data.top_tagging_scalars(x, is_beam), ptr)
assert logits.shape == (3, 2) and logits.isfinite().all()
main(["info"])
"""
    report = output(code, python_only)
    assert "_ops.so was not built" in report
    assert "instruction sets:          none" in report


@pytest.mark.parametrize("call", ['ek.set_isa("avx2")', "ek.pairwise_invariants(x, graph)"])
def test_without_libraries_a_kernel_asked_for_by_name_is_refused(python_only: Path, call: str) -> None:
    code = f"""
import equikernels as ek, torch
x, graph = torch.ones(2, 4), ek.Graph.complete(torch.tensor([0, 2]))
with ek.use_backend("cpu"):
    {call}
"""
    done = run(code, python_only)
    assert done.returncode != 0
    assert "RuntimeError" in done.stderr
    assert "_ops.so was not built" in done.stderr


def test_the_kill_switch() -> None:
    report = output("import equikernels as ek; print(ek.backends())", EQUIKERNELS_BACKEND="reference")
    assert "backend: reference" in report
    assert "kernel (" not in report
    reference = [float(v) for v in output(EXERCISE, EQUIKERNELS_BACKEND="reference").split()]
    kernels = [float(v) for v in output(EXERCISE).split()]
    assert kernels == pytest.approx(reference, rel=1e-12)


def test_an_unknown_backend_is_an_error() -> None:
    done = run("import equikernels", EQUIKERNELS_BACKEND="gpu")
    assert done.returncode != 0
    assert "EQUIKERNELS_BACKEND: expected one of auto, reference, cpu, cuda, triton, got 'gpu'" in done.stderr


@pytest.mark.parametrize("isa", ek.available_isas())
def test_an_instruction_set_is_forced(isa: str) -> None:
    assert output("import equikernels as ek; print(ek.active_isa())", EQUIKERNELS_CPU=isa).strip() == isa
    forced = [float(v) for v in output(EXERCISE, EQUIKERNELS_CPU=isa).split()]
    reference = [float(v) for v in output(EXERCISE, EQUIKERNELS_BACKEND="reference").split()]
    assert forced == pytest.approx(reference, rel=1e-12)


@pytest.mark.skipif(not ek.available_isas(), reason="no CPU kernels")
@pytest.mark.parametrize("isa", ["sse9", "AVX2", "auto"])
def test_an_instruction_set_that_does_not_exist_is_an_error(isa: str) -> None:
    done = run("import equikernels", EQUIKERNELS_CPU=isa)
    assert done.returncode != 0
    assert f"expected one of baseline, avx2, avx512, got '{isa}'" in done.stderr


@pytest.mark.skipif(ek._native.cpu_reason is not None, reason="no op library")
def test_a_second_copy_of_the_op_library_is_refused(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "equikernels", ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import sys
import equikernels
for name in [m for m in sys.modules if m.startswith("equikernels")]: del sys.modules[name]
sys.path.insert(0, {str(tmp_path)!r})
import equikernels
"""
    done = run(code)
    assert done.returncode == 1, "an ImportError, not a crash"
    assert "another copy of the op library is already loaded" in done.stderr


needs_kernels = pytest.mark.skipif(ek._native.cpu_reason is not None, reason=str(ek._native.cpu_reason))


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the package with its libraries, and the sources beside it."""
    shutil.copytree(PACKAGE, tmp_path / "equikernels", ignore=shutil.ignore_patterns("__pycache__", "bench", "*.npz"))
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    return tmp_path


@needs_kernels
def test_a_library_knows_its_sources(checkout: Path) -> None:
    assert ek._native.build_info()["sources"] == ek._native.hash_of_sources(checkout / "csrc")
    assert output("import warnings; warnings.simplefilter('error'); import equikernels", checkout) == ""


@needs_kernels
@pytest.mark.parametrize("change", ["an edit", "a new file", "a file gone"])
def test_a_library_of_other_sources_says_so(checkout: Path, change: str) -> None:
    register = checkout / "csrc" / "segment" / "register.cpp"
    if change == "an edit":
        register.write_text(register.read_text() + "// one more line\n")
    elif change == "a new file":
        register.with_name("more.h").touch()
    else:
        register.unlink()
    done = run("import equikernels as ek; print(ek.backends())", checkout)
    built, there = ek._native.build_info()["sources"], ek._native.hash_of_sources(checkout / "csrc")
    assert built != there
    for said in (done.stderr, done.stdout):
        assert f"_ops.so was built from other sources ({built}) than those in {checkout / 'csrc'} ({there})" in said
        assert "build the libraries again: `make`" in said
    assert "RuntimeWarning" in done.stderr


@needs_kernels
def test_a_library_of_another_version_is_refused(checkout: Path) -> None:
    (checkout / "equikernels" / "_version.py").write_text('__version__ = "9.8.7"\n')
    done = run("import equikernels", checkout)
    assert done.returncode == 1
    library = checkout / "equikernels" / "_ops.so"
    said = f"ImportError: equikernels: {library} is of version {ek.__version__}, the Python files are of 9.8.7: build"
    assert said in done.stderr


@needs_kernels
def test_a_cuda_library_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    native = ek._native
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(native, "_load", lambda path: None)
    for other, reason in [
        ({"sources": "0123456789ab"}, "_ops_cuda.so was built from other sources (0123456789ab) than _ops.so (ba98"),
        ({}, "_ops_cuda.so was built from other sources (unknown) than _ops.so (ba98"),
        ({"sources": "ba9876543210"}, None),
    ]:
        infos = {native.OPS_LIBRARY: {"sources": "ba9876543210"}, native.CUDA_LIBRARY: other}
        monkeypatch.setattr(native, "build_info", infos.__getitem__)
        found = native._load_cuda()
        assert found is None if reason is None else found.startswith(reason)
