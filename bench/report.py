"""Turns pytest-benchmark's JSON into a document like the networks', and prints its Markdown table.

python -m bench.report build/bench/raw.json [--out bench/results/kernels.json]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from .records import machine_line, table, text
from .side_by_side import OURS

Key = tuple[str, str, bool, int, str]
IN_CACHE = 2 << 20  # below, a call may be faster than memory
SETTINGS = ("op", "graph", "backward", "threads", "dtype")


def document(content: dict[str, Any]) -> dict[str, Any]:
    """A row for each op and baseline: medians of one call in ms. Rows with wrong results are not timed."""
    measured: dict[Key, dict[str, dict[str, Any]]] = defaultdict(dict)
    for entry in content["benchmarks"]:
        info = entry["extra_info"]
        measured[tuple(info[name] for name in SETTINGS)][info["by"]] = entry  # type: ignore[index]
    head = content["machine_info"]["document"]
    rows, left_out = [], [*head.get("left_out", [])]
    for key, by in measured.items():
        if OURS not in by:
            left_out.append(f"{_name(key)}: ours was not measured: wrong results, or not selected")
            continue
        for baseline in [name for name in by if name != OURS] or [None]:
            rows.append(_row(key, by, baseline, head))
    return {**head, "rows": rows, "left_out": left_out}


def _name(key: Key) -> str:
    op, graph, backward, threads, dtype = key
    parts = [op, graph, "forward and backward" if backward else "forward", f"{threads} thread{'s'[: threads - 1]}"]
    return ", ".join([*parts, *([dtype] if dtype != "float32" else [])])


def _row(key: Key, by: dict[str, dict[str, Any]], baseline: str | None, head: dict[str, Any]) -> dict[str, Any]:
    op, graph, backward, threads, dtype = key
    info = by[OURS]["extra_info"]
    sides = {name: by[name] for name in (OURS, baseline) if name}
    ms = {name: 1e3 * entry["stats"]["median"] / entry["extra_info"]["calls"] for name, entry in sides.items()}
    row: dict[str, Any] = {"what": _name(key), "op": op, "graph": graph, "dtype": dtype, "threads": threads}
    row |= {"pass": "forward and backward" if backward else "forward"}
    row |= {f"{name}_ms": _digits(value) for name, value in ms.items()}
    if baseline:
        row["ratio"] = _digits(ms[baseline] / ms[OURS])
    row["noise"] = _digits(max(entry["stats"]["iqr"] / entry["stats"]["median"] for entry in sides.values()))
    row |= {"flops": info["flops"], "bytes": info["bytes"]}
    if info["timed"] != "wall clock":
        row["timed"] = info["timed"]
    if threads == head["machine"]["threads"] and info["bytes"] > IN_CACHE:
        bound = info["bytes"] / (1e9 * head["ceilings"]["copy_gb_per_s"])
        peak = max(value for name, value in head["ceilings"].items() if name.endswith("gflops"))
        peak /= 2 if dtype == "float64" else 1  # a register holds half as many
        row["fraction_of_roof"] = _digits(1e3 * max(bound, info["flops"] / (1e9 * peak)) / ms[OURS])
    return row


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("raw", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    made = document(json.loads(options.raw.read_text()))
    print(f"\n{machine_line(made)}\n\n{table(made)}\n")
    print("\n".join(made["left_out"]))
    if options.out:
        options.out.write_text(text(made))


if __name__ == "__main__":
    main()
