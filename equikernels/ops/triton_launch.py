"""Launches Triton kernels and chooses the tile of a program."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

TILE = 2048  # numbers in a tile without a product


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launches on the device and the current stream of the first tensor. Arguments are tensors and sizes of the batch;
    constants are compiled into the kernel."""
    device = arguments[0].device
    where: AbstractContextManager[Any] = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with where:
        kernel[grid](*arguments, **constants)


def dense(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.contiguous()


def columns(channels: int) -> int:
    """Channels of a tile without a product."""
    return min(64, triton.next_power_of_2(channels))


def halvings(events: int) -> int:
    """Steps of a search through the events."""
    return max(events - 1, 0).bit_length()


def events_of(graph: Tensor | None) -> tuple[int, int]:
    """The number of events in a complete graph's table, and the steps of a search through them."""
    events = 0 if graph is None else graph.shape[0] // 2 - 1
    return events, halvings(events)
