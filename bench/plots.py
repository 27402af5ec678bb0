"""Plots of the results in bench/results; measures nothing.

python -m bench.plots [FOLDER of results]            writes docs/speedup.png, docs/roofline.png and docs/growth.png
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from equikernels.plots import FAINT, INK, OURS, figure_of, style

from .costs import GROUPS, Group
from .readme import RESULTS
from .records import Document, baseline_of, documents, machine_line
from .side_by_side import PUBLISHED as PUBLISHED_SIDE

DPI = 110
COLOURS = ("#7b3294", "#1b6ca8", "#2a9d57", "#d98c1f")


# --- Speed-ups ----------------------------------------------------------------------------------------------------

BARS = {
    "forward": OURS,
    "training step": "#8fb8d8",
    "forward, one event or a small graph": "#e0a458",
}


def bars_of(document: Document, group: Group) -> dict[str, tuple[str, float]]:
    """Kind of bar -> the size it is of and its ratio to the published formula, as far as measured."""
    ratios = {row["what"]: row["ratio"] for row in document["rows"] if baseline_of(row) == PUBLISHED_SIDE}
    names = zip(BARS, ("forward", "training step", "forward"), (group.large, group.large, group.small), strict=True)
    return {kind: (size, ratios[f"{what}, {size}"]) for kind, what, size in names if f"{what}, {size}" in ratios}


def speedup(results: dict[str, Document]) -> Any:
    """Three bars for each network: the published formula's time over ours."""
    groups = {g.title: found for name, g in GROUPS.items() if (found := bars_of(results.get(name, {"rows": []}), g))}
    if not groups:
        return None
    figure = figure_of(figsize=(6.6, 0.8 + 0.75 * len(groups)), dpi=DPI)
    axes = figure.add_subplot()
    ticks, top = [], 0.0
    for title, found in groups.items():
        for kind, (size, ratio) in found.items():
            axes.barh(top, ratio - 1, left=1, color=BARS[kind], height=0.9, label=kind)
            # right of the bar; where it points to the left, right of the line that it starts from
            place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
            axes.annotate(f"{ratio:.1f}x  {size}", (max(ratio, 1), top), **place, fontsize=8.5, color=INK)
            top += 1
        ticks.append((top - (len(found) + 1) / 2, title))
        top += 0.8
    axes.set_yticks(*zip(*ticks, strict=True), fontsize=10)
    axes.set(xscale="log", ylim=(top - 1.2, -0.8), xlabel="time of the published formula over time of equikernels")
    lowest, highest = (f(ratio for found in groups.values() for _, ratio in found.values()) for f in (min, max))
    axes.set_xlim(0.8 * min(lowest, 1), 7 * highest)  # room for the label of the longest bar
    marks = [v for v in (0.5, 1, 2, 5, 10, 20, 50, 100) if v <= 1.5 * highest and v >= min(lowest, 1)]
    axes.set_xticks(marks, [f"{v:g}x" for v in marks])
    axes.minorticks_off()
    axes.axvline(1, color=INK, linewidth=1)
    axes.tick_params(axis="y", length=0)
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        [handles[kind] for kind in BARS if kind in handles],
        [kind for kind in BARS if kind in handles],
        loc="outside upper center",
        ncols=3,
        frameon=False,
        fontsize=8.5,
    )
    style(axes)
    axes.spines["left"].set_visible(False)
    axes.grid(False, axis="y")
    return figure


# --- Roofline -----------------------------------------------------------------------------------------------------

INPUTS = ("100 jets", "20 jets", "16 jets", "80k edges")
# A family of ops, those whose names start so, has a colour; an op of it has a marker.
FAMILIES = (
    ("#7b3294", ("message_passing", "row_mlp")),
    ("#2a9d57", ("linear_", "pairwise_linear", "pairwise_network", "rank2_")),
    ("#1b6ca8", ("segment_", "gather_segment_")),
    ("#d0602a", ("",)),
)
MARKERS = "osD^vP*Xhd"


def marks_of(ops: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Op -> colour and marker, each pair once; sorted by family."""
    marks: dict[str, tuple[str, str]] = {}
    left = sorted(ops)
    for colour, starts in FAMILIES:
        mine = [op for op in left if op.startswith(starts)]
        marks |= {op: (colour, marker) for op, marker in zip(mine, MARKERS, strict=False)}
        left = [op for op in left if op not in marks]
    return marks


def roofline(results: dict[str, Document]) -> Any:
    """Our kernels under the ceilings of the same run: the formula's FLOPs a second against its FLOPs a byte."""
    document = results.get("kernels")
    if document is None:
        return None
    threads = document["machine"]["threads"]
    rows = [r for r in document["rows"] if r.get("flops") and r["threads"] == threads and r["dtype"] == "float32"]
    points = {(r["op"], r["graph"], r["pass"]): r for r in rows if r["graph"] in INPUTS}
    if not points:
        return None
    ceilings = document["ceilings"]
    peaks = {key.removesuffix("_gflops").replace("_", " "): v for key, v in ceilings.items() if "gflops" in key}
    bandwidth, peak = ceilings["copy_gb_per_s"], max(peaks.values())
    figure = figure_of(figsize=(9.5, 5), dpi=DPI)
    axes = figure.add_subplot()
    lowest = min(r["flops"] / r["bytes"] for r in points.values())
    x = [lowest / 2, peak / bandwidth, 400 * peak / bandwidth]
    axes.plot(x, [bandwidth * v if v < x[1] else peak for v in x], color=INK, linewidth=1.5)
    axes.text(x[1] / 3, bandwidth * x[1] / 2.2, f"copy, {bandwidth:.0f} GB/s", fontsize=8, ha="right")
    for name, value in peaks.items():
        axes.axhline(value, color=FAINT, zorder=0)
        axes.text(x[2], value * 1.1, f"{name}, {value:.0f} GFLOP/s", fontsize=8, ha="right")
    for op, (colour, marker) in marks_of({key[0] for key in points}).items():
        for what in ("forward", "forward and backward"):
            mine = [r for (name, _, p), r in points.items() if name == op and p == what]
            if not mine:
                continue
            ours = [1e-6 * r["flops"] / r["equikernels_ms"] for r in mine]
            forward = what == "forward"
            axes.plot(
                [r["flops"] / r["bytes"] for r in mine],
                ours,
                marker,
                color=colour,
                markerfacecolor=colour if forward else "white",
                label=op if forward else None,
                markersize=8 if marker in "P*" else 6.5,
            )
    axes.set(xscale="log", yscale="log", xlabel="FLOPs of the formula per byte of its inputs and outputs")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"{machine_line(document)}\nfilled: forward; open: forward and backward", loc="left", fontsize=9)
    axes.set_ylim(top=2 * peak)  # room for the names of ceilings
    figure.legend(loc="outside right upper", frameon=False, fontsize=8.5)
    style(axes)
    return figure


# --- Growth -------------------------------------------------------------------------------------------------------


def growth(results: dict[str, Document]) -> Any:
    """Time and peak memory of a training step against constituents."""
    document = results.get("growth")
    if document is None:
        return None
    rows = document["rows"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure = figure_of(figsize=(8.5, 0.5 + 3.4 * len(networks)), dpi=DPI)
    panels = figure.subplots(len(networks), 2, squeeze=False)
    for line, network in zip(panels, networks, strict=True):
        for axes, unit in zip(line, ("ms", "mib"), strict=True):
            batches = sorted({row["batch"] for row in rows})
            for batch, colour in zip(batches, COLOURS, strict=False):
                mine = [r for r in rows if (r["network"], r["batch"], r["pass"]) == (network, batch, "training step")]
                for side, dash in (("equikernels", "-"), ("published", ":")):
                    curve = sorted((r["n"], r[f"{side}_{unit}"]) for r in mine if f"{side}_{unit}" in r)
                    if curve:
                        face = colour if side == "equikernels" else "white"
                        label = f"batch {batch}" if side == "equikernels" else None
                        axes.plot(
                            *zip(*curve, strict=True),
                            dash,
                            marker="o",
                            markersize=4.5,
                            color=colour,
                            markerfacecolor=face,
                            label=label,
                        )
            axes.set(xscale="log", yscale="log", xlabel="constituents", title=network)
            axes.set_ylabel("training step [ms]" if unit == "ms" else "its peak memory [MiB]")
            sizes = sorted({row["n"] for row in rows})
            axes.set_xticks(sizes, [str(n) for n in sizes])
            axes.minorticks_off()
            axes.yaxis.set_major_formatter("{x:g}")
            style(axes)
    panels[0][0].plot([], [], "-o", color=INK, markersize=4.5, label="equikernels")
    panels[0][0].plot([], [], ":o", color=INK, markersize=4.5, markerfacecolor="white", label="published formula")
    figure.legend(
        *panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=6, frameon=False, fontsize=8.5
    )
    return figure


PLOTS = {"speedup": speedup, "roofline": roofline, "growth": growth}


def save(figure: Any, path: Path) -> None:
    """Saves with a palette of few colours, for small files in the repository."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight")  # legends stand beside the axes
    kept = Image.open(buffer).convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE)  # which keeps thin lines apart
    kept.save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("docs"), metavar="FOLDER")
    options = parser.parse_args(argv)
    results = documents(options.results)
    for name, make in PLOTS.items():
        if (figure := make(results)) is None:
            print(f"{name}: nothing measured")
            continue
        path = options.out / f"{name}.png"
        save(figure, path)
        print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
