"""Compares two results: rows within their spread, rows that became slower or take more memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from .plan import wanted
from .records import Document, Quantity, documents, quantities

MACHINES = "machines"  # a folder of results: other machines', each in a folder of its own
SAME = ("cpu", "isa", "threads", "device")
WITHIN, WORSE, BETTER, GONE = "within", "**worse**", "better", "**gone**"
BASELINE_SLOWER, BASELINE_FASTER = "baseline slower", "baseline faster"
BOTH_SLOWER, BOTH_FASTER = "both slower", "both faster"  # at the same ratio: another machine, or a busy one


def compare(before: Path, after: Path, threshold: float) -> tuple[str, int]:
    """A Markdown table of the rows of two files or folders, and the number of worse rows.

    A row's spread is the noise it was recorded with ``before``, and at least ``threshold`` (0.1: 10 %). A time is worse
    if it has grown and its ratio to the baseline of the same run has shrunk, both by more than the spread: a slower
    machine alone changes both sides of a ratio. A row that is missing in the second result counts as worse, because
    its results may no longer agree; rows that a filter left out are not compared. If ``before`` has results of several
    machines, those of the one with the same instruction set and the nearest rate of multiply-adds are compared.

    Raises:
        LookupError: no network in common.
    """
    new = documents(after)
    nearest = nearest_machine(before, new)
    old = documents(nearest)
    common = [network for network in old if network in new]
    if not common:
        raise LookupError(f"no network in common: {', '.join(old)} and {', '.join(new)}")
    lines = ["| network | what | before | after | change | ratio | spread | |", "|---|---|---|---|---|---|---|---|"]
    warnings = [f"compared with the results of {nearest.name}"] if nearest != before else []
    verdicts: Counter[str] = Counter()
    for network in common:
        warnings += _differences(network, old[network], new[network])
        now = quantities(new[network])
        texts = new[network].get("filter", [])
        for what, then in quantities(old[network]).items():
            if not wanted(f"{network}/{what}", texts):
                continue
            spread = max(threshold, then.noise)
            verdict = _verdict(then, now.get(what), spread)
            verdicts[verdict] += 1
            cells = _cells(then, now.get(what))
            lines.append(f"| {network} | {what} | {cells} | {100 * spread:.0f} % | {verdict} |")
    counts = ", ".join(f"{count} {verdict.strip('*')}" for verdict, count in verdicts.items())
    worse = verdicts[WORSE] + verdicts[GONE]
    summary = f"{counts}: {worse} worse by more than {100 * threshold:g} % or their noise"
    return "\n".join([*lines, "", *warnings, summary]), worse


def nearest_machine(before: Path, after: Mapping[str, Document]) -> Path:
    """``before``, or the folder of its ``machines`` that is more like ``after``: by instruction set, then by rate of
    multiply-adds."""
    isa, rate = _isa_and_rate(after)
    folders = [before, *sorted(p for p in (before / MACHINES).glob("*") if p.is_dir())]
    known = {folder: found for folder in folders if (found := _isa_and_rate(documents(folder)))[1]}
    if not rate or not known:
        return before
    return min(known, key=lambda folder: (known[folder][0] != isa, abs(math.log(known[folder][1] / rate))))


def _isa_and_rate(found: Mapping[str, Document]) -> tuple[str, float]:
    """The instruction set and multiply-adds in GFLOP/s of the most threads; 0 if not measured."""
    measured = [(d["machine"], d["ceilings"]["multiply_adds_gflops"]) for d in found.values() if "ceilings" in d]
    machine, rate = max(measured, key=lambda pair: pair[0]["threads"], default=({"isa": ""}, 0.0))
    return machine["isa"], rate


def _verdict(then: Quantity, now: Quantity | None, spread: float) -> str:
    if now is None:
        return GONE
    change = now.value / then.value - 1
    if then.ratio is None or now.ratio is None:
        return WORSE if change > spread else BETTER if change < -spread else WITHIN
    lost = then.ratio / now.ratio - 1  # of the ratio
    if lost > spread:
        return WORSE if change > spread else BASELINE_FASTER
    if lost < -spread:
        return BETTER if change < -spread else BASELINE_SLOWER
    return BOTH_SLOWER if change > spread else BOTH_FASTER if change < -spread else WITHIN


def _cells(then: Quantity, now: Quantity | None) -> str:
    if now is None:
        return f"{then.value:.4g} | gone | |"
    ratios = "" if then.ratio is None or now.ratio is None else f"{then.ratio:.3g}x, {now.ratio:.3g}x"
    return f"{then.value:.4g} | {now.value:.4g} | {100 * (now.value / then.value - 1):+.1f} % | {ratios}"


def _differences(network: str, old: Document, new: Document) -> list[str]:
    if "refused" in new:
        return [f"{network}: {new['refused']}"]
    pairs = [(key, old["machine"].get(key), new["machine"].get(key)) for key in SAME]
    return [
        f"{network}: {key} differs: {a} and {b}" for key, a, b in pairs if a is not None and b is not None and a != b
    ]
