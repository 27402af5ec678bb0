"""Jets and hit graphs as LightningDataModules."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from .. import data
from ..checks import fail
from ..data import HitGraph, Jets
from ..data.loader import Batches
from .config import Config
from .tasks import TASKS, Hits, JetBatch


class EventData(lightning.LightningDataModule):
    """Events of a configuration's files: for training, validation and test.

    The order of an epoch depends on the seed and the number of the epoch alone, so that training that was interrupted
    goes on as it would have.

    Attributes:
        parts: name -> events.
        events_read, seconds_of_reading: of all files so far.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.parts: dict[str, Any] = {}
        self.events_read, self.seconds_of_reading = 0, 0.0

    def setup(self, stage: str | None = None) -> None:
        """Reads the files, once.

        Raises:
            ValueError: no file where one is needed, no events, or events of one class.
        """
        d, seed = self.config.data, self.config.training.seed
        if stage in ("fit", "validate", None) and "train" not in self.parts:
            if d.train is None:
                fail("config", "data.train", "a file", "None")
            events = self._read(d.train)
            if d.validation is None:
                order = torch.randperm(len(events), generator=torch.Generator().manual_seed(seed))
                held = round(len(events) * d.validation_fraction)
                self.parts["validation"] = self.take(events, order[:held].sort().values)
                events = self.take(events, order[held:].sort().values)
            else:
                self.parts["validation"] = self._read(d.validation)
            if d.limit is not None:
                events = self.take(events, torch.arange(min(d.limit, len(events))))
            self.parts["train"] = events
            for name in ("train", "validation"):
                self.check(f"data.{name}", self.parts[name])
        if stage == "test" and "test" not in self.parts:
            if d.test is None:
                fail("config", "data.test", "a file", "None")
            self.parts["test"] = self._read(d.test)
            self.check("data.test", self.parts["test"])

    def train_dataloader(self) -> Any:
        return self.loader("train", shuffle=True)

    def val_dataloader(self) -> Any:
        return self.loader("validation", shuffle=False)

    def test_dataloader(self) -> Any:
        return self.loader("test", shuffle=False)

    def loader(self, part: str, shuffle: bool) -> Any:
        """Batches of a part's events; of each process its share."""
        d, events, trainer = self.config.data, self.parts[part], self.trainer
        rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        if not shuffle:  # no event twice, as processes of equal shares would have it
            return self.batches(self.take(events, torch.arange(rank, len(events), world)), {"workers": d.workers})
        options = {"shuffle": True, "bucket": d.bucket, "seed": self.config.training.seed, "workers": d.workers}
        return self.batches(events, {**options, "shard": (rank, world)})

    def batches(self, events: Any, options: dict[str, Any]) -> Any:
        """A DataLoader; options are those of :meth:`equikernels.data.Jets.loader`."""
        raise NotImplementedError

    def _read(self, path: str) -> Any:
        start = time.perf_counter()
        events = self.read(path)
        self.seconds_of_reading += time.perf_counter() - start
        self.events_read += len(events)
        return events

    def read(self, path: str) -> Any:
        raise NotImplementedError

    @staticmethod
    def take(events: Any, index: torch.Tensor) -> Any:
        raise NotImplementedError

    @staticmethod
    def batch(events: Any) -> Any:
        return events

    def check(self, where: str, events: Any) -> None:
        raise NotImplementedError


class JetData(EventData):
    """Jets of files that :func:`equikernels.data.read_jets` reads."""

    def read(self, path: str) -> Jets:
        return data.read_jets(path, max_constituents=self.config.data.max_constituents)

    @staticmethod
    def take(events: Jets, index: torch.Tensor) -> Jets:
        return events[index]

    @staticmethod
    def batch(events: Jets) -> JetBatch:
        return JetBatch(events.p4, events.ptr, events.label, events.features.get("pdg_id"))

    def batches(self, events: Jets, options: dict[str, Any]) -> Any:
        return events.loader(self.config.data.batch_size, collate_fn=self.batch, **options)

    def check(self, where: str, events: Jets) -> None:
        if len(events) == 0:
            fail("config", where, "at least one jet", "none")
        _check_classes(where, events.label)


class MomentumData(JetData):
    """Jets with the four-momentum of the W boson in them, ``truth["W"]``, which is the label of a batch."""

    @staticmethod
    def batch(events: Jets) -> JetBatch:
        return JetBatch(events.p4, events.ptr, events.truth["W"])

    def check(self, where: str, events: Jets) -> None:
        if len(events) == 0:
            fail("config", where, "at least one jet", "none")
        if "W" not in events.truth:
            fail("config", where, "jets with the array truth_W, as `equikernels generate jets --kind w` makes", "none")


class HitData(EventData):
    """Hit graphs: "sample" for those of the package, an npz file of :func:`equikernels.data.save_hit_graphs`, or a
    folder of events that :func:`equikernels.data.load_trackml` reads."""

    def read(self, path: str) -> list[HitGraph]:
        if path == "sample":
            return data.load_sample_hit_graphs()
        if Path(path).suffix == ".npz":
            return data.load_hit_graphs(path)
        found = sorted({p.name.split("-")[0] for p in Path(path).glob("event*-hits.csv*")})
        if not found:
            fail("config", "data", "a folder of TrackML events, an npz file of hit graphs, or 'sample'", path)
        return [data.hit_graph(data.load_trackml(Path(path) / name)) for name in found]

    @staticmethod
    def take(events: list[HitGraph], index: torch.Tensor) -> list[HitGraph]:
        return [events[k] for k in index.tolist()]

    @staticmethod
    def batch(events: list[HitGraph]) -> Hits:
        return Hits.of(events)

    def batches(self, events: list[HitGraph], options: dict[str, Any]) -> Any:
        workers = options.pop("workers")
        sizes = torch.tensor([len(event.x) for event in events])
        batches = Batches(sizes, self.config.data.batch_size, **options)
        rest: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0, "collate_fn": self.batch}
        return DataLoader(events, batch_sampler=batches, **rest)  # type: ignore[arg-type]

    def check(self, where: str, events: list[HitGraph]) -> None:
        if len(events) == 0:
            fail("config", where, "at least one event", "none")
        _check_classes(where, torch.cat([event.y for event in events]).long())


def _check_classes(where: str, label: torch.Tensor) -> None:
    found = label.unique().tolist()
    if found != [0, 1]:
        fail("config", where, "events of both classes, labels 0 and 1", f"labels {found}")


def data_of(config: Config) -> EventData:
    kinds = {"jets": JetData, "identified": JetData, "momenta": MomentumData, "hits": HitData}
    return kinds[TASKS[config.network].data](config)
