"""ThreadSanitizer on an emulated CUDA kernel, as it is and without each of its barriers; `make tsan` runs them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import equikernels as ek

from ..support import tsan
from ..support.emulator import build_probes

pytestmark = [
    pytest.mark.skipif(tsan.library("libtsan.so") is None, reason="no g++ with ThreadSanitizer"),
    pytest.mark.skipif(ek._native.cpu_reason is not None, reason=str(ek._native.cpu_reason)),
]


def test_no_race_and_every_barrier_is_missed(tmp_path: Path) -> None:
    found = tsan.watch(tmp_path, "encode")
    assert found.launches > 0
    assert found.reports == ""
    assert len(found.kernels) >= 3
    assert all(found.kernels.values()), found.kernels
    assert len(found.barriers) == 2
    assert all(found.barriers.values()), found.barriers
    assert found.sound


@pytest.fixture(scope="module")
def watched_probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_probes(tmp_path_factory.mktemp("watched"), watched=True)


PROBES = {"block barrier": 0, "none": 1, "blocks": 8, "shuffle": 10, "shuffle and warp barrier": 11}


@pytest.mark.parametrize("between", PROBES)
def test_barriers_order_memory_and_nothing_else_does(between: str, watched_probes: Path, tmp_path: Path) -> None:
    code = f"import ctypes; ctypes.CDLL({str(watched_probes)!r}).run_probe({PROBES[between]}, (ctypes.c_float * 256)())"
    subprocess.run([sys.executable, "-c", code], env=tsan.environment(tmp_path), check=True)
    assert any(tmp_path.glob("report.*")) == ("barrier" not in between)


@pytest.mark.parametrize(
    "fault",
    [
        {"reports": "WARNING: data race"},
        {"kernels": {"a": True, "b": False}},
        {"barriers": {"c:1": False, "c:2": True}},
    ],
    ids=str,
)
def test_what_is_not_sound(fault: dict[str, Any]) -> None:
    sound = tsan.Findings(1, 1, 1.0, "", {"a": True}, {"c:1": True})
    assert sound.sound
    assert not sound._replace(**fault).sound


def test_barriers_are_found_in_every_kernel_with_shared_memory() -> None:
    places = tsan.barriers_of("encode", "pairs", "message_passing", "core")
    files = {place.split(":")[0] for place in places}
    assert {"encode/encode.cu", "pairs/sums.cu", "message_passing/channels/message.cu", "core/launch.cuh"} <= files
    assert not tsan.barriers_of("segment")
