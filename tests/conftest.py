"""Fixtures: backends (every instruction set of this machine, or EQUIKERNELS_BACKEND), seeds, the emulator."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

import pytest
import torch

import equikernels as ek

from .support.emulator import Emulator, load_probes
from .support.tools import lacks_kernel

NAMED = os.environ.get("EQUIKERNELS_BACKEND", "")
BACKENDS = [NAMED] if NAMED else list(ek.available_isas()) or ["reference"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skips tests of calls for which a backend named for them all has no kernel; what the machine lacks is an error."""
    try:
        return (yield)
    except RuntimeError as error:
        if NAMED and lacks_kernel(error, NAMED):
            pytest.skip(str(error))
        raise


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once per instruction set."""
    if request.param not in ek._native.ISAS:
        yield request.param
        return
    before = ek.active_isa()
    ek.set_isa(request.param)
    yield request.param
    ek.set_isa(before)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fills uninitialised memory with NaN, so that an output element that is never written is detected."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Emulator:
    """The CUDA kernels, compiled for the CPU."""
    base = tmp_path_factory.getbasetemp()
    return Emulator(base if worker_id == "master" else base.parent)  # one build for all test processes


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> ctypes.CDLL:
    """The emulator with kernels that have a fault each, and the arithmetic of schedules."""
    base = tmp_path_factory.getbasetemp()
    return load_probes(base if worker_id == "master" else base.parent)


@pytest.fixture
def emulator(built: Emulator) -> Iterator[Emulator]:
    """Runs them in place of the CPU kernels."""
    with built.installed():
        yield built
