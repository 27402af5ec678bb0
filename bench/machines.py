"""The README's ratios on every machine whose results are committed: bench/results and its folder machines."""

from __future__ import annotations

from collections.abc import Iterator

from .compare import MACHINES
from .readme import OTHERS, RESULTS, TABLES, ratio_of
from .records import Document, machine_line

FOLDER = RESULTS / MACHINES


def machines(results: dict[str, Document]) -> str:
    """A column of ratios for each machine; the rate of multiply-adds and of a copy in its head."""
    every = each_machine(results)
    if not every:
        return "Not measured yet."
    names = list(dict.fromkeys(name for of in every for name, _ in _rows(of)))
    heads = [head_of(of["lorentznet"]) for of in every]
    found = [dict(_rows(of)) for of in every]
    lines = [f"| ratio | {' | '.join(heads)} |", "|---" * (len(every) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(of.get(name, '') for of in found)} |" for name in names]
    return "\n".join(lines)


def each_machine(results: dict[str, Document]) -> list[dict[str, Document]]:
    """The results of every machine, those of bench/results first."""
    return [of for of in (results, *results.get(MACHINES, {}).values()) if "lorentznet" in of]


def head_of(document: Document) -> str:
    """The machine, its rate of multiply-adds and of a copy, as the head of a column."""
    rates = document["ceilings"]
    line = machine_line(document).replace(", ", ",<br>")
    return f"{line}: {rates['multiply_adds_gflops']:.0f} GFLOP/s, {rates['copy_gb_per_s']:.0f} GB/s"


def _rows(results: dict[str, Document]) -> Iterator[tuple[str, str]]:
    for table in TABLES:
        for line, row in table.rows(results[table.network]):
            yield f"{table.network}: {line.label}", ratio_of(row["ratio"])
    for network, title in OTHERS.items():
        for row in results.get(network, {"rows": []})["rows"][:2]:
            yield f"{title}: {row['what']}", ratio_of(row["ratio"])
