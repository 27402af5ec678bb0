"""Writes the tables of README.md and docs/measuring.md from bench/results/*.json; measures nothing.

python -m bench.pages            (--check: only says, by its status, whether they are in step)
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .records import Document, documents, find, find_memory, machine_line, milliseconds
from .side_by_side import NOISY, OURS, PUBLISHED

RESULTS = Path("bench") / "results"


@dataclass(frozen=True)
class Line:
    """A row of the README's table: its label there, and its name in the results."""

    label: str
    what: str
    baseline: str = PUBLISHED
    memory: bool = False


@dataclass(frozen=True)
class Table:
    """What the README shows of one network's results."""

    network: str
    title: str
    inputs: str  # formatted with the document
    lines: tuple[Line, ...]
    closing: Callable[[Document], str] = lambda document: ""


def _of_the_peak(document: Document) -> str:
    block = find("lorentznet", document, "fused op of one block, forward", None)
    share = 100 * block["fraction_of_fma_peak"]
    return f"The fused op of one block reaches {share:.0f} % of the multiply-add rate measured in the same run."


STEP = "peak memory of a training step"
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
            Line(f"{STEP}, process", "process", memory=True),
            Line(f"{STEP}, PyTorch's allocator", "PyTorch's allocator", memory=True),
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
            Line(f"{STEP}, process", "n 27 to 54, process", memory=True),
            Line(f"{STEP}, PyTorch's allocator", "n 27 to 54, PyTorch's allocator", memory=True),
        ),
    ),
)


@dataclass(frozen=True)
class Target:
    """A number to reach: the field of a row, and at least how much of it."""

    what: str
    network: str
    row: str
    at_least: float
    field: str = "ratio"
    baseline: str | None = PUBLISHED
    memory: bool = False


TARGETS = (
    Target("LorentzNet, forward, 100 jets", "lorentznet", "forward, 100 jets", 25),
    Target("the same, bfloat16 products", "lorentznet", "forward, 100 jets, bfloat16 products", 40),
    Target("LorentzNet, training step, 100 jets", "lorentznet", "training step, 100 jets", 15),
    Target("the same, peak memory", "lorentznet", "PyTorch's allocator", 20, memory=True),
    Target(
        "LorentzNet, fused op of one block, of the multiply-add peak",
        "lorentznet",
        "fused op of one block, forward",
        0.7,
        "fraction_of_fma_peak",
        None,
    ),
    Target("PELICAN, forward, 16 events", "pelican", "forward, 16 events, n 27 to 54", 40),
    Target("PELICAN, training step, 16 events", "pelican", "training step, 16 events, n 27 to 54", 25),
    Target("EGNN, forward, 80k edges", "egnn", "forward, 80,000 edges", 8),
    Target("EGNN, training step, 80k edges", "egnn", "training step, 80,000 edges", 8),
    Target("EuclidNet, forward, 80k edges", "euclidnet", "forward, 80,256 edges", 8),
    Target("EuclidNet, training step, 80k edges", "euclidnet", "training step, 80,256 edges", 8),
    Target(
        "LorentzNet beside ParticleNet, forward", "taggers", "LorentzNet, forward, 100 jets", 1, baseline="particlenet"
    ),
)


def load(root: Path) -> dict[str, Document]:
    """Network -> document, of all committed results."""
    found: dict[str, Document] = {}
    for path in sorted((root / RESULTS).glob("*.json")):
        found |= documents(path)
    return found


def numbers(results: dict[str, Document]) -> str:
    """README's tables. A network that has not been measured has none; a row that is missing is a LookupError."""
    return "\n\n".join(_table(table, results[table.network]) for table in TABLES if table.network in results)


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
        lines.append(f"| {line.label} | {times} | **{_ratio(row['ratio'])}{less}** |")
        if row.get("noise", 0.0) > NOISY:
            noisy.append(f"{line.label} ({100 * row['noise']:.0f} %)")
    if closing := table.closing(document):
        lines += ["", closing]
    if noisy:
        lines += ["", f"Times that scatter, with their interquartile range over the median: {'; '.join(noisy)}."]
    return "\n".join(lines)


def _ratio(value: float) -> str:
    return f"{value:.2g}x" if value < 1 else f"{value:.1f}x"


def targets(results: dict[str, Document]) -> str:
    """The table of targets, reached or short by how much."""
    lines = ["| CPU, 2 threads | target | measured | |", "|---|---|---|---|"]
    for target in TARGETS:
        share = target.field != "ratio"

        def show(value: float, share: bool = share) -> str:
            return f"{100 * value:.0f} %" if share else _ratio(value)

        wanted = show(target.at_least)
        if target.network not in results:
            lines.append(f"| {target.what} | {wanted} | not measured | |")
            continue
        document = results[target.network]
        row: dict[str, Any]
        if target.memory:
            row = find_memory(target.network, document, target.row)
        else:
            row = find(target.network, document, target.row, target.baseline)
        value = row[target.field]
        missing = 100 * (1 - value / target.at_least)
        verdict = "reached" if value >= target.at_least else f"short by {missing:.0f} %"
        lines.append(f"| {target.what} | {wanted} | {show(value)} | {verdict} |")
    return "\n".join(lines)


PAGES = {Path("README.md"): ("numbers", numbers), Path("docs") / "measuring.md": ("targets", targets)}


def render(text: str, name: str, content: str) -> str:
    """Text with what stands between ``<!-- name: begin -->`` and ``<!-- name: end -->`` replaced."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise LookupError(f"expected one {begin} and one {end}")
    pattern = re.compile(re.escape(begin) + ".*" + re.escape(end), re.DOTALL)
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)


def out_of_step(root: Path) -> dict[Path, str]:
    """Page -> what it should be, for each one that is not."""
    results = load(root)
    wanted: dict[Path, str] = {}
    for page, (name, make) in PAGES.items():
        text = (root / page).read_text()
        if (new := render(text, name, make(results))) != text:
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
        print(f"{path}: {'not in step' if options.check else 'written'}")
        if not options.check:
            path.write_text(text)
    return int(options.check and bool(pages))


if __name__ == "__main__":
    sys.exit(main())
