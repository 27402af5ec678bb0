"""Measures the limits of this machine in the same run as the kernels: multiply-adds, products and copies."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch

from equikernels import _native

from .clock import clock_of


def multiply_adds(threads: int, seconds: float = 0.2) -> float:
    """Peak float32 FLOP/s of ``threads`` threads with the instruction set in use."""
    iterations = 1_000_000
    start = time.perf_counter()
    _native.multiply_adds(iterations)
    iterations = int(iterations * seconds / (time.perf_counter() - start)) + 1
    best = 0.0
    for _ in range(3):
        done = [0.0] * threads

        def work(k: int, done: list[float] = done) -> None:
            done[k] = _native.multiply_adds(iterations)

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


def ceilings(threads: int, device: str = "cpu") -> dict[str, Any]:
    """The limits in the form of a document."""
    if device == "cpu":
        return {
            "multiply_adds_gflops": multiply_adds(threads) / 1e9,
            "copy_gb_per_s": copy_bandwidth(threads) / 1e9,
        }
    return {
        "copy_gb_per_s": gpu_copy_bandwidth() / 1e9,
        **{f"matmul_{name}_gflops": matmul_rate(dtype, tf32) / 1e9 for name, (dtype, tf32) in PRODUCTS.items()},
    }


# --- A GPU's ------------------------------------------------------------------------------------------------------

PRODUCTS = {"fp32": (torch.float32, False), "tf32": (torch.float32, True), "bf16": (torch.bfloat16, True)}


def gpu_copy_bandwidth(megabytes: int = 1024) -> float:
    source = torch.zeros(megabytes << 18, device="cuda")
    target = torch.empty_like(source)
    seconds = [clock_of("cuda")(lambda: target.copy_(source)) for _ in range(10)]
    return 2 * source.numel() * 4 / min(seconds)


def matmul_rate(dtype: torch.dtype, tf32: bool, n: int = 8192) -> float:
    """FLOP/s of a product of n x n matrices, at best."""
    a, b = (torch.randn(n, n, device="cuda", dtype=dtype) for _ in range(2))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    a @ b  # loads the kernel
    seconds = [clock_of("cuda")(lambda: a @ b) for _ in range(5)]
    torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * n**3 / min(seconds)
