"""The tables of README.md: which rows they show of bench/results/*.json."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .memory import TITLE
from .records import Document, find, find_memory, machine_line, milliseconds
from .side_by_side import NOISY, OURS, PUBLISHED

RESULTS = Path("bench") / "results"


@dataclass(frozen=True)
class Line:
    """A row of the README's table: its label and its name in the results."""

    label: str
    what: str
    baseline: str = PUBLISHED
    memory: bool = False
    optional: bool = False  # not every machine has it

    def row(self, network: str, document: Document) -> dict[str, Any]:
        """Its row of the results; LookupError where there is none."""
        if self.memory:
            return find_memory(network, document, self.what)
        return find(network, document, self.what, self.baseline)


@dataclass(frozen=True)
class Table:
    """The README's table of one network."""

    network: str
    title: str
    inputs: str  # formatted with the document
    lines: tuple[Line, ...]
    closing: Callable[[Document], str] = lambda document: ""

    def rows(self, document: Document) -> Iterator[tuple[Line, dict[str, Any]]]:
        """Its lines and their rows of the results; LookupError where one is missing that every machine has."""
        for line in self.lines:
            try:
                row = line.row(self.network, document)
            except LookupError:
                if not line.optional:
                    raise
                continue
            yield line, row


def _of_the_peak(document: Document) -> str:
    block = find("lorentznet", document, BLOCK, None)
    share = 100 * block["fraction_of_fma_peak"]
    return f"The fused op of one block reaches {share:.0f} % of the multiply-add rate measured in the same run."


BLOCK = "fused op of one block, forward"
IN_BFLOAT16 = "training step, 100 jets, bfloat16 products"
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
            Line(IN_BFLOAT16, IN_BFLOAT16, optional=True),
            Line("forward, one jet of 56 constituents", "forward, one jet of 56 constituents"),
            Line("forward, 100 jets, AVX2 kernels", "forward, 100 jets, AVX2 kernels", optional=True),
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
    "euclidnet_so3": "EuclidNet (SO(3), H 16)",
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
    for line, row in table.rows(document):
        if line.memory:
            times, less = f"{row[PUBLISHED]:.0f} MiB | {row[OURS]:.0f} MiB", " less"
        else:
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
