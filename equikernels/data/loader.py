"""Batches of jets for a torch DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from ..checks import check_integer, fail
from .jets import Jets

OP = "Jets.loader"


class JetDataset(Dataset[Jets]):
    """Jets by their indices; a list of indices is one batch."""

    def __init__(self, jets: Jets) -> None:
        self.jets = jets

    def __len__(self) -> int:
        return len(self.jets)

    def __getitem__(self, index: int) -> Jets:
        return self.jets[[index]]

    def __getitems__(self, indices: Sequence[int]) -> Jets:
        return self.jets[indices]


def first(batch: Any) -> Any:
    """The batch: it is packed already."""
    return batch


class Batches(Sampler[list[int]]):
    """Indices of the events of each batch; see :meth:`Jets.loader`.

    Every iteration is the next epoch; ``set_epoch`` names it, for a run that continues another.
    """

    def __init__(
        self,
        counts: Tensor,
        batch_size: int,
        shuffle: bool = False,
        bucket: int = 0,
        seed: int = 0,
        drop_last: bool = False,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        check_integer(OP, "batch_size", batch_size, "at least 1", 1)
        check_integer(OP, "bucket", bucket, "a number of batches, at least 0", 0)
        if bucket and not shuffle:
            fail(OP, "bucket", "0 without shuffle, which keeps the order", bucket)
        rank, processes = shard
        if not 0 <= rank < processes:
            fail(OP, "shard", "(rank, number of processes)", shard)
        self.counts, self.batch_size, self.shuffle, self.bucket = counts, batch_size, shuffle, bucket
        self.seed, self.drop_last, self.shard, self.epoch = seed, drop_last, shard, 0

    @property
    def sampler(self) -> Batches:
        """This object: trainers call ``loader.batch_sampler.sampler.set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def _together(self) -> int:
        """Events of the batches of all processes."""
        return self.batch_size * self.shard[1]

    def __len__(self) -> int:
        events, size = len(self.counts), self._together
        return events // size if self.drop_last else -(-events // size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        self.epoch += 1
        rank, processes = self.shard
        for batch in self._batches(generator):
            yield batch[rank::processes].tolist()

    def _batches(self, generator: torch.Generator) -> list[Tensor]:
        """Of all processes together, each of a multiple of their number."""
        events, size = len(self.counts), self._together
        order = torch.randperm(events, generator=generator) if self.shuffle else torch.arange(events)
        missing = -events % self.shard[1] if events else 0
        order = torch.cat([order, order.repeat(missing)[:missing]])
        if not self.bucket:
            return list(order.split(size))[: len(self)]
        batches: list[Tensor] = []
        for pool in order.split(size * self.bucket):
            batches += pool[self.counts[pool].argsort(stable=True)].split(size)
        # the pools cut one list: only the last batch of the last pool may be smaller
        batches = batches[: len(self)]
        return [batches[k] for k in torch.randperm(len(batches), generator=generator).tolist()]
