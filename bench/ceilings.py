"""What this machine can do at best, measured in the same run as the kernels: multiply-adds and copying."""

from __future__ import annotations

import threading
import time

import torch

from equikernels import _native


def multiply_adds(threads: int, seconds: float = 0.2) -> float:
    """Peak float32 FLOP/s of ``threads`` threads with the instruction set in use."""
    assert _native.host is not None, _native.cpu_reason
    library, host = str(_native.OPS_LIBRARY), _native.host
    iterations = 1_000_000
    start = time.perf_counter()
    host.multiply_adds(library, iterations)
    iterations = int(iterations * seconds / (time.perf_counter() - start)) + 1
    best = 0.0
    for _ in range(3):
        done = [0.0] * threads

        def work(k: int, done: list[float] = done) -> None:
            done[k] = host.multiply_adds(library, iterations)

        workers = [threading.Thread(target=work, args=(k,)) for k in range(threads)]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = max(best, sum(done) / (time.perf_counter() - start))
    return best


def copy_bandwidth(threads: int, megabytes: int = 256) -> float:
    """Bytes read and written per second by a copy that does not fit any cache."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    source = torch.zeros(megabytes << 18)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2 * source.numel() * 4 / best
