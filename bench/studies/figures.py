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
    finish(figure, axes, path)


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[Spread]]], x: str, y: str, path: Path, **axes_options: Any
) -> None:
    """Lines with bands of one standard deviation over seeds."""
    figure = figure_of(figsize=(6.6, 4.2), dpi=DPI)
    axes = figure.add_subplot()
    for k, (name, (place, found)) in enumerate(lines.items()):
        mean = [s.mean for s in found]
        colour = MORE[k % len(MORE)]
        axes.plot(place, mean, marker="o", markersize=3.5, color=colour, label=name)
        low, high = zip(*((s.mean - deviation(s), s.mean + deviation(s)) for s in found), strict=True)
        axes.fill_between(place, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=x, ylabel=y, **axes_options)
    axes.legend(fontsize=8, frameon=False)
    finish(figure, axes, path)


def finish(figure: Any, axes: Any, path: Path) -> None:
    style(axes)
    save(figure, path)
