"""The README's ratios on every machine whose results are committed: bench/results and its folder machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from .compare import MACHINES
from .readme import OTHERS, RESULTS, TABLES, ratio_of
from .records import Document, machine_line

FOLDER = RESULTS / MACHINES
IN_BFLOAT16 = "training step, 100 jets, bfloat16 products"  # not on every machine


def machines(results: dict[str, Document]) -> str:
    """A column of ratios for each machine; the rate of multiply-adds and of a copy in its head."""
    every = [of for of in (results, *results.get(MACHINES, {}).values()) if "lorentznet" in of]
    if not every:
        return "Not measured yet."
    names = list(dict.fromkeys(name for of in every for name, _ in _rows(of)))
    heads = [_head(of["lorentznet"]) for of in every]
    found = [dict(_rows(of)) for of in every]
    lines = [f"| ratio | {' | '.join(heads)} |", "|---" * (len(every) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(of.get(name, '') for of in found)} |" for name in names]
    return "\n".join(lines)


def _head(document: Document) -> str:
    rates = document["ceilings"]
    line = machine_line(document).replace(", ", ",<br>")
    return f"{line}: {rates['multiply_adds_gflops']:.0f} GFLOP/s, {rates['copy_gb_per_s']:.0f} GB/s"


def _rows(results: dict[str, Document]) -> Iterator[tuple[str, str]]:
    for table in TABLES:
        document = results[table.network]
        for line in table.lines:
            with suppress(LookupError):  # "AVX2 kernels" is a row where there are better ones
                yield f"{table.network}: {line.label}", ratio_of(line.row(table.network, document)["ratio"])
        for row in document["rows"]:
            if row["what"] == IN_BFLOAT16:
                yield f"{table.network}: {IN_BFLOAT16}", ratio_of(row["ratio"])
    for network, title in OTHERS.items():
        for row in results.get(network, {"rows": []})["rows"][:2]:
            yield f"{title}: {row['what']}", ratio_of(row["ratio"])
