"""Writes the tables of README.md and of pages of docs/ from bench/results/*.json; measures nothing.

python -m bench.pages            (--check: only reports, by its status, whether they are current)
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import costs
from .machines import FOLDER, MACHINES, each_machine, head_of, machines
from .readme import OTHERS, RESULTS, numbers, ratio_of
from .records import ON_GPU, Document, baseline_of, documents, find, find_memory, machine_line, milliseconds, table
from .side_by_side import OURS, PUBLISHED
from .targets import CPU, GPU, Target


def load(root: Path) -> dict[str, Document]:
    """The committed results; under MACHINES those of further machines, by the names of their folders."""
    others = {path.name: documents(path) for path in sorted((root / FOLDER).glob("*"))}
    return {**documents(root / RESULTS), MACHINES: others}


def targets(results: dict[str, Document]) -> str:
    """The tables of targets, on CPUs with a column for each machine: what was measured, and the fraction missing."""
    every = each_machine(results)
    names = [head_of(of["lorentznet"]) for of in every] or ["measured"]
    lines = [f"| CPU | target | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    lines += [_target(target, [of.get(target.network) for of in every or [{}]]) for target in CPU]
    lines += ["", "| GPU (H200 class) | target | measured |", "|---|---|---|"]
    return "\n".join([*lines, *(_target(target, [results.get(target.network + ON_GPU)]) for target in GPU)])


def _target(target: Target, measured: Sequence[Document | None]) -> str:
    cells = [_against(target, document) for document in measured]
    if not any(cells):
        cells = ["not measured"] * len(cells)
    return f"| {target.what} | {_shown(target, target.goal)} | {' | '.join(cells)} |"


def _shown(target: Target, value: float) -> str:
    if target.field.endswith("_ms"):
        return f"{1e3 * value:.3g} us"
    return ratio_of(value) if target.field == "ratio" else f"{100 * value:.0f} %"


def _against(target: Target, document: Document | None) -> str:
    """A measured value, in bold where it reaches the target; nothing where it was not measured. LookupError where a row
    is missing that every machine has."""
    if document is None:
        return ""
    if "refused" in document:
        return "refused: results differ"
    try:
        if target.memory:
            row = find_memory(target.network, document, target.row)
        else:
            row = find(target.network, document, target.row, target.baseline)
    except LookupError:
        if not target.optional:
            raise
        return ""
    value = row[target.field]
    missing = value / target.goal - 1 if target.most else 1 - value / target.goal
    if missing <= 0:
        return f"**{_shown(target, value)}**"
    return f"{_shown(target, value)}, {'over' if target.most else 'short'} by {100 * missing:.0f} %"


def sources(results: dict[str, Document]) -> str:
    """The papers' tables of inference times and ours; a network without a result has empty cells."""
    lines = [
        "| network | parameters | their CPU | their GPU | here, plain PyTorch | here, equikernels |",
        "|---|---|---|---|---|---|",
    ]
    for network in ("taggers", "trackers"):
        for row in results.get(network, {"rows": []})["rows"]:
            if "table_cpu" not in row:
                continue
            by = baseline_of(row)
            name = row.get("name", row["what"].split(",")[0])
            ours = milliseconds(row[f"{OURS}_ms"]) if row.get("ours", True) else ""
            theirs = f"{row['table_cpu']:g} ms | {row['table_gpu']:g} ms | {milliseconds(row[f'{by}_ms'])}"
            lines.append(f"| {name} | {row['parameters']:,} | {theirs} | {ours} |")
    return "\n".join(lines)


def exponents(results: dict[str, Document]) -> str:
    """The growth of time and memory of a training step: exponents of n."""
    document = results.get("growth")
    if document is None:
        return "Not measured yet."
    lines = [
        "| training step | time, published | time, equikernels | memory, published | memory, equikernels |",
        "|---|---|---|---|---|",
    ]
    found = document["exponents"]
    for name in dict.fromkeys((row["network"], row["batch"]) for row in document["rows"]):
        keys = [
            f"{name[0]}, training step, batch {name[1]}, {side}, {quantity}"
            for quantity in ("time", "memory")
            for side in (PUBLISHED, OURS)
        ]
        cells = [f"n^{found[key]:.2f}" if key in found else "-" for key in keys]
        lines.append(f"| {name[0]}, batch {name[1]} | {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", f"{machine_line(document)}; {len(document['left_out'])} points left out as too large."]
    )


def sizes(results: dict[str, Document]) -> str:
    """Networks at other sizes than the README's; empty cells for sizes left out as too large."""
    lines, machines = [], set()
    for network, title in OTHERS.items():
        document = results.get(network, {"rows": []})
        for row in document["rows"][2:]:
            times = [_or_nothing(row, f"{side}_ms", milliseconds) for side in (PUBLISHED, OURS)]
            mib = [_or_nothing(row, f"{side}_mib", lambda value: f"{value:.0f} MiB") for side in (PUBLISHED, OURS)]
            cells = [*times, _or_nothing(row, "ratio", lambda value: f"**{ratio_of(value)}**"), *mib]
            lines.append(f"| {title}: {row['what']} | {' | '.join(cells)} |")
            machines.add(machine_line(document))
    if not lines:
        return "Not measured yet."
    head = ["| network | published | equikernels | ratio | memory, published | memory, equikernels |", "|---" * 6 + "|"]
    return "\n".join([f"{'; '.join(sorted(machines))}:", "", *head, *lines])


def _or_nothing(row: dict[str, Any], key: str, show: Callable[[float], str]) -> str:
    return show(row[key]) if key in row else ""


def calls(results: dict[str, Document]) -> str:
    """Calls through the dispatcher of each network, equikernels and published."""
    document = results.get("calls")
    if document is None:
        return "Not measured yet."
    passes = ("forward", "training step")
    head = [f"{what}, {side}" for what in passes for side in (PUBLISHED, OURS)]
    lines = [f"| network | {' | '.join(head)} |", "|---" * 5 + "|"]
    rows = {row["what"]: row for row in document["rows"]}
    for name in dict.fromkeys(what.split(", ", 1)[1] for what in rows):
        found = [rows[f"{what}, {name}"][f"{side}_calls"] for what in passes for side in (PUBLISHED, OURS)]
        lines.append(f"| {name} | {' | '.join(f'{number:,}' for number in found)} |")
    return "\n".join([*lines, "", f"torch {document['versions']['torch']}, {document['machine']['device']}."])


DEPLOYED = {
    "published_onnx": "the published code exported as it is, ONNX Runtime",
    "plain_onnx": "our file, plain ONNX Runtime",
    PUBLISHED: "the published code, PyTorch",
    "fused_pytorch": "the fused network, PyTorch",
}


def deployment(results: dict[str, Document]) -> str:
    """LorentzNet in ONNX Runtime with our library, against other ways to run it."""
    document = results.get("deploy")
    if document is None:
        return "Not measured yet."
    lines = ["| LorentzNet (h 72, L 6) | time | with our library | ratio |", "|---" * 4 + "|"]
    for row in document["rows"]:
        by = baseline_of(row)
        size = row["what"].split(", ")[1]
        times = f"{milliseconds(row[f'{by}_ms'])} | {milliseconds(row[f'{OURS}_ms'])} | {ratio_of(row['ratio'])}"
        lines.append(f"| {size}: {DEPLOYED[by]} | {times} |")
    return "\n".join([f"{machine_line(document)}:", "", *lines, "", least(document)])


def least(document: Document) -> str:
    """The least time of the products on pairs: their multiply-adds at the rate that the machine reaches."""
    peak = document["ceilings"]["multiply_adds_gflops"]
    lines = ["| products on pairs | plain ONNX Runtime | with our library | multiply-adds alone |", "|---" * 4 + "|"]
    for row in document["rows"]:
        if baseline_of(row) != "plain_onnx":
            continue
        size, flop, plain = row["what"].split(", ")[1], row["gflop"], row["plain_onnx_ms"]
        rates = " | ".join(f"{1e3 * flop / row[f'{side}_ms']:.0f} GFLOP/s" for side in ("plain_onnx", OURS))
        bound = f"{milliseconds(1e3 * flop / peak)} at {peak:.0f} GFLOP/s: {plain * peak / (1e3 * flop):.1f}x"
        lines.append(f"| {size}: {flop:.3g} GFLOP | {rates} | {bound} |")
    return "\n".join(lines)


def kernels(results: dict[str, Document]) -> str:
    """Ops with all threads, on large and on tiny inputs; in float32 if a row names no dtype."""
    document = results.get("kernels")
    if document is None:
        return "Not measured yet."
    threads = document["machine"]["threads"]
    rows = [r for r in document["rows"] if r["threads"] == threads and r["graph"] != "one jet"]
    return f"{machine_line(document)}; float32 where a row names no other:\n\n{table({**document, 'rows': rows})}"


def plots(results: dict[str, Document]) -> str:
    """The existing images of :mod:`bench.plots`."""
    images = [("lorentznet", "Speed-ups of networks", "speedup")]
    images += [("kernels", "Ops under the machine's ceilings", "roofline")]
    images += [("growth", "Time and memory of a training step against constituents", "growth")]
    return "\n\n".join(f"![{title}]({name}.png)" for network, title, name in images if network in results)


# Page in docs/ops -> how the names of its ops start.
OPS = {
    "messages": ("message_passing", "row_mlp"),
    "edges": ("pairwise_invariants", "coordinate_update"),
    "segments": ("segment_", "gather_segment_"),
    "pairs": ("rank2_", "linear_", "pairwise_linear", "pairwise_network", "encode_invariants"),
    "neighbours": ("k_nearest",),
}


def _costs_of(*starts: str) -> Callable[[dict[str, Document]], str]:
    return lambda results: costs.ops(results, *starts)


Parts = dict[str, Callable[[dict[str, Document]], str]]
PAGES: dict[Path, Parts] = {
    Path("README.md"): {"numbers": numbers},
    Path("docs") / "measuring.md": {
        "targets": targets,
        "machines": machines,
        "plots": plots,
        "exponents": exponents,
        "sizes": sizes,
        "calls": calls,
        "sources": sources,
    },
    Path("docs") / "networks.md": {"networks": costs.networks},
    Path("docs") / "deployment.md": {"deployment": deployment},
    Path("docs") / "ops" / "times.md": {"kernels": kernels},
    **{Path("docs") / "ops" / f"{page}.md": {"costs": _costs_of(*starts)} for page, starts in OPS.items()},
}


def render(text: str, name: str, content: str) -> str:
    """Replaces the text between ``<!-- name: begin -->`` and ``<!-- name: end -->``."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise LookupError(f"expected one {begin} and one {end}")
    pattern = re.compile(re.escape(begin) + ".*" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)


def out_of_step(root: Path) -> dict[Path, str]:
    """Page -> its current text, for each page that is out of date."""
    results = load(root)
    wanted: dict[Path, str] = {}
    for page, parts in PAGES.items():
        new = text = (root / page).read_text()
        for name, make in parts.items():
            new = render(new, name, make(results))
        if new != text:
            wanted[root / page] = new
    return wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    try:
        pages = out_of_step(Path.cwd())
    except (LookupError, OSError) as error:
        print(f"bench.pages: {error.args[0] if isinstance(error, LookupError) else error}", file=sys.stderr)
        return 2
    for path, text in pages.items():
        print(f"{path}: {'out of date' if options.check else 'written'}")
        if not options.check:
            path.write_text(text)
    return int(options.check and bool(pages))


if __name__ == "__main__":
    sys.exit(main())
