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
MORE = (*COLOURS, "#c0392b", "#5d6d7e", "#8e6c3a", "#d670ad", "#000000")


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
        place = numbers[0]["parameters"], found.mean
        axes.errorbar(*place, yerr=deviation(found), fmt="o", color=MORE[k % len(MORE)], capsize=3)
        axes.annotate(group, place, xytext=(6, 4), textcoords="offset points", fontsize=8.5)
    axes.set(xscale="log", xlabel="parameters", ylabel=title, **axes_options)
    style(axes)
    save(figure, path)


def bars(results: Results, name: str, title: str, path: Path) -> None:
    """A point for each group, one below another, with the spread over its seeds."""
    found = {group: s for group in results.groups if (s := results.spread(group, name)) is not None}
    figure = figure_of(figsize=(6.4, 0.8 + 0.4 * len(found)), dpi=DPI)
    axes = figure.add_subplot()
    for k, s in enumerate(found.values()):
        axes.errorbar(s.mean, -k, xerr=deviation(s), fmt="o", color=MORE[k % len(MORE)], capsize=3)
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
    """Lines with bands of one standard deviation over seeds; an empty one is left out."""
    style(axes)
    for k, (name, (place, found)) in enumerate(lines.items()):
        if not found:
            continue
        colour = MORE[k % len(MORE)]
        axes.plot(place, [s.mean for s in found], marker="o", markersize=3.5, color=colour, label=name)
        low, high = zip(*((s.mean - deviation(s), s.mean + deviation(s)) for s in found), strict=True)
        axes.fill_between(place, low, high, color=colour, alpha=0.15, linewidth=0)
    if lines:
        axes.legend(fontsize=7.5, frameon=False)
