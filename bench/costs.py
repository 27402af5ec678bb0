"""The tables of what ops and networks cost, for docs/ops and docs/networks.md; measures nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

from .records import Document, baseline_of, machine_line, milliseconds
from .side_by_side import OURS, PUBLISHED

# --- Networks -----------------------------------------------------------------------------------------------------


class Group(NamedTuple):
    """One network: its title, and the sizes in the names of its rows: of many events and of few."""

    title: str
    large: str
    small: str


GROUPS = {
    "lorentznet": Group("LorentzNet", "100 jets", "one jet of 56 constituents"),
    "vecnet": Group("VecNet", "100 jets", "1 jet"),
    "pelican": Group("PELICAN", "16 events, n 27 to 54", "one event of n = 54"),
    "pelican_nano": Group("PELICAN-nano", "100 events, n 27 to 54", "one event of n = 54"),
    "egnn": Group("EGNN", "80,000 edges", "4,000 edges"),
    "euclidnet": Group("EuclidNet", "80,256 edges", "3,508 edges"),
    "interaction_network": Group("Interaction Network", "80,256 edges", "3,508 edges"),
}


def networks(results: dict[str, Document]) -> str:
    """Forward pass and training step of each network against the published formula, on many events and on few."""
    lines, machines = [], set()
    for network, group in GROUPS.items():
        document = results.get(network)
        if document is None:
            continue
        rows = {row["what"]: row for row in document["rows"] if baseline_of(row) == PUBLISHED}
        for size in (group.large, group.small):
            found = [rows.get(f"{what}, {size}") for what in ("forward", "training step")]
            if any(found):
                lines.append(f"| {group.title} | {size} | {' | '.join(map(_both_sides, found))} |")
                machines.add(machine_line(document))
    if not lines:
        return "Not measured yet."
    sides = " | ".join(f"{what}, published | equikernels | ratio" for what in ("forward", "training step"))
    head = [f"| network | input | {sides} |", "|---" * 8 + "|"]
    return "\n".join([f"{'; '.join(sorted(machines))}:", "", *head, *lines])


def _both_sides(row: dict[str, Any] | None) -> str:
    if row is None:
        return " | | "
    times = " | ".join(milliseconds(row[f"{side}_ms"]) for side in (PUBLISHED, OURS))
    return f"{times} | **{row['ratio']:.2g}x**" if row["ratio"] < 1 else f"{times} | **{row['ratio']:.1f}x**"


# --- Ops ----------------------------------------------------------------------------------------------------------

PASSES = ("forward", "forward and backward")
PLAIN = {"index_add_": "PyTorch"}


def ops(results: dict[str, Document], *starts: str) -> str:
    """The ops whose names start so: time and ratio to the fastest of the baselines, for each input; float32, all
    threads."""
    document = results.get("kernels")
    if document is None:
        return "Not measured yet."
    threads = document["machine"]["threads"]
    fastest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in document["rows"]:
        key = row["op"], row["graph"], row["pass"]
        if row["dtype"] == "float32" and row["threads"] == threads and row["op"].startswith(starts):
            known = fastest.get(key)
            if known is None or row.get("ratio", 0.0) < known.get("ratio", 0.0):
                fastest[key] = row
    if not fastest:
        return "Not measured yet."
    passes = [what for what in PASSES if any(key[2] == what for key in fastest)]
    lines = [
        f"{machine_line(document)}, float32; ratios are to the fastest of the baselines that were measured:",
        "",
        f"| op | input | {' | | '.join(passes)} | |",
        "|---" * (2 + 2 * len(passes)) + "|",
    ]
    above = ""
    for op, graph in sorted(dict.fromkeys(key[:2] for key in fastest), key=lambda key: _rank(key, fastest)):
        cells = [_against(fastest.get((op, graph, what))) for what in passes]
        name, _, of = op.partition(", ")
        shown = "" if op == above else f"`{name}`{f', {of}' if of else ''}"
        lines.append(f"| {shown} | {graph} | {' | '.join(cells)} |")
        above = op
    return "\n".join(lines)


def _rank(key: tuple[str, str], rows: dict[tuple[str, str, str], dict[str, Any]]) -> tuple[str, float]:
    """Ops by name, inputs by the bytes they have."""
    return key[0], min(row["bytes"] for name, row in rows.items() if name[:2] == key)


def _against(row: dict[str, Any] | None) -> str:
    if row is None:
        return " | "
    by, ms = baseline_of(row), row[f"{OURS}_ms"]
    time = milliseconds(ms) if ms >= 0.1 else f"{1e3 * ms:.3g} us"
    return f"{time} | **{row['ratio']:.3g}x** ({PLAIN.get(by, by)})" if by else f"{time} | "
