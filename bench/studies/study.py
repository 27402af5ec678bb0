"""The interface of a study: jobs that do not depend on each other, the numbers that each gives, a table and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from equikernels.metrics import Spread, spread

from .events import Events

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A piece of work that depends on no other: a training and its evaluations, or a measurement.

    Attributes:
        group: what is compared, such as "LorentzNet"; the jobs of a group differ by their seed alone. Tables show mean
            and spread over them, and they are taken to last equally long.
        seed: of all random numbers.
        values: what :meth:`Study.run` needs beside the seed, as JSON has it; kept with the result.
    """

    group: str
    seed: int = 0
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The job's name in the results."""
        return f"{self.group}, seed {self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """Equal for equal jobs, after JSON too."""
        found: dict[str, Any] = json.loads(json.dumps({"group": self.group, "seed": self.seed, "values": self.values}))
        return found


class Place(NamedTuple):
    """Where a job runs.

    Attributes:
        events: what it is trained and evaluated on; None if the study reads none.
        folder: of the job's own files, new and empty.
        trainings: of finished trainings, which studies share; None: there are none, and none are kept.
    """

    events: Events | None
    folder: Path
    trainings: Path | None = None


class Published(NamedTuple):
    """A number of a paper, made with other data: its text and its source, such as ("0.9868", "S0 T1")."""

    text: str
    source: str


class Study:
    """A question with the jobs that answer it. One file and one instance each; ``STUDIES`` lists them.

    Attributes:
        name: of the command line and of files.
        asks: the question, in a sentence.
        source: tables and figures of papers that ask the same.
        data: "jets", "hits", "momenta" or "identified"; None for a study without events.
        alone: whether jobs run one after the other with all threads, because they measure time.
    """

    name: ClassVar[str]
    asks: ClassVar[str]
    source: ClassVar[str]
    data: ClassVar[str | None] = "jets"
    alone: ClassVar[bool] = False

    def points(self, full: bool) -> list[Job]:
        """The jobs, in the order in which they run: all groups with the first seed come before the second seed."""
        raise NotImplementedError

    def run(self, job: Job, place: Place) -> Numbers:
        """The job's numbers, as JSON has them."""
        raise NotImplementedError

    def seconds(self, job: Job, place: Place) -> float | None:
        """About how long the job takes, from a few timed steps; None if nothing short tells it."""
        return None

    def training(self, job: Job, events: Events | None) -> str | None:
        """A name of the training that the job evaluates, equal for equal ones; None for jobs of other kinds."""
        return None

    def table(self, results: Results) -> str:
        """Markdown, with published numbers beside, where there are any."""
        raise NotImplementedError

    def plot(self, results: Results, path: Path) -> None:
        """Writes a PNG; nothing where there is nothing to plot."""


class Results:
    """The numbers of a study's finished jobs.

    Args:
        document: as the runner writes it.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.groups: dict[str, list[Numbers]] = {}
        for record in document["records"].values():
            self.groups.setdefault(record["job"]["group"], []).append(record["numbers"])

    def jobs(self, *order: str) -> list[tuple[str, dict[str, Any]]]:
        """(group, values of its jobs), sorted by these of the values."""
        found = {r["job"]["group"]: r["job"]["values"] for r in self.document["records"].values()}
        return sorted(found.items(), key=lambda item: [item[1][name] for name in order])

    def spread(self, group: str, name: str) -> Spread | None:
        """Of a number over a group's seeds; None where no job has it. Infinite and missing values are left out."""
        return spread_of(found.get(name) for found in self.groups.get(group, []))

    def curve(self, group: str, name: str) -> list[Spread]:
        """The same of a list of numbers, place by place."""
        lists = [found[name] for found in self.groups.get(group, []) if name in found]
        return [s for values in zip(*lists, strict=True) if (s := spread_of(values)) is not None]


def spread_of(values: Iterable[float | None]) -> Spread | None:
    numbers = [float(value) for value in values if value is not None and math.isfinite(value)]
    return spread(numbers) if numbers else None


def seeds(full: bool) -> range:
    """Repetitions: five, or three of a quick run."""
    return range(5 if full else 3)
