"""Plans the measurements of a network: rows with names, so that a filter selects them before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from . import memory
from .machine import machine
from .records import unit_of
from .side_by_side import PUBLISHED, Sides

Entry = dict[str, Any]
Rounds = Callable[[], tuple[int, int]]
MakeSides = Callable[[], Sides]


@dataclass(frozen=True)
class Setting:
    threads: int = 2
    quick: bool = False
    device: str = "cpu"


@dataclass(frozen=True)
class Row:
    """A row before it is measured.

    Args:
        what: its name.
        measure: (name) -> its fields; "left_out": reasons why some or all are missing; memory.KEY: rows of memory.
        baseline: the side of its other time; None if there is none.
    """

    what: str
    measure: Callable[[str], Entry]
    baseline: str | None = PUBLISHED

    @property
    def name(self) -> str:
        return self.what + (f", against {self.baseline}" if self.baseline else "")

    def with_fields(self, **fields: Any) -> Row:
        return replace(self, measure=lambda what: {**self.measure(what), **fields})


@dataclass(frozen=True)
class Plan:
    """All measurements of one network.

    Args:
        rows: in the order of the tables.
        check: raises if results of both sides disagree; runs before any row.
        steps: name -> (sides, small sides for warm-up) of training steps whose peak memory is a row.
        about: (measured rows) -> further fields of the document.
        threads: PyTorch's threads where they are not the setting's.
    """

    rows: list[Row]
    check: Callable[[], object]
    steps: Mapping[str, Callable[[], tuple[Sides, Sides]]] = field(default_factory=dict)
    about: Callable[[list[Entry]], Entry] = lambda rows: {}
    threads: int | None = None

    def all_rows(self, network: str, setting: Setting) -> list[Row]:
        """Including rows of peak memory."""

        def peak(name: str) -> Row:
            what = memory.TITLE + (f", {name}" if name else "")
            return Row(what, lambda _: {memory.KEY: self.peaks(network, name, setting)}, None)

        return [*self.rows, *map(peak, self.steps)]

    def peaks(self, network: str, name: str, setting: Setting) -> list[Entry]:
        if setting.device != "cpu":
            return memory.on_device(name, self.steps[name]()[0].to(setting.device).step)
        return memory.peaks(network, name, setting.threads, setting.quick)


def names(network: str, plan: Plan, setting: Setting) -> list[str]:
    return [f"{network}/{row.name}" for row in plan.all_rows(network, setting)]


def wanted(name: str, texts: Iterable[str]) -> bool:
    """Whether a text selects "network/row, against baseline": no text selects all, several select the union."""
    texts = list(texts)
    return not texts or any(text in name for text in texts)


def measure(network: str, plan: Plan, setting: Setting, texts: Iterable[str] = ()) -> Entry:
    """The document of a network's selected rows; others do not run."""
    threads = plan.threads or setting.threads
    torch.set_num_threads(threads)
    document: Entry = machine(network, threads, setting.device)
    rows, texts = plan.all_rows(network, setting), list(texts)
    chosen = [row for row in rows if wanted(f"{network}/{row.name}", texts)]
    document |= {"filter": texts} if len(chosen) < len(rows) else {}
    found: list[Entry] = []
    left_out: list[str] = []
    peaks: list[Entry] = []
    plan.check()
    for row in chosen:
        entry = row.measure(row.what)
        left_out += [f"{row.what}: {reason}" for reason in entry.pop("left_out", [])]
        peaks += entry.get(memory.KEY, [])
        found += [entry] if unit_of(entry) else []
    return document | plan.about(found) | {"rows": found, memory.KEY: peaks, "left_out": left_out}


def pair(sides: MakeSides, name: str, rounds: Rounds) -> list[Row]:
    """Forward pass and training step of sides that are made on first use."""

    def forward(what: str) -> Entry:
        difference = sides().agree()
        return {**sides().time(what, sides().forward, rounds()), "difference": difference}

    def step(what: str) -> Entry:
        ours, theirs = sides().errors()
        if theirs > 0.1:
            return {"left_out": [f"the baseline's gradients are {100 * theirs:.0f} % off"]}
        errors = {"gradient_error": ours, "published_gradient_error": theirs}
        return {**sides().time(what, sides().step, rounds()), **errors}

    return [Row(f"forward, {name}", forward), Row(f"training step, {name}", step)]
