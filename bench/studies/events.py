"""Events of a study: the user's files, or simulated ones that are kept in the output folder."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from equikernels.checks import fail
from equikernels.data import (
    HitGraph,
    Jets,
    hit_graph,
    load_hit_graphs,
    load_sample_hit_graphs,
    load_sample_jets,
    load_trackml,
    read_jets,
    save_hit_graphs,
)

from .workers import Workers, minutes

PARTS = ("train", "validation", "test")


class Sizes(NamedTuple):
    """Events of each part."""

    train: int
    validation: int
    test: int


SIZES = {
    ("jets", False): Sizes(4_000, 1_000, 5_000),
    ("jets", True): Sizes(60_000, 10_000, 50_000),
    ("momenta", False): Sizes(3_000, 500, 2_000),
    ("momenta", True): Sizes(60_000, 10_000, 20_000),
    ("identified", False): Sizes(3_000, 500, 3_000),
    ("identified", True): Sizes(60_000, 10_000, 50_000),
    ("hits", False): Sizes(24, 6, 20),
    ("hits", True): Sizes(300, 50, 150),
}
# To simulate an event, about, in a process of the machine of docs/equivariance.md.
SECONDS = {"jets": 0.01, "momenta": 0.012, "identified": 0.07, "hits": 0.7}
KINDS = {"momenta": "w", "identified": "quark_gluon"}  # of jets, which the package has no sample of
SEED = 20  # of simulated events
SHARES = (0.6, 0.1, 0.3)  # of one file of the user's, or of the sample


@dataclass(frozen=True)
class Events:
    """Files of three parts, as :class:`equikernels.train.config.DataConfig` takes them.

    Attributes:
        train, validation, test: paths.
        about: a line on what they are; results of other events are not mixed with these.
    """

    train: str
    validation: str
    test: str
    about: str


def events_of(data: str, full: bool, files: Sequence[Path], folder: Path) -> Events:
    """The user's files (one, which is cut; training and test; or training, validation and test), or simulated ones."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(files) == 3:
        about = f"your {data}: " + ", ".join(str(path) for path in files)
        return Events(*(str(path) for path in files), about)
    if len(files) > 3:
        fail("study", "--data", "one file; training and test; or training, validation and test", f"{len(files)} files")
    if files:
        whole = read_hits(files[0]) if data == "hits" else read_jets(files[0])
        shares = (0.9, 0.1) if len(files) == 2 else SHARES
        found = write(folder, f"cut_{files[0].stem}", cut(whole, shares))
        about = f"your {data}: " + ", ".join(f"{path} ({size(path):,} bytes)" for path in files)
        return Events(*(str(path) for path in [*found, *files[1:]]), about)
    return simulated(data, full, folder)


def simulated(data: str, full: bool, folder: Path) -> Events:
    """Those of :func:`simulate`, or what the package has of that kind."""
    sizes, paths = SIZES[data, full], paths_of(data, full, folder)
    if all(path.is_file() for path in paths):
        about = f"simulated {data}, seeds from {SEED} on: {', '.join(f'{n:,}' for n in sizes)} ({', '.join(PARTS)})"
        return Events(*map(str, paths), about)
    whole = load_sample_jets() if data == "jets" else load_sample_hit_graphs()
    shares = SHARES if data == "jets" else (0.4, 0.2, 0.4)
    sample = write(folder, f"{data}_sample", cut(whole, shares))
    return Events(*map(str, sample), f"the package's sample of {len(whole):,} {data}")


def simulate(kinds: Iterable[str], full: bool, folder: Path, workers: Workers, say: Callable[[str], None]) -> None:
    """Writes the parts that the folder has not. Each has a seed of its own: how many workers there are changes nothing.

    Without the extra ``generate`` nothing is written, where a quick run can do with the package's sample.
    """
    missing = [
        (SECONDS[data] * number, data, number, SEED + k, path)
        for data in sorted(set(kinds))
        for k, (number, path) in enumerate(zip(SIZES[data, full], paths_of(data, full, folder), strict=True))
        if not path.is_file()
    ]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    whole = sum(seconds for seconds, *_ in missing) / workers.number
    names = ", ".join(sorted({data for _, data, *_ in missing}))
    say(f"events are simulated ({names}): about {minutes(whole)}")
    missing.sort(key=lambda part: -part[0])
    try:
        for k, _ in workers.each(_write_part, [part[1:] for part in missing]):
            say(f"written: {missing[k][-1]}")
    except ImportError:
        if full or any(data in KINDS for _, data, *_ in missing):
            raise


def paths_of(data: str, full: bool, folder: Path) -> list[Path]:
    return [folder / f"{data}_{'full' if full else 'quick'}_{part}.npz" for part in PARTS]


def _write_part(data: str, number: int, seed: int, path: Path) -> None:
    save_events(path, _generate(data, number, seed))


def _generate(data: str, number: int, seed: int) -> Jets | list[HitGraph]:
    from equikernels.generate import generate_hits, generate_jets

    if data != "hits":
        return generate_jets(number, seed, KINDS.get(data, "top"))
    return [hit_graph(event) for event in generate_hits(number, seed)]


def read_hits(path: Path) -> list[HitGraph]:
    """Hit graphs of an npz file, or of a folder of TrackML events."""
    if path.suffix == ".npz":
        return load_hit_graphs(path)
    names = sorted({p.name.split("-")[0] for p in path.glob("event*-hits.csv*")})
    return [hit_graph(load_trackml(path / name)) for name in names]


def cut(events: Jets | list[HitGraph], shares: Sequence[float]) -> list[Jets | list[HitGraph]]:
    """Disjoint parts, in an order that a fixed seed determines."""
    order = torch.randperm(len(events), generator=torch.Generator().manual_seed(SEED))
    ends = (torch.tensor([0.0, *shares]).double().cumsum(0) * len(events)).round().long().tolist()
    rows = [order[low:high] for low, high in itertools.pairwise(ends)]
    if isinstance(events, Jets):
        return [events[part] for part in rows]
    return [[events[k] for k in part.tolist()] for part in rows]


def write(folder: Path, name: str, parts: Sequence[Jets | list[HitGraph]]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}_{part}.npz" for part in PARTS[: len(parts)]]
    for path, events in zip(paths, parts, strict=True):
        save_events(path, events)
    return paths


def save_events(path: Path, events: Jets | list[HitGraph]) -> None:
    """An npz file that a configuration of training names; complete or absent."""
    partial = path.with_suffix(".partial")
    events.save(partial) if isinstance(events, Jets) else save_hit_graphs(partial, events)
    partial.rename(path)


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.glob("event*"))
