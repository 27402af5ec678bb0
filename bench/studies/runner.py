"""Runs studies: says how long they will take, resumes where they were stopped, writes JSON, a table and a plot."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from equikernels.checks import fail

from ..machine import machine
from .events import events_of, simulate
from .study import Job, Numbers, Place, Results, Study
from .times import Times, in_words
from .workers import Workers

Document = dict[str, Any]


def run(
    studies: Sequence[Study],
    full: bool,
    output: Path,
    files: Sequence[Path] = (),
    threads: int = 1,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Iterator[tuple[Study, Results]]:
    """Runs the jobs of studies that have no result in the output folder, and writes ``NAME.json`` after each.

    Args:
        studies: what is run, one after the other.
        full: the published sizes, instead of a few minutes.
        output: folder of results; simulated events are kept in ``data`` below it, trainings in ``trainings``.
        files: the user's events.
        threads: so many jobs run side by side, each with one thread; those of a study that is alone one after the
            other, with all threads.
        say: shows a line of progress.

    Yields:
        Each study when it is done, with its results.

    Raises:
        ValueError: the folder has results of other events or of the other kind of run.
    """
    output.mkdir(parents=True, exist_ok=True)
    with Workers(threads) as workers:
        if not files:
            simulate([s.data for s in studies if s.data is not None], full, output / "data", workers, say)
        runs = [Run(study, full, output, files, workers, say) for study in studies]
        if len(runs) > 1:
            seen: set[str] = set()
            jobs = sum(len(of.waiting) for of in runs)
            say(f"{len(runs)} studies, {jobs} jobs: {in_words([of.times.of(of.waiting, seen) for of in runs])}")
        for of in runs:
            yield of.study, of.finish()


class Run:
    """A study in an output folder: what is left of it, how long that takes, and doing it."""

    def __init__(
        self,
        study: Study,
        full: bool,
        output: Path,
        files: Sequence[Path],
        workers: Workers,
        say: Callable[[str], None],
    ) -> None:
        self.study, self.output, self.say = study, output, say
        self.threads = workers.number if study.alone else 1
        self.workers = Workers() if study.alone else workers
        self.events = None if study.data is None else events_of(study.data, full, files, output / "data")
        kind = {"kind": "full" if full else "quick", "events": None if self.events is None else self.events.about}
        self.path = output / f"{study.name}.json"
        new = {**machine(study.name, self.threads), **kind, "records": {}}
        self.document = _document(self.path, new, kind)
        self.jobs = study.points(full)
        self.waiting = pending(self.jobs, self.document)
        self.times = Times(study, self.document, self.place("estimate"), self.workers)

    def place(self, key: str) -> Place:
        folder = self.output / "jobs" / self.study.name / key.replace("/", "_")
        return Place(self.events, folder, self.output / "trainings")

    def finish(self) -> Results:
        """Runs what is left: of each seed the longest jobs first, so that none ends long after the others."""
        study, say, left = self.study, self.say, list(self.waiting)
        torch.set_num_threads(self.threads)
        say(f"{study.name}: {study.asks}")
        if len(left) < len(self.jobs):
            say(f"{len(self.jobs) - len(left)} of {len(self.jobs)} jobs have results in {self.path}")
        if left:
            say(f"{len(left)} jobs: {in_words([self.times.of(left)])}")
        waiting = sorted(left, key=lambda job: (job.seed, -(self.times.seconds(job) or 0.0)))
        for k, (numbers, seconds) in self.workers.each(work, [(study, job, self.place(job.key)) for job in waiting]):
            job = waiting[k]
            left.remove(job)
            self.keep(job, {"job": job.as_dict(), "seconds": round(seconds, 2), "numbers": numbers})
            rest = f"; left: {in_words([self.times.of(left)])}" if left else ""
            say(f"[{len(waiting) - len(left)}/{len(waiting)}] {job.key}: {brief(numbers)}, {seconds:.0f} s{rest}")
        results = Results(self.document)
        _write(self.output / f"{study.name}.md", f"{study.table(results)}\n")
        study.plot(results, self.output / f"{study.name}.png")
        return results

    def keep(self, job: Job, record: dict[str, Any]) -> None:
        """Writes a record; records are in the order of the study's jobs, whichever ended first."""
        records = {**self.document["records"], job.key: record}
        order = {job.key: k for k, job in enumerate(self.jobs)}
        self.document["records"] = dict(sorted(records.items(), key=lambda item: order.get(item[0], len(order))))
        _write(self.path, text(self.document))


def work(study: Study, job: Job, place: Place) -> tuple[Numbers, float]:
    """A job's numbers and how long it took; in a process of its own or in this one.

    The time of one thread is the processor's, which other work on the machine does not lengthen.
    """
    shutil.rmtree(place.folder, ignore_errors=True)
    place.folder.mkdir(parents=True)
    clock = time.perf_counter if study.alone else time.process_time
    start = clock()
    return study.run(job, place), clock() - start


def pending(jobs: Sequence[Job], document: Document) -> list[Job]:
    """Those without a result; a result of other values counts as none."""
    keys = [job.key for job in jobs]
    if len(set(keys)) != len(keys):
        fail("study", "points", "jobs of different keys", sorted({key for key in keys if keys.count(key) > 1}))
    records = document["records"]
    return [job for job in jobs if records.get(job.key, {}).get("job") != job.as_dict()]


def brief(numbers: dict[str, Any]) -> str:
    """The first numbers that say how good a network is."""
    names = [name for name in ("accuracy", "auc") if isinstance(numbers.get(name), float)]
    return ", ".join(f"{name} {numbers[name]:.4f}" for name in names) or "done"


def text(document: Document) -> str:
    """JSON with a line for each job."""
    rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(record)}" for key, record in document["records"].items())
    head = json.dumps({**document, "records": {}}, indent=1)
    return head.replace('"records": {}', f'"records": {{\n{rows}\n }}') + "\n"


def _document(path: Path, new: Document, kind: dict[str, Any]) -> Document:
    if not path.is_file():
        return new
    found: Document = json.loads(path.read_text())
    for name, value in kind.items():
        if found.get(name) != value:
            expected = f"no results, or results of {value}"
            fail("study", "--output", f"a folder with {expected}", f"{path} of {found.get(name)}")
    return found


def _write(path: Path, content: str) -> None:
    """All or nothing: a run may be stopped while it writes."""
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(content)
    partial.replace(path)
