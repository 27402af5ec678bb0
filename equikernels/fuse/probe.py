"""Small inputs on which a block's own forward and its fused form are compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Of coordinates and of features. Large coordinates reach the clamps of published blocks, large features other ones.
SCALES = ((1.0, 1.0), (1e-2, 1.0), (1e5, 1.0), (1.0, 1e4))


@dataclass
class Probe:
    """A call, and what to call it in a report."""

    arguments: list[Any]
    label: str
    constant: frozenset[int] = frozenset()  # arguments that are not differentiated


class ProbeEdges(NamedTuple):
    """An edge list over ``nodes`` nodes: messages from sender to receiver."""

    label: str
    nodes: int
    receiver: Tensor
    sender: Tensor


def probe_edges(device: torch.device) -> Iterator[ProbeEdges]:
    """Random edges with self-loops and duplicates, unequal degrees and a node without edges; the same without
    self-loops; all pairs of two events."""
    for label, loops, seed in (("a random graph", False, 1), ("a random graph with self-loops", True, 2)):
        generator = torch.Generator().manual_seed(seed)
        receiver = torch.randint(0, 5, (22,), generator=generator) + torch.randint(0, 4, (22,), generator=generator)
        sender = (receiver + torch.randint(1, 8, (22,), generator=generator)) % 8
        if loops:
            sender[:3] = receiver[:3]
        receiver, sender = (torch.cat([t, t[-3:]]).to(device) for t in (receiver, sender))  # three edges twice
        yield ProbeEdges(label, 9, receiver, sender)
    pairs = [(i, j) for lo, hi in ((0, 3), (3, 7)) for i in range(lo, hi) for j in range(lo, hi) if i != j]
    receiver, sender = torch.tensor(pairs, device=device).t().contiguous()
    yield ProbeEdges("all pairs of two events", 7, receiver, sender)


class Numbers:
    """Random float64 tables. PyTorch's own random state is not touched."""

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)

    def table(self, *shape: int, scale: float = 1.0) -> Tensor:
        values = scale * torch.randn(*shape, generator=self.generator, dtype=torch.float64)
        return values.to(self.device)


def odd_mask(device: torch.device) -> Tensor:
    """A mask [3, 4, 4, 1] that is not one of pairs."""
    k = torch.arange(48, device=device).view(3, 4, 4, 1)
    return (k * k) % 7 < 4


def probe_mask(device: torch.device) -> tuple[Tensor, Tensor]:
    """Real particles of three events [3, 4], of one the second missing, and their pairs [3, 4, 4, 1]."""
    real = torch.tensor([[1, 0, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool, device=device)
    return real, (real[:, :, None] & real[:, None, :])[..., None]
