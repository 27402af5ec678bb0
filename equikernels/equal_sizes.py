"""Groups of events with the same number of particles, which are batches without padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Group(NamedTuple):
    """Events of one size: their numbers [b] and the rows of their particles [b, size], int64."""

    size: int
    events: Tensor
    rows: Tensor


def equal_sizes(ptr: Tensor) -> list[Group]:
    """One group for each size that occurs, 0 included, the smallest first; events of a group keep their order.

    Args:
        ptr: int64 [B + 1]; on CUDA this synchronises.
    """
    counts = ptr.diff()
    sizes, order = counts.sort(stable=True)
    found, many = torch.unique_consecutive(sizes, return_counts=True)
    groups = []
    for size, events in zip(found.tolist(), order.split(many.tolist()), strict=True):
        groups.append(Group(size, events, ptr[events, None] + torch.arange(size, device=ptr.device)))
    return groups
