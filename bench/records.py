"""Reading results: a file holds the document of one network, or of several under "networks"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .memory import KEY as MEMORY
from .side_by_side import OURS, PUBLISHED

Document = dict[str, Any]


def documents(path: Path) -> dict[str, Document]:
    """Network -> what was measured of it."""
    content = json.loads(path.read_text())
    if "networks" in content:
        return content["networks"]
    return {content.get("network", path.stem): content}


def baseline_of(row: dict[str, Any]) -> str | None:
    """By whom the other time of a row is; None where only ours was measured."""
    names = [key[:-3] for key, value in row.items() if key.endswith("_ms") and not isinstance(value, list)]
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


def quantities(document: Document) -> Iterator[tuple[str, float, float | None]]:
    """(name, our time in ms or memory in MiB, the baseline's over ours where there is one) of every row."""
    for row in document["rows"]:
        by = baseline_of(row)
        yield row["what"] + (f", against {by}" if by else ""), row[f"{OURS}_ms"], row.get("ratio")
    for row in document.get(MEMORY, []):
        yield f"peak memory of a training step, {row['what']}", row[OURS], None  # bytes do not depend on the weather


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


def table(document: Document) -> str:
    """Markdown: every row with medians, ratio and noise."""
    lines = ["| what | baseline | equikernels | ratio | noise |", "|---|---|---|---|---|"]
    for row in document["rows"]:
        by = baseline_of(row)
        theirs = f"{milliseconds(row[f'{by}_ms'])} ({row.get('baseline', by)})" if by else "-"
        ratio = f"**{row['ratio']:.3g}x**" if by else "-"
        if "fraction_of_fma_peak" in row:
            ratio += f", {100 * row['fraction_of_fma_peak']:.0f} % of the multiply-add peak"
        if "fraction_of_roof" in row:
            ratio += f", {100 * row['fraction_of_roof']:.0f} % of the roof"
        noise = f"{100 * row['noise']:.0f} %" if "noise" in row else "-"
        lines.append(f"| {row['what']} | {theirs} | {milliseconds(row[f'{OURS}_ms'])} | {ratio} | {noise} |")
    for row in document.get(MEMORY, []):
        sizes = f"{row[PUBLISHED]:.0f} MiB | {row[OURS]:.0f} MiB | **{row['ratio']:.3g}x less**"
        lines.append(f"| peak memory of a training step, {row['what']} | {sizes} | - |")
    return "\n".join(lines)
