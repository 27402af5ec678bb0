"""Tests which GPUs and drivers a build runs on, with devices that are not there, and which calls have no kernel."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import equikernels as ek
from equikernels import _gpu, _native, _triton
from equikernels._gpu import Gpu

V100, T4, A100, L40S, H100, THOR, RTX5090 = (7, 0), (7, 5), (8, 0), (8, 9), (9, 0), (11, 0), (12, 0)
NEW = (13, 1)  # a driver


def build(archs: str = "80 90", cuda: str = "13.0.88") -> dict[str, str]:
    return {"cuda_archs": archs, "cuda": cuda}


@pytest.mark.parametrize(
    ("gpu", "of"),
    [
        (Gpu(A100, NEW), build()),
        (Gpu(L40S, NEW), build()),  # code for 8.0
        (Gpu(RTX5090, NEW), build()),  # PTX for 9.0
        (Gpu(T4, NEW), build("75 80 90 100 120")),
        (Gpu(A100, (13, 0)), build()),
        (Gpu(A100, (12, 2)), build(cuda="12.8.1")),  # an older driver of the same major version
        (Gpu(RTX5090, (12, 8)), build(cuda="12.8.1")),
        (Gpu(A100, (0, 0)), build()),  # a driver that does not say
        (Gpu(T4, (11, 0)), {}),  # a build that does not say
    ],
)
def test_what_runs(gpu: Gpu, of: dict[str, str]) -> None:
    assert _gpu.cuda_limit(gpu, of) is None


@pytest.mark.parametrize(
    ("gpu", "of", "words"),
    [
        (Gpu(T4, NEW), build(), "compute capability 7.5, _ops_cuda.so has code for 8.0, 9.0 and later than 9.0"),
        (Gpu(V100, NEW), build("75 80"), "compute capability 7.0, _ops_cuda.so has code for 7.5, 8.0"),
        (Gpu(A100, NEW), build("90"), "compute capability 8.0, _ops_cuda.so has code for 9.0 and later than 9.0"),
        (Gpu(THOR, NEW), build("90 120"), "compute capability 11.0, _ops_cuda.so has code for 9.0, 12.0"),
        (Gpu((8, 0), NEW), build("86 90"), "compute capability 8.0"),
        (Gpu(A100, (12, 4)), build(), "the driver supports CUDA 12.4, _ops_cuda.so needs 13.0"),
        (Gpu(RTX5090, (12, 4)), build(cuda="12.8.1"), "the driver supports CUDA 12.4, _ops_cuda.so needs 12.8"),
    ],
)
def test_what_does_not_run_is_told(gpu: Gpu, of: dict[str, str], words: str) -> None:
    assert words in str(_gpu.cuda_limit(gpu, of))


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        (Gpu(T4, NEW), "compute capability 7.5, the Triton kernels need 8.0"),
        (Gpu(H100, (11, 8)), "the driver supports CUDA 11.8, Triton needs 12.0"),
        (Gpu(H100, NEW), None),
        (Gpu(H100, (0, 0)), None),
    ],
)
def test_what_triton_runs_on(gpu: Gpu, words: str | None) -> None:
    limit = _gpu.triton_limit(gpu)
    assert limit is None if words is None else words in str(limit)


class Machine:
    """GPUs that are not there, with a library and Triton that load."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpus: list[Gpu] = []
        self.build = build()
        self.asked: list[int] = []
        monkeypatch.setattr(_gpu, "_known", {})
        monkeypatch.setattr(_gpu, "query", self.query)
        monkeypatch.setattr(_native, "build_info", lambda *_: self.build)
        monkeypatch.setattr(_native, "cuda_reason", None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(self.gpus))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(_triton, "usable", lambda: None)
        monkeypatch.setattr(_triton, "_key", "CUDA")
        monkeypatch.setattr(_triton, "INTERPRETED", False)

    def query(self, index: int) -> Gpu:
        self.asked.append(index)
        return self.gpus[index]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def tensor_on(index: int) -> torch.Tensor:
    with FakeTensorMode():
        return torch.empty(1, device=f"cuda:{index}")


def test_a_backend_chosen_by_name_is_refused_with_the_reason(machine: Machine) -> None:
    machine.gpus = [Gpu(T4, NEW)]
    x = tensor_on(0)
    for name, words in (("cuda", "_ops_cuda.so has code for 8.0"), ("triton", "the Triton kernels need 8.0")):
        for op in ("rank2_mix", "segment_reduce", "message_passing"):
            if name == "cuda" and op == "rank2_mix":
                continue  # Triton alone
            if name == "triton" and op != "rank2_mix":
                words = "_ops_cuda.so has code for 8.0" if op == "segment_reduce" else "no Triton kernel for this op"
            with ek.use_backend(name), pytest.raises(RuntimeError, match=f"{op}: backend '{name}'.*: .*{words}"):
                ek.backend.use_kernel(op, x)


def test_auto_takes_what_works_and_says_what_does_not(machine: Machine) -> None:
    machine.gpus = [Gpu(H100, NEW)]
    assert ek.backend.use_kernel("segment_reduce", tensor_on(0))
    assert ek.backend.use_kernel("pairwise_network", tensor_on(0))
    machine.gpus, machine.build = [Gpu(A100, (12, 4))], build("90", "13.0.88")
    _gpu._known.clear()
    x, report = tensor_on(0), ek.backends()
    assert not ek.backend.use_kernel("segment_reduce", x)
    assert ek.backend.use_kernel("pairwise_network", x)  # Triton
    assert not ek.backend.use_kernel("rank2_mix", x)  # whose Triton kernel calls sums of CUDA C++
    reason = "the GPU has compute capability 8.0, _ops_cuda.so has code for 9.0"
    assert report["segment_reduce"]["cuda"].startswith(f"reference ({reason}")
    assert report["rank2_mix"]["cuda"].startswith(f"reference ({reason}")
    assert report["segment_reduce"]["triton"].startswith(f"refused ({reason}")
    assert report["pairwise_network"]["cuda"].startswith("Triton kernel")
    assert report["linear_2to2"]["cuda"].startswith(f"reference ({reason}")
    assert report["segment_reduce"]["cpu"].startswith(("kernel", "reference (_ops.so"))


def test_each_gpu_is_asked_once(machine: Machine) -> None:
    machine.gpus = [Gpu(H100, NEW), Gpu(T4, NEW)]
    for _ in range(3):
        assert ek.backend.use_kernel("segment_reduce", tensor_on(0))
        assert not ek.backend.use_kernel("segment_reduce", tensor_on(1))
    assert machine.asked == [0, 1]


def test_a_compiled_call_asks_too(machine: Machine) -> None:
    machine.gpus = [Gpu(T4, NEW)]

    @torch.compile(backend="eager", fullgraph=True)
    def runs(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if ek.backend.use_kernel("segment_reduce", x) else x

    torch._dynamo.reset()
    with FakeTensorMode() as mode:
        x = torch.empty(1, device="cuda:0")
        del mode
    assert _gpu.refusal("cuda", x.device) is not None


def test_without_a_gpu_nothing_is_asked(machine: Machine) -> None:
    assert _gpu.refusal("cuda", torch.device("cuda")) is None
    assert machine.asked == []
    assert _gpu._known == {}  # one may be there later
