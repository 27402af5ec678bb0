"""Reads results and writes them as text. A file has the document of one network, or several under "networks"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from .memory import KEY as MEMORY
from .memory import TITLE
from .side_by_side import OURS, PUBLISHED

Document = dict[str, Any]
ON_GPU = " on a GPU"


def documents(path: Path) -> dict[str, Document]:
    """Network -> its document, from a file or a folder; documents of a GPU have the name "network on a GPU"."""
    found: dict[str, Document] = {}
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        content = json.loads(file.read_text())
        for network, document in content.get("networks", {content.get("network", file.stem): content}).items():
            on_gpu = document["machine"].get("device", "cpu") != "cpu"
            found[f"{network}{ON_GPU if on_gpu else ''}"] = {"network": network, **document}
    return found


def unit_of(row: dict[str, Any]) -> str | None:
    """Of a row's numbers, "ms" or "calls"; None where ours was not measured."""
    return next((unit for unit in ("ms", "calls") if f"{OURS}_{unit}" in row), None)


def baseline_of(row: dict[str, Any]) -> str | None:
    """The side of a row's other number; None where only ours was measured."""
    end = f"_{unit_of(row)}"
    names = [key.removesuffix(end) for key, value in row.items() if key.endswith(end) and not isinstance(value, list)]
    return next((name for name in names if name != OURS), None)


def find(network: str, document: Document, what: str, baseline: str | None = PUBLISHED) -> dict[str, Any]:
    """The one row of that name; LookupError with the names there are."""
    rows = [(row["what"], baseline_of(row), row) for row in document["rows"]]
    found = [row for name, by, row in rows if (name, by) == (what, baseline)]
    if len(found) != 1:
        names = "\n  ".join(f"{name!r} against {by}" for name, by, _ in rows)
        raise LookupError(f"{network}: {len(found)} rows {what!r} against {baseline}; there are\n  {names}")
    return found[0]


def find_memory(network: str, document: Document, what: str) -> dict[str, Any]:
    """The one row of peak memory of that name; LookupError with the names there are."""
    rows = document.get(MEMORY, [])
    found = [row for row in rows if row["what"] == what]
    if len(found) != 1:
        names = ", ".join(repr(row["what"]) for row in rows) or "none"
        raise LookupError(f"{network}: {len(found)} rows of peak memory {what!r}; there are {names}")
    return found[0]


class Quantity(NamedTuple):
    """A number of ours (ms, calls or MiB), the ratio of the baseline's to it if there is one, and the noise."""

    value: float
    ratio: float | None
    noise: float


def name_of(row: dict[str, Any]) -> str:
    """A row's name and its baseline's, which identify it in its document."""
    by = baseline_of(row)
    return row["what"] + (f", against {by}" if by else "")


def quantities(document: Document) -> dict[str, Quantity]:
    """Name -> quantity of every row; peak memory has no noise."""
    times = {
        name_of(row): Quantity(row[f"{OURS}_{unit_of(row)}"], row.get("ratio"), row.get("noise", 0.0))
        for row in document["rows"]
    }
    peaks = {f"{TITLE}, {row['what']}": Quantity(row[OURS], None, 0.0) for row in document.get(MEMORY, [])}
    return times | peaks


def text(document: Document) -> str:
    """JSON with one line per row, for readable diffs."""
    rows = ",\n".join("  " + json.dumps(row) for row in document["rows"])
    head = json.dumps({**document, "rows": []}, indent=1)
    return head.replace('"rows": []', f'"rows": [\n{rows}\n ]') + "\n"


# --- In words -----------------------------------------------------------------------------------------------------


def machine_line(document: Document) -> str:
    machine, versions = document["machine"], document["versions"]
    isa = {"avx512": "AVX-512", "avx2": "AVX2", "baseline": "the portable baseline"}.get(machine["isa"], machine["isa"])
    on_gpu = machine.get("device", "cpu") != "cpu"
    place = machine["gpu"] if on_gpu else f"{_threads(machine['threads'])} of {machine['cpu']} with {isa}"
    return f"{place}, torch {versions['torch']}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def milliseconds(value: float) -> str:
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def amount(row: dict[str, Any], side: str) -> str:
    unit = unit_of(row)
    value = row[f"{side}_{unit}"]
    return milliseconds(value) if unit == "ms" else f"{value:,} {unit}"


def table(document: Document) -> str:
    """Markdown: every row with medians, ratio and noise."""
    lines = ["| what | baseline | equikernels | ratio | noise |", "|---|---|---|---|---|"]
    for row in document["rows"]:
        by = baseline_of(row)
        theirs = f"{amount(row, by)} ({row.get('baseline', by)})" if by else "-"
        ratio = f"**{row['ratio']:.3g}x**" if "ratio" in row else "-"
        if "fraction_of_fma_peak" in row:
            ratio += f", {100 * row['fraction_of_fma_peak']:.0f} % of the multiply-add peak"
        if "fraction_of_roof" in row:
            ratio += f", {100 * row['fraction_of_roof']:.0f} % of the roof"
        noise = f"{100 * row['noise']:.0f} %" if "noise" in row else "-"
        lines.append(f"| {row['what']} | {theirs} | {amount(row, OURS)} | {ratio} | {noise} |")
    for row in document.get(MEMORY, []):
        sizes = f"{row[PUBLISHED]:.0f} MiB | {row[OURS]:.0f} MiB | **{row['ratio']:.3g}x less**"
        lines.append(f"| {TITLE}, {row['what']} | {sizes} | - |")
    return "\n".join(lines)
