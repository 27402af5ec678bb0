"""Measures seconds of one call: wall-clock time on a CPU; device events with a cold cache on a GPU."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

Call = Callable[[], Any]
Clock = Callable[[Call], float]
L2 = 64 << 20  # bytes, if the device does not report it


def wall(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


class EventClock:
    """Seconds between two events on a GPU's stream, around one call.

    A buffer of twice the L2 cache is written before the first event, so that inputs come from memory. This write still
    runs while the call's kernels are launched: launches count if they take longer than the kernels.

    Args:
        cuda: torch.cuda, or its replacement in a test.
        flush: called before the first event.
    """

    def __init__(self, cuda: Any, flush: Call) -> None:
        self.cuda, self.flush = cuda, flush

    def __call__(self, call: Call) -> float:
        start, end = (self.cuda.Event(enable_timing=True) for _ in range(2))
        self.cuda.synchronize()
        self.flush()
        start.record()
        call()
        end.record()
        self.cuda.synchronize()
        return 1e-3 * start.elapsed_time(end)


@functools.cache
def clock_of(device: str) -> Clock:
    """The clock of calls on a device, "cpu" or "cuda"."""
    if device == "cpu":
        return wall
    buffer = torch.empty(2 * l2_bytes(), dtype=torch.uint8, device=device)
    return EventClock(torch.cuda, buffer.zero_)


def l2_bytes() -> int:
    return getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or L2


def copies_beyond(cache: int, inputs: Any, most: int = 64) -> int:
    """The number of copies of ``inputs`` so that no copy is still in the cache when it is used again."""
    size = sum(t.numel() * t.element_size() for t in tree_leaves(inputs) if isinstance(t, Tensor))
    return min(most, math.ceil(2 * cache / max(size, 1)) + 1)


def rotated(call: Callable[..., Any], inputs: Sequence[Any]) -> tuple[Call, int, str]:
    """On a GPU: (a function that runs ``call`` once on each of many copies of its inputs and waits, how many, how).

    The copies together exceed the L2 cache. Their calls are replayed as one CUDA graph, which excludes launches;
    "calls in a row" if ``call`` cannot be captured.
    """
    copies = [
        tree_map(lambda t: t.detach().clone().requires_grad_(t.requires_grad) if isinstance(t, Tensor) else t, inputs)
        for _ in range(copies_beyond(l2_bytes(), inputs))
    ]

    def in_a_row() -> None:
        for copy in copies:
            call(*copy)

    side = torch.cuda.Stream()  # kernels are compiled and loaded before the capture, on a separate stream
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        in_a_row()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph, run, how = torch.cuda.CUDAGraph(), in_a_row, "calls in a row"
    try:
        with torch.cuda.graph(graph):
            in_a_row()
        run, how = graph.replay, "graph replay"
    except RuntimeError as error:  # recorded in the results
        print(f"not captured: {str(error).splitlines()[0]}")

    def timed() -> None:
        run()
        torch.cuda.synchronize()

    return timed, len(copies), how
