"""ThreadSanitizer on an emulated CUDA kernel, as it is and without each of its barriers; `make tsan` runs them all."""

from __future__ import annotations

from pathlib import Path

import pytest

import equikernels as ek

from ..support import tsan

pytestmark = [
    pytest.mark.skipif(tsan.library("libtsan.so") is None, reason="no g++ with ThreadSanitizer"),
    pytest.mark.skipif(ek._native.cpu_reason is not None, reason=str(ek._native.cpu_reason)),
]


def test_no_race_and_every_barrier_is_missed(tmp_path: Path) -> None:
    found = tsan.watch(tmp_path, "encode")
    assert found.launches > 0
    assert found.reports == ""
    assert len(found.barriers) == 2
    assert all(found.barriers.values()), found.barriers


def test_barriers_are_found_in_every_kernel_with_shared_memory() -> None:
    files = {file for file, _ in tsan.barriers_of("*")}
    assert {"encode/encode.cu", "pairs/sums.cu", "message_passing/channels/message.cu"} <= files
    assert not tsan.barriers_of("segment")
