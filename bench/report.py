"""Turns pytest-benchmark's JSON into a Markdown table: medians, spread, ratios.

python bench/report.py build/bench/kernels.json
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

import equikernels as ek

OURS = "equikernels"
# What is measured beside us: one table each.
FAMILIES = (("index_add_", "PyG"), ("topk over all pairs", "cKDTree"))
Rows = dict[tuple[str, str, str, int], dict[str, dict[str, Any]]]


def read(path: Path) -> tuple[dict[str, Any], Rows]:
    """The machine, and op, graph, pass, threads -> implementation -> its statistics in seconds."""
    content = json.loads(path.read_text())
    rows: Rows = defaultdict(dict)
    for entry in content["benchmarks"]:
        info = entry["extra_info"]
        key = info["op"], info["graph"], "forward + backward" if info["backward"] else "forward", info["threads"]
        rows[key][info["by"]] = entry["stats"]
    return content["machine_info"], rows


def _time(stats: dict[str, Any]) -> str:
    return f"{stats['median'] * 1e3:.3g} ± {stats['iqr'] * 5e2:.1g}"


def tables(rows: Rows) -> str:
    members: dict[tuple[str, ...], Rows] = defaultdict(dict)
    for key, by in rows.items():
        members[next((f for f in FAMILIES if by.keys() & set(f)), FAMILIES[0])][key] = by
    return "\n\n".join(table(members[family], family) for family in FAMILIES if family in members)


def table(rows: Rows, baselines: tuple[str, ...]) -> str:
    """One row a measurement. A ratio needs both sides: one whose results were wrong was not timed."""
    lines = [
        f"| op | graph | pass | threads | {OURS} [ms] | {' | '.join(f'{b} [ms] | ratio' for b in baselines)} |",
        "|---|---|---|---|---|" + "---|---|" * len(baselines),
    ]
    for key, by in sorted(rows.items(), key=lambda row: row[0]):
        cells = [str(part) for part in key] + [_time(by[OURS]) if OURS in by else "not measured"]
        for baseline in baselines:
            cells.append(_time(by[baseline]) if baseline in by else "not measured")
            both = OURS in by and baseline in by
            cells.append(f"**{by[baseline]['median'] / by[OURS]['median']:.1f}x**" if both else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    machine, rows = read(Path(sys.argv[1]))
    cpu = machine["cpu"]
    print(f"\n{cpu.get('brand_raw', machine['machine'])}, {cpu.get('count', '?')} logical cores; ", end="")
    print(f"torch {torch.__version__}, equikernels {ek.__version__} ({ek.active_isa()}), float32.")
    print("Median ± half the interquartile range; ratio: the baseline's median over ours.\n")
    print(tables(rows))


if __name__ == "__main__":
    main()
