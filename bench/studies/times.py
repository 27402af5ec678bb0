"""Says how long a study's jobs take: from results of their group, else from a few timed steps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

from .study import Job, Place, Study
from .workers import Workers, minutes


class Estimate(NamedTuple):
    """Of some jobs: seconds of those whose time is known, beside one another, or None; how many others there are."""

    seconds: float | None
    unknown: int


class Times:
    """The times of a study's jobs.

    Args:
        study: of the jobs.
        document: the study's records so far; read at every call.
        place: where steps are timed.
        workers: what runs the jobs.
    """

    def __init__(self, study: Study, document: dict[str, Any], place: Place, workers: Workers) -> None:
        self.study, self.document, self.place, self.workers = study, document, place, workers
        self.timed: dict[str, float | None] = {}

    def seconds(self, job: Job) -> float | None:
        """Of one job alone; a training that is there takes no time."""
        records = self.document["records"].values()
        found = [record["seconds"] for record in records if record["job"]["group"] == job.group]
        if found:
            return float(sum(found) / len(found))
        training, trainings = self.study.training(job, self.place.events), self.place.trainings
        if training is not None and trainings is not None and (trainings / training).exists():
            return 0.0
        if job.group not in self.timed:
            shutil.rmtree(self.place.folder, ignore_errors=True)
            self.place.folder.mkdir(parents=True)
            self.timed[job.group] = self.study.seconds(job, self.place)
        return self.timed[job.group]

    def of(self, jobs: Sequence[Job], seen: set[str] | None = None) -> Estimate:
        """Of jobs that are not done.

        Args:
            jobs: of the study.
            seen: trainings that other jobs make before, which take no time; these jobs' are added.
        """
        seen = set() if seen is None else seen
        seconds = []
        for job in jobs:
            training = self.study.training(job, self.place.events)
            seconds.append(0.0 if training in seen else self.seconds(job))
            if training is not None:
                seen.add(training)
        known = [value for value in seconds if value is not None]
        whole = sum(known) / min(self.workers.number, max(len(known), 1)) if known else None
        return Estimate(whole, len(seconds) - len(known))


def in_words(estimates: Sequence[Estimate]) -> str:
    """Of jobs that run one after the other."""
    known = [e.seconds for e in estimates if e.seconds is not None]
    unknown = sum(e.unknown for e in estimates)
    parts = [f"about {minutes(sum(known))}"] if known else []
    return ", and ".join(parts + ([f"{unknown} jobs whose time is not known before they run"] if unknown else []))
