"""Two results side by side: what has become slower, or takes more memory."""

from __future__ import annotations

from pathlib import Path

from .records import Document, documents, quantities

SAME = ("cpu", "isa", "threads", "device")


def compare(before: Path, after: Path, threshold: float) -> tuple[str, int]:
    """A Markdown table of what both files hold, and how many rows are worse by more than ``threshold`` (0.1: 10 %).

    A time is worse where it has grown and its ratio to the baseline of the same run has shrunk, both by more than the
    threshold: a slower machine alone changes both sides of a ratio. A row of the first file that the second one lacks
    counts as worse, as it may be gone because results no longer agree.

    Raises:
        LookupError: the files have no network in common.
    """
    old, new = documents(before), documents(after)
    common = [network for network in old if network in new]
    if not common:
        raise LookupError(f"no network in common: {', '.join(old)} and {', '.join(new)}")
    lines = ["| network | what | before | after | change | |", "|---|---|---|---|---|---|"]
    warnings: list[str] = []
    worse = 0
    for network in common:
        warnings += _differences(network, old[network], new[network])
        then = {what: (value, ratio) for what, value, ratio in quantities(old[network])}
        now = {what: (value, ratio) for what, value, ratio in quantities(new[network])}
        for what, (value, ratio) in then.items():
            if what not in now:
                worse += 1
                lines.append(f"| {network} | {what} | {value:.4g} | gone | | **gone** |")
                continue
            value_now, ratio_now = now[what]
            change = value_now / value - 1
            bad = change > threshold
            if ratio is not None and ratio_now is not None:
                bad = bad and ratio / ratio_now - 1 > threshold
            worse += bad
            verdict = "**worse**" if bad else ("better" if change < -threshold else "")
            lines.append(f"| {network} | {what} | {value:.4g} | {value_now:.4g} | {100 * change:+.1f} % | {verdict} |")
    return "\n".join([*lines, "", *warnings, f"{worse} worse by more than {100 * threshold:g} %"]), worse


def _differences(network: str, old: Document, new: Document) -> list[str]:
    if "refused" in new:
        return [f"{network}: {new['refused']}"]
    pairs = [(key, old["machine"].get(key), new["machine"].get(key)) for key in SAME]
    return [
        f"{network}: {key} differs: {a} and {b}" for key, a, b in pairs if a is not None and b is not None and a != b
    ]
