"""Plots of studies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from equikernels.metrics import Spread
from equikernels.plots import figure_of, style

from ..plots import COLOURS, DPI, save
from .study import Results

Lines = Mapping[str, tuple[Sequence[float], Sequence[Spread]]]  # name -> places and values
MORE = (*COLOURS, "#c0392b", "#5d6d7e", "#d670ad", "#000000")
MARKERS = "osD^v"
BANDS = 4  # more lines have error bars: bands would cover each other


def deviation(found: Spread) -> float:
    """Zero for one training alone."""
    return 0.0 if math.isnan(found.deviation) else found.deviation


def against_parameters(results: Results, name: str, title: str, path: Path, **axes_options: Any) -> None:
    """A point for each group, with the spread over its seeds."""
    figure = figure_of(figsize=(6.4, 4.0), dpi=DPI)
    axes = figure.add_subplot()
    for k, (group, numbers) in enumerate(results.groups.items()):
        found = results.spread(group, name)
        if found is None or "parameters" not in numbers[0]:
            continue
        axes.errorbar(numbers[0]["parameters"], found.mean, yerr=deviation(found), capsize=3, label=group, **mark(k))
    axes.set(xscale="log", xlabel="parameters", ylabel=title, **axes_options)
    style(axes)
    legend(axes)
    save(figure, path)


def mark(k: int) -> dict[str, Any]:
    """Colour and marker of the k-th group; the first forty differ."""
    return {"color": MORE[k % len(MORE)], "fmt": MARKERS[k // len(MORE) % len(MARKERS)], "markersize": 5.5}


def legend(axes: Any) -> None:
    """On the right, where it covers nothing."""
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def bars(results: Results, name: str, title: str, path: Path) -> None:
    """A point for each group, one below another, with the spread over its seeds."""
    found = {group: s for group in results.groups if (s := results.spread(group, name)) is not None}
    figure = figure_of(figsize=(6.4, 0.8 + 0.4 * len(found)), dpi=DPI)
    axes = figure.add_subplot()
    for k, s in enumerate(found.values()):
        axes.errorbar(s.mean, -k, xerr=deviation(s), capsize=3, **mark(k))
    axes.set_yticks([-k for k in range(len(found))], list(found))
    axes.set(xlabel=title)
    style(axes)
    save(figure, path)


def curves(lines: Lines, path: Path, **axes_options: Any) -> None:
    """A plot of lines alone; the options are those of matplotlib's Axes.set."""
    figure = figure_of(figsize=(6.6, 4.2), dpi=DPI)
    axes = figure.add_subplot()
    draw(axes, lines)
    axes.set(**axes_options)
    save(figure, path)


def draw(axes: Any, lines: Lines) -> None:
    """Lines with one standard deviation over seeds, as bands where they are few; an empty line is left out."""
    style(axes)
    shown = {name: line for name, line in lines.items() if line[1]}
    for k, (name, (place, found)) in enumerate(shown.items()):
        middle, spread = [s.mean for s in found], [deviation(s) for s in found]
        if len(shown) > BANDS:
            axes.errorbar(
                place, middle, yerr=spread, elinewidth=0.8, label=name, **{**mark(k), "markersize": 4}, ls="-"
            )
            continue
        axes.plot(place, middle, marker="o", markersize=3.5, color=MORE[k], label=name)
        low, high = zip(*((m - d, m + d) for m, d in zip(middle, spread, strict=True)), strict=True)
        axes.fill_between(place, low, high, color=MORE[k], alpha=0.15, linewidth=0)
    if shown:
        legend(axes)
