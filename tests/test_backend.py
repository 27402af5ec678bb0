"""Tests the choice of implementation, and errors if there is none."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import equikernels as ek
from equikernels import _triton, backend

from .support.process import run

# A kernel of the op `invariants` with recognisable results.
STUB = """
import sys, types, torch
import equikernels as ek
from equikernels import _triton

stub = types.ModuleType("stub")
stub.invariants = lambda x, table, num_edges, kind, metric, psi: x.new_full((num_edges, 2), 7.0)
sys.modules["stub"] = stub
_triton._installed = True

def answer():
    return ek.pairwise_invariants(torch.zeros(2, 4), ek.Graph.complete(torch.tensor([0, 2])))[0, 0].item()
"""


def test_triton_takes_the_place_of_a_kernel_while_it_is_chosen() -> None:
    code = (
        STUB
        + """
_triton.provide("pairwise_invariants", "stub", ["invariants"])
print(answer())
with ek.use_backend("triton"):
    print(answer(), ek.backends()["pairwise_invariants"]["cpu"])
    with ek.use_backend("triton"):
        print(answer())
    with ek.use_backend("cpu"):
        print(answer())
    print(answer())
print(answer(), "triton" in sys.modules)
"""
    )
    answers = run(code).splitlines()
    assert answers == ["0.0", "7.0 Triton kernel (interpreted)", "7.0", "0.0", "7.0", "0.0 False"]


def test_triton_by_the_environment_serves_ops_declared_later() -> None:
    code = (
        STUB
        + """
_triton.choose(True)  # as at import, where triton is installed
_triton.provide("pairwise_invariants", "stub", ["invariants"])
print(answer())
"""
    )
    assert run(code, EQUIKERNELS_BACKEND="triton") == "7.0\n"


def test_an_op_without_a_triton_kernel_is_refused_by_name() -> None:
    code = """
import torch
import equikernels as ek
from equikernels import _triton

_triton._installed = True
with ek.use_backend("triton"):
    try:
        ek.backend.use_kernel("segment_softmax", torch.zeros(1))
    except RuntimeError as error:
        print(error)
"""
    assert run(code) == "segment_softmax: backend 'triton' was requested: no Triton kernel for this op\n"


@pytest.mark.skipif(ek._native.cpu_reason is not None, reason=str(ek._native.cpu_reason))
def test_sums_over_edges_run_their_cpp_kernel_where_triton_is_chosen() -> None:
    code = """
import torch
import equikernels as ek
from equikernels import _triton

_triton._installed = True
values, graph = torch.ones(2, 1), ek.Graph.complete(torch.tensor([0, 2]))
with ek.use_backend("triton"), torch.profiler.profile() as profile:
    print(ek.segment_reduce(values, graph).tolist(), ek.gather_segment_reduce(values, graph).tolist())
print([event.count for event in profile.key_averages() if event.key == "equikernels::segment_sum"])
report = ek.backends()
print(*(report[op]["triton"] == report[op]["cpu"] for op in ("segment_reduce", "gather_segment_reduce")))
"""
    assert run(code).splitlines() == ["[[1.0], [1.0]] [[1.0], [1.0]]", "[2]", "True True"]


def test_what_a_kernel_cannot_do_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ek._native, "cuda_reason", None)
    with FakeTensorMode():
        x = torch.empty(1, device="cuda")
    assert ek.backend.use_kernel("message_passing", x)
    assert not ek.backend.use_kernel("message_passing", x, limit="too large")
    with ek.use_backend("cuda"), pytest.raises(RuntimeError, match="backend 'cuda' was requested: too large"):
        ek.backend.use_kernel("message_passing", x, limit="too large")


def test_importing_the_package_imports_no_triton() -> None:
    assert run("import sys, equikernels; print('triton' in sys.modules)", TRITON_INTERPRET="") == "False\n"


def test_without_triton_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_triton, "_installed", False)
    monkeypatch.setitem(_triton.KERNELS, "pairwise_invariants", ("nowhere", ("invariants",)))
    assert ek.backends()["pairwise_invariants"]["triton"] == "refused (triton is not installed)"
    with ek.use_backend("triton"), pytest.raises(RuntimeError, match="backend 'triton' was requested: triton is not"):
        ek.pairwise_invariants(torch.zeros(2, 4), ek.Graph.complete(torch.tensor([0, 2])))


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_without_cuda_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_triton, "_installed", True)
    monkeypatch.setitem(_triton.KERNELS, "pairwise_invariants", ("nowhere", ("invariants",)))
    expected = f"torch {torch.__version__} has no CUDA"
    assert ek.backends()["pairwise_invariants"]["triton"] == f"refused ({expected})"
    assert ek.backends()["pairwise_invariants"]["cuda"] == f"reference ({expected})"
    assert backend.BACKENDS == ("auto", "reference", "cpu", "cuda", "triton")


def test_on_cuda_every_op_has_a_kernel_or_is_made_of_ops_that_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ek._native, "cuda_reason", None)  # as where there is a GPU
    monkeypatch.setattr(_triton, "usable", lambda: None)
    monkeypatch.setattr(_triton, "_key", "CUDA")
    monkeypatch.setattr(_triton, "INTERPRETED", False)
    report = ek.backends()
    assert [op for op, row in report.items() if row["cuda"].startswith("reference")] == []
    made_of_others = {op for op, row in report.items() if row["cuda"] == "made of other ops"}
    assert made_of_others == {"linear_1to2", "pairwise_affine", "rank2_products"}


def test_no_such_backend() -> None:
    with pytest.raises(ValueError, match="use_backend: name: expected one of auto, reference, cpu, cuda, triton, got"):
        ek.use_backend("rocm").__enter__()
