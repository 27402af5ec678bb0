"""Writes the tables of README.md and of pages of docs/ from bench/results/*.json; measures nothing.

python -m bench.pages            (--check: only reports, by its status, whether they are current)
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import costs
from .memory import TITLE
from .records import ON_GPU, Document, baseline_of, documents, find, find_memory, machine_line, milliseconds, table
from .side_by_side import NOISY, OURS, PUBLISHED
from .targets import CPU, GPU, Target

RESULTS = Path("bench") / "results"


@dataclass(frozen=True)
class Line:
    """A row of the README's table: its label and its name in the results."""

    label: str
    what: str
    baseline: str = PUBLISHED
    memory: bool = False


@dataclass(frozen=True)
class Table:
    """The README's table of one network."""

    network: str
    title: str
    inputs: str  # formatted with the document
    lines: tuple[Line, ...]
    closing: Callable[[Document], str] = lambda document: ""


def _of_the_peak(document: Document) -> str:
    block = find("lorentznet", document, BLOCK, None)
    share = 100 * block["fraction_of_fma_peak"]
    return f"The fused op of one block reaches {share:.0f} % of the multiply-add rate measured in the same run."


BLOCK = "fused op of one block, forward"
LAYER = "one 2->2 layer 35 -> 60, forward"
TABLES = (
    Table(
        "lorentznet",
        "LorentzNet (h 72, L 6, float32)",
        "100 sample jets with beams ({edges:,} edges)",
        (
            Line("forward, 100 jets", "forward, 100 jets"),
            Line("forward, 100 jets, bfloat16 products", "forward, 100 jets, bfloat16 products"),
            Line("training step, 100 jets", "training step, 100 jets"),
            Line("forward, one jet of 56 constituents", "forward, one jet of 56 constituents"),
            Line("forward, 100 jets, AVX2 kernels", "forward, 100 jets, AVX2 kernels"),
            Line(f"{TITLE}, process", "process", memory=True),
            Line(f"{TITLE}, PyTorch's allocator", "PyTorch's allocator", memory=True),
        ),
        _of_the_peak,
    ),
    Table(
        "pelican",
        "PELICAN (48k parameters, float32 features)",
        "16 events of 27 to 54 particles, the published formula padded to 54",
        (
            Line("forward, 16 events", "forward, 16 events, n 27 to 54"),
            Line("training step, 16 events", "training step, 16 events, n 27 to 54"),
            Line("forward, one event of 54", "forward, one event of n = 54"),
            Line("training step, one event of 54", "training step, one event of n = 54"),
            Line("one 2->2 layer, 35 -> 60 channels, forward", LAYER),
            Line("the same, forward and backward", f"{LAYER} and backward"),
            Line("the same layer as `pelican-hep` has it, forward", LAYER, "pelican_hep"),
            Line(f"{TITLE}, process", "n 27 to 54, process", memory=True),
            Line(f"{TITLE}, PyTorch's allocator", "n 27 to 54, PyTorch's allocator", memory=True),
        ),
    ),
)


def readme_rows(every: dict[str, list[str]]) -> list[str]:
    """The names "network/row, against baseline" of the README's rows, among all that can be measured."""
    shown = {f"lorentznet/{BLOCK}"}
    for own in TABLES:
        shown |= {f"{own.network}/{line.what}, against {line.baseline}" for line in own.lines if not line.memory}
        sizes = [f"{own.network}/{TITLE}, {line.what}" for line in own.lines if line.memory]
        shown |= {name for name in every[own.network] if any(size.startswith(name) for size in sizes)}
    for network in OTHERS:
        shown |= {*every[network][:2], f"{network}/{TITLE}"}
    return [name for names in every.values() for name in names if name in shown]


def load(root: Path) -> dict[str, Document]:
    """The committed results."""
    return documents(root / RESULTS)


def numbers(results: dict[str, Document]) -> str:
    """The README's tables. A network without results has none; a missing row raises a LookupError."""
    tables = [_table(table, results[table.network]) for table in TABLES if table.network in results]
    return "\n\n".join([*tables, *_others(results)])


def _others(results: dict[str, Document]) -> list[str]:
    """A table with one line for each other network: forward, training step, PyTorch's allocator in a training step."""
    lines, machines = [], set()
    for network, title in OTHERS.items():
        document = results.get(network)
        if document is None or not document["rows"]:
            continue
        forward, step = document["rows"][:2]
        cells = [f"{milliseconds(r[f'{OURS}_ms'])}, **{ratio_of(r['ratio'])}**" for r in (forward, step)]
        memory = find_memory(network, document, "PyTorch's allocator")
        size = forward["what"].removeprefix("forward, ")
        cells.append(f"{memory[OURS]:.0f} MiB, **{ratio_of(memory['ratio'])} less**")
        lines.append(f"| {title}: {size} | {' | '.join(cells)} |")
        machines.add(machine_line(document))
    if not lines:
        return []
    head = ["| network | forward | training step | its memory |", "|---|---|---|---|"]
    title = f"Other networks and the formulas of their papers; {'; '.join(sorted(machines))}:"
    return ["\n".join([title, "", *head, *lines])]


OTHERS = {
    "egnn": "EGNN (H 64, attention)",
    "euclidnet": "EuclidNet (SO(2), H 8)",
    "interaction_network": "Interaction Network (H 40)",
    "vecnet": "VecNet (h 72, 36 free)",
    "lgn": "LGN (channels 2, 4, 4, 2)",
    "pelican_nano": "PELICAN-nano",
    "pelican_11k": "PELICAN, 11k",
    "pelican_208k": "PELICAN, 208k",
}


def _table(table: Table, document: Document) -> str:
    path = f"{RESULTS.as_posix()}/{table.network}.json"
    lines = [
        f"{table.inputs.format_map(document)}; {machine_line(document)}; [{path}]({path}):",
        "",
        f"| {table.title} | published formula, eager | equikernels | ratio |",
        "|---|---|---|---|",
    ]
    noisy = []
    for line in table.lines:
        if line.memory:
            row = find_memory(table.network, document, line.what)
            times, less = f"{row[PUBLISHED]:.0f} MiB | {row[OURS]:.0f} MiB", " less"
        else:
            row = find(table.network, document, line.what, line.baseline)
            times, less = f"{milliseconds(row[f'{line.baseline}_ms'])} | {milliseconds(row[f'{OURS}_ms'])}", ""
        lines.append(f"| {line.label} | {times} | **{ratio_of(row['ratio'])}{less}** |")
        if row.get("noise", 0.0) > NOISY:
            noisy.append(f"{line.label} ({100 * row['noise']:.0f} %)")
    if closing := table.closing(document):
        lines += ["", closing]
    if noisy:
        lines += ["", f"Times that scatter, with their interquartile range over the median: {'; '.join(noisy)}."]
    return "\n".join(lines)


def ratio_of(value: float) -> str:
    return f"{value:.2g}x" if value < 1 else f"{value:.1f}x"


def targets(results: dict[str, Document]) -> str:
    """The tables of targets: reached, or the fraction missing."""
    on_cpu = [_target(target, results.get(target.network)) for target in CPU]
    on_gpu = [_target(target, results.get(target.network + ON_GPU)) for target in GPU]
    head = "| target | measured | |\n|---|---|---|---|"
    return "\n".join([f"| CPU, 2 threads {head}", *on_cpu, "", f"| GPU (H200 class) {head}", *on_gpu])


def _target(target: Target, document: Document | None) -> str:
    def show(value: float) -> str:
        if target.field.endswith("_ms"):
            return f"{1e3 * value:.3g} us"
        return ratio_of(value) if target.field == "ratio" else f"{100 * value:.0f} %"

    start = f"| {target.what} | {show(target.goal)} |"
    if document is None or "refused" in document:
        return f"{start} {'not measured' if document is None else 'refused: results differ'} | |"
    if target.memory:
        row = find_memory(target.network, document, target.row)
    else:
        row = find(target.network, document, target.row, target.baseline)
    value = row[target.field]
    missing = value / target.goal - 1 if target.most else 1 - value / target.goal
    verdict = "reached" if missing <= 0 else f"{'over' if target.most else 'short'} by {100 * missing:.0f} %"
    return f"{start} {show(value)} | {verdict} |"


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
    return "\n".join([f"{machine_line(document)}:", "", *lines])


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


MACHINES = Path("docs") / "measuring.md"


def out_of_step(root: Path) -> dict[Path, str]:
    """Page -> its current text, for each page that is out of date."""
    from .machines import machines

    results = load(root)
    wanted: dict[Path, str] = {}
    for page, parts in PAGES.items():
        new = text = (root / page).read_text()
        for name, make in parts.items():
            new = render(new, name, make(results))
        if page == MACHINES:
            new = render(new, "machines", machines(root, results))
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
