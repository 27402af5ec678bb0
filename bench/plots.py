"""Plots of the results in bench/results; measures nothing.

python -m bench.plots [FOLDER of results]            writes docs/speedup.png, docs/roofline.png and docs/growth.png
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from equikernels.plots import FAINT, INK, OURS, PUBLISHED, figure_of, style

from .pages import RESULTS
from .records import Document, baseline_of, documents, machine_line

DPI = 80
COLOURS = ("#7b3294", "#1b6ca8", "#2a9d57", "#d98c1f")
NOT_NETWORKS = ("growth", "kernels", "taggers")


def speedup(results: dict[str, Document]) -> Any:
    """A bar for each row that has a ratio."""
    bars: list[tuple[str, float]] = []
    for network, document in results.items():
        if document["network"] in NOT_NETWORKS:
            continue
        for row in document["rows"]:
            if "ratio" in row:
                against = row.get("baseline", baseline_of(row))
                said = against == "published" or against in row["what"]
                bars.append((f"{network}: {row['what']}{'' if said else f' / {against}'}", row["ratio"]))
    if not bars:
        return None
    figure = figure_of(figsize=(9, 1 + 0.22 * len(bars)), dpi=DPI)
    axes = figure.add_subplot()
    names, ratios = zip(*bars, strict=True)
    drawn = axes.barh(range(len(bars)), [r - 1 for r in ratios], left=1, color=OURS, height=0.7)
    axes.bar_label(drawn, [f"{r:.1f}x" for r in ratios], padding=3, fontsize=8, color=INK)
    axes.set_yticks(range(len(bars)), names, fontsize=8)
    axes.set(xscale="log", ylim=(len(bars) - 0.4, -0.6), xlabel="the baseline's time over equikernels'")
    axes.margins(x=0.12)
    axes.axvline(1, color=INK, linewidth=1)
    style(axes)
    return figure


def roofline(results: dict[str, Document]) -> Any:
    """Our kernels under the ceilings of the same run: the formula's FLOPs a second against its FLOPs a byte."""
    document = results.get("kernels")
    if document is None:
        return None
    threads = document["machine"]["threads"]
    rows = [r for r in document["rows"] if r.get("flops") and r["threads"] == threads and r["dtype"] == "float32"]
    points = {(r["op"], r["graph"], r["pass"]): r for r in rows if r["graph"] in LARGE}
    if not points:
        return None
    ceilings = document["ceilings"]
    peaks = {key.removesuffix("_gflops").replace("_", " "): v for key, v in ceilings.items() if "gflops" in key}
    bandwidth, peak = ceilings["copy_gb_per_s"], max(peaks.values())
    figure = figure_of(figsize=(9, 5.2), dpi=DPI)
    axes = figure.add_subplot()
    lowest = min(r["flops"] / r["bytes"] for r in points.values())
    x = [lowest / 2, peak / bandwidth, 30 * peak / bandwidth]
    axes.plot(x, [bandwidth * v if v < x[1] else peak for v in x], color=INK, linewidth=1.5)
    axes.text(x[0], bandwidth * x[0] * 1.3, f"copy {bandwidth:.0f} GB/s", fontsize=8, rotation=0)
    for name, value in peaks.items():
        axes.axhline(value, color=FAINT, zorder=0)
        axes.text(x[2], value * 1.05, f"{name} {value:.0f} GFLOP/s", fontsize=8, ha="right")
    for op, colour in zip(sorted({key[0] for key in points}), _colours(), strict=False):
        for what, marker in (("forward", "o"), ("forward and backward", "s")):
            mine = [r for (name, _, p), r in points.items() if name == op and p == what]
            if mine:
                ours = [1e-6 * r["flops"] / r["equikernels_ms"] for r in mine]
                label = op if what == "forward" else None
                intensity = [r["flops"] / r["bytes"] for r in mine]
                axes.plot(intensity, ours, marker, color=colour, label=label, markersize=6, alpha=0.8)
    axes.set(xscale="log", yscale="log", xlabel="FLOPs of the formula per byte of its inputs and outputs")
    axes.set(ylabel="GFLOP/s", title=f"circles: forward, squares: forward and backward; {machine_line(document)}")
    axes.title.set_fontsize(9)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    style(axes)
    return figure


LARGE = ("100 jets", "20 jets", "16 jets", "80k edges")


def _colours() -> Any:
    from matplotlib import colormaps

    return colormaps["tab20"].colors


def growth(results: dict[str, Document]) -> Any:
    """Time and peak memory of a training step against constituents."""
    document = results.get("growth")
    if document is None:
        return None
    rows = document["rows"]
    networks = list(dict.fromkeys(row["network"] for row in rows))
    figure = figure_of(figsize=(9, 3.6 * len(networks)), dpi=DPI)
    panels = figure.subplots(len(networks), 2, squeeze=False)
    for line, network in zip(panels, networks, strict=True):
        for axes, unit in zip(line, ("ms", "mib"), strict=True):
            batches = sorted({row["batch"] for row in rows})
            for batch, colour in zip(batches, COLOURS, strict=False):
                mine = [r for r in rows if (r["network"], r["batch"], r["pass"]) == (network, batch, "training step")]
                for side, dash in (("equikernels", "-"), ("published", ":")):
                    curve = sorted((r["n"], r[f"{side}_{unit}"]) for r in mine if f"{side}_{unit}" in r)
                    if curve:
                        label = f"batch {batch}" if side == "equikernels" else None
                        axes.plot(*zip(*curve, strict=True), dash, marker="o", markersize=4, color=colour, label=label)
            axes.set(xscale="log", yscale="log", xlabel="constituents", title=network)
            axes.set_ylabel("training step [ms]" if unit == "ms" else "its peak memory [MiB]")
            sizes = sorted({row["n"] for row in rows})
            axes.set_xticks(sizes, [str(n) for n in sizes])
            axes.minorticks_off()
            style(axes)
    panels[0][0].legend(frameon=False, fontsize=8)
    panels[0][1].plot([], [], ":", color=PUBLISHED, label="dotted: published formula")
    panels[0][1].legend(frameon=False, fontsize=8)
    return figure


PLOTS = {"speedup": speedup, "roofline": roofline, "growth": growth}


def save(figure: Any, path: Path) -> None:
    """Saves with a palette of few colours, for small files in the repository."""
    from PIL import Image

    buffer = io.BytesIO()
    figure.savefig(buffer)
    Image.open(buffer).convert("RGB").quantize(48).save(path, optimize=True)


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
