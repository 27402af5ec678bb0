"""Runs a study: says how long it will take, resumes where it was stopped, writes JSON, a table and a plot."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from equikernels.checks import fail

from ..machine import machine
from .events import events_of
from .study import Job, Place, Results, Study

Document = dict[str, Any]


def run(
    study: Study,
    full: bool,
    output: Path,
    files: Sequence[Path] = (),
    threads: int = 2,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
) -> Results:
    """Runs the jobs of a study that have no result in the output folder, and writes ``NAME.json`` after each.

    Args:
        study: what is run.
        full: the published sizes, instead of a few minutes.
        output: folder of results; simulated events are kept in ``data`` below it.
        files: the user's events.
        threads: that PyTorch uses, for the record.
        say: shows a line of progress.

    Raises:
        ValueError: the folder has results of other events or of the other kind of run.
    """
    output.mkdir(parents=True, exist_ok=True)
    say(f"{study.name}: {study.asks}")
    events = None if study.data is None else events_of(study.data, full, files, output / "data")
    kind = {"kind": "full" if full else "quick", "events": None if events is None else events.about}
    path = output / f"{study.name}.json"
    document = _document(path, {**machine(study.name, threads), **kind, "records": {}}, kind)
    jobs = study.points(full)
    waiting = pending(jobs, document)
    if jobs[len(waiting) :]:
        say(f"{len(jobs) - len(waiting)} of {len(jobs)} jobs have results in {path}")
    times = Times(study, document, Place(events, output / "jobs" / study.name / "estimate"))
    if waiting:
        say(f"{len(waiting)} jobs: {times.of(waiting)}")
    for number, job in enumerate(waiting):
        start = time.perf_counter()
        numbers = study.run(job, Place(events, _empty(output / "jobs" / study.name / job.key.replace("/", "_"))))
        seconds = time.perf_counter() - start
        document["records"][job.key] = {"job": job.as_dict(), "seconds": round(seconds, 2), "numbers": numbers}
        _write(path, text(document))
        left = f"; left: {times.of(waiting[number + 1 :])}" if number + 1 < len(waiting) else ""
        say(f"[{number + 1}/{len(waiting)}] {job.key}: {brief(numbers)}, {seconds:.0f} s{left}")
    results = Results(document)
    _write(output / f"{study.name}.md", f"{study.table(results)}\n")
    study.plot(results, output / f"{study.name}.png")
    return results


def pending(jobs: Sequence[Job], document: Document) -> list[Job]:
    """Those without a result; a result of other values counts as none."""
    keys = [job.key for job in jobs]
    if len(set(keys)) != len(keys):
        fail("study", "points", "jobs of different keys", sorted({key for key in keys if keys.count(key) > 1}))
    records = document["records"]
    return [job for job in jobs if records.get(job.key, {}).get("job") != job.as_dict()]


class Times:
    """How long jobs take: from results of their group, else from a few timed steps."""

    def __init__(self, study: Study, document: Document, place: Place) -> None:
        self.study, self.document, self.place = study, document, place
        self.timed: dict[str, float | None] = {}

    def seconds(self, job: Job) -> float | None:
        records = self.document["records"].values()
        found = [record["seconds"] for record in records if record["job"]["group"] == job.group]
        if found:
            return float(sum(found) / len(found))
        if job.group not in self.timed:
            _empty(self.place.folder)
            self.timed[job.group] = self.study.seconds(job, self.place)
        return self.timed[job.group]

    def of(self, jobs: Sequence[Job]) -> str:
        """In words."""
        seconds = [self.seconds(job) for job in jobs]
        known = [value for value in seconds if value is not None]
        unknown = len(seconds) - len(known)
        parts = [f"about {minutes(sum(known))}"] if known else []
        return ", and ".join(parts + ([f"{unknown} jobs whose time is not known before they run"] if unknown else []))


def minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
