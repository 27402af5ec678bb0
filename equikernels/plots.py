"""Plots of the demo and of trainings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data import Jets, invariant_mass
from .metrics import Roc

Sweep = dict[int, tuple[float, int | None]]
LEADING = 3  # constituents that are labelled
PUBLISHED, OURS, INK, FAINT = "#b8502a", "#1b6ca8", "#222222", "#c8c8c8"


def figure_of(*args: Any, **kwargs: Any) -> Any:
    # Without pyplot: no window system and no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(*args, layout="constrained", **kwargs)
    FigureCanvasAgg(figure)
    return figure


def style(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, which="major", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)


def batch_size(published: Sweep, ours: Sweep, title: str, path: Path) -> None:
    """Time and peak memory of one forward pass against batch size, for both sides."""
    figure = figure_of(figsize=(9, 4), dpi=150)
    for axes, column, factor, label in zip(
        figure.subplots(1, 2), (0, 1), (1e3, 2**-20), ("Time of a forward pass [ms]", "Peak memory [MiB]"), strict=True
    ):
        axes.set(xscale="log", yscale="log", xlabel="Jets in a batch", ylabel=label)
        last = []
        for sweep, name, colour in ((published, "published formula, eager", PUBLISHED), (ours, "equikernels", OURS)):
            points = [(size, value * factor) for size, point in sweep.items() if (value := point[column])]
            if not points:
                continue
            axes.plot(*zip(*points, strict=True), marker="o", markersize=5, linewidth=2, color=colour, label=name)
            last.append(points[-1])
        if len(last) == 2 and last[0][0] == last[1][0]:
            (size, high), (_, low) = last
            axes.annotate("", (size, high), (size, low), arrowprops={"arrowstyle": "<->", "color": INK, "shrinkA": 5})
            axes.text(size * 1.15, (high * low) ** 0.5, f"{high / low:.1f}x", va="center", color=INK, fontsize=11)
            axes.set_xlim(right=size * 2.5)
        axes.set_xticks(list(ours), [str(size) for size in ours])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        style(axes)
    # Pages that the process already has hide smaller amounts.
    figure.axes[1].set_ylim(bottom=1)
    figure.axes[0].legend(frameon=False, loc="upper left")
    figure.suptitle(f"{title}; float32, CPU", fontsize=12, color=INK)
    figure.savefig(path)


def event_display(jets: Jets, path: Path, score: Tensor | None = None) -> None:
    """A top jet in the plane of pseudorapidity and azimuth: a disc for each constituent, its area the pT; with the
    tagger's score, if given for all jets."""
    from matplotlib.patches import Circle
    from matplotlib.patheffects import withStroke

    index, pt, eta, phi = _showcase(jets)
    p4 = jets[index : index + 1].p4
    total = p4.double().sum(0)
    mass = float(invariant_mass(total[None]))
    figure = figure_of(figsize=(6.4, 5.6), dpi=150)
    axes = figure.add_subplot()
    axes.add_patch(Circle((0, 0), 0.8, fill=False, linestyle="--", color=FAINT))
    axes.text(0, -0.83, "R = 0.8", color="#8a8a8a", ha="center", va="top", fontsize=9)
    dots = axes.scatter(
        eta, phi, s=4 + 900 * pt / pt.max(), c=pt, cmap="viridis_r", norm="log", alpha=0.75, edgecolors="white"
    )
    for k in range(min(LEADING, len(pt))):
        radius = (4 + 900 * float(pt[k] / pt.max())) ** 0.5 / 2  # of the dot, in points
        axes.annotate(
            f"{k + 1}: {pt[k]:.0f} GeV",
            (float(eta[k]), float(phi[k])),
            (0, radius + 2),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            color=INK,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
    figure.colorbar(dots, ax=axes, label=r"constituent $p_T$ [GeV]", shrink=0.85)
    kind = "top quark" if int(jets.label[index]) else "quark or gluon"
    axes.set(
        xlim=(-0.95, 0.95),
        ylim=(-0.95, 0.95),
        aspect="equal",
        xlabel=r"$\eta - \eta_\mathrm{jet}$",
        ylabel=r"$\phi - \phi_\mathrm{jet}$",
        title=rf"Simulated {kind} jet: $p_T$ = {float(total[1:3].norm()):.0f} GeV, $m$ = {mass:.0f} GeV, "
        f"{len(pt)} constituents" + ("" if score is None else f", score {float(score[index]):.3f}"),
    )
    axes.title.set_fontsize(11)
    style(axes)
    figure.savefig(path)


def roc(curves: Mapping[str, Roc], path: Path) -> None:
    """Background rejection against signal efficiency: a line for each name; equal ones are dashed over each other."""
    figure = figure_of(figsize=(5.6, 4.6), dpi=150)
    axes = figure.add_subplot()
    for k, (name, curve) in enumerate(curves.items()):
        shown = curve.background > 0
        style_of = {"color": (OURS, PUBLISHED)[k % 2], "linestyle": ("-", "--")[k % 2]}
        axes.plot(curve.signal[shown], 1 / curve.background[shown], linewidth=2, label=name, **style_of)
    axes.set(
        xlim=(0, 1), ylim=(1, None), yscale="log", xlabel="signal efficiency", ylabel="background rejection 1/eps_B"
    )
    axes.legend(frameon=False, loc="upper right")
    style(axes)
    figure.savefig(path)


def score_histogram(score: Any, label: Any, path: Path) -> None:
    """Scores of signal and of background, each normalised to 1."""
    figure = figure_of(figsize=(5.6, 4.2), dpi=150)
    axes = figure.add_subplot()
    for name, value, colour in (("background", 0, PUBLISHED), ("signal", 1, OURS)):
        chosen = score[label == value]
        axes.hist(
            chosen, bins=50, range=(0, 1), density=True, histtype="stepfilled", alpha=0.45, color=colour, label=name
        )
    axes.set(xlim=(0, 1), yscale="log", xlabel="score", ylabel="events, normalised")
    axes.legend(frameon=False, loc="upper center")
    style(axes)
    figure.savefig(path)


def _showcase(jets: Jets) -> tuple[int, Tensor, Tensor, Tensor]:
    """The top jet (if there is one) whose three leading constituents are farthest apart, which shows its prongs.

    Returns its index, and the pT, eta and phi of its constituents about its axis, by falling pT.
    """
    candidates = jets.label.nonzero().flatten().tolist() or range(len(jets))

    def spread(b: int) -> float:
        pt, eta, phi = (t[:LEADING] for t in _relative(jets[b : b + 1].p4))
        distance = torch.pdist(torch.stack([eta, phi], dim=1))
        return float(distance.min() * pt[-1]) if len(pt) == LEADING else 0.0

    best = max(candidates, key=spread)
    return best, *_relative(jets[best : best + 1].p4)


def _relative(p4: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    p = torch.cat([p4, p4.sum(0, keepdim=True)]).double()
    pt = p[:, 1:3].norm(dim=1)
    eta = torch.asinh(p[:, 3] / pt)
    phi = torch.atan2(p[:, 2], p[:, 1])
    turn = phi[:-1] - phi[-1]
    order = pt[:-1].argsort(descending=True)
    return pt[:-1][order], (eta[:-1] - eta[-1])[order], torch.atan2(turn.sin(), turn.cos())[order]
