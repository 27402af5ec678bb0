"""What papers report of a classifier: accuracy, AUC, background rejection, efficiency and purity, ant factors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .checks import fail

Array = NDArray[np.float64]
CONFIDENCE = 0.95  # of the bound where no background passes
SCAN = np.arange(1, 500) / 1000  # thresholds of hit-graph papers


class Roc(NamedTuple):
    """One point for each distinct score, from the strictest cut on, after (0, 0).

    Attributes:
        background, signal: [k + 1] the fractions that pass, score >= threshold.
        threshold: [k + 1], infinity first.
    """

    background: Array
    signal: Array
    threshold: Array


class Rejection(NamedTuple):
    """Background rejection at a signal efficiency.

    Attributes:
        value: 1 / eps_B; where no background passes, the lower bound at 95 % confidence.
        error: of value, from the number of background events that pass; NaN for a bound.
        efficiency: the signal efficiency of the point.
        passed, background: background events that pass, and all of them.
        is_bound: whether no background passes.
    """

    value: float
    error: float
    efficiency: float
    passed: int
    background: int
    is_bound: bool

    def __str__(self) -> str:
        return f"> {self.value:.0f}" if self.is_bound else f"{self.value:.0f} +- {self.error:.0f}"


class Edges(NamedTuple):
    """Of the edges of hit graphs.

    Attributes:
        efficiency: true edges that are selected, of all true ones.
        purity: true edges among those selected; NaN if none is.
    """

    efficiency: float
    purity: float


class Calibration(NamedTuple):
    """Bins of equal width in the score.

    Attributes:
        score, fraction: [bins] mean score and fraction of signal; NaN in an empty bin.
        weight: [bins] sum of weights, or numbers of events.
        error: mean of \\|score - fraction\\| over all events.
    """

    score: Array
    fraction: Array
    weight: Array
    error: float


class Spread(NamedTuple):
    """Of one number over trainings with several seeds: mean, standard deviation (of the sample) and how many."""

    mean: float
    deviation: float
    trainings: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} +- {self.deviation:.2g} ({self.trainings})"


Given = Tensor | ArrayLike | NDArray[np.generic]


def accuracy(score: Given, label: Given, threshold: float = 0.5, weight: Given | None = None) -> float:
    """The fraction of events on the right side of a cut.

    Args:
        score: [n], larger for signal.
        label: [n], 1 for signal, 0 for background.
        threshold: events with score >= threshold are called signal.
        weight: [n] >= 0, or None: 1 each.

    Raises:
        ValueError: no events, wrong shapes, a score that is NaN, other labels, negative weights.
    """
    s, y, w = _checked("accuracy", score, label, weight, both=False)
    return float(w[(s >= threshold) == y].sum() / w.sum())


def roc(score: Given, label: Given, weight: Given | None = None) -> Roc:
    """The empirical curve, a point for each distinct score. Arguments as :func:`accuracy`; both classes are needed."""
    s, y, w = _checked("roc", score, label, weight)
    order = np.argsort(-s, kind="stable")
    s, y, w = s[order], y[order], w[order]
    last = np.append(np.flatnonzero(s[1:] != s[:-1]), len(s) - 1)
    signal, background = (np.cumsum(w * k)[last] for k in (y, ~y))
    return Roc(
        np.append(0.0, background / background[-1]), np.append(0.0, signal / signal[-1]), np.append(np.inf, s[last])
    )


def auc(score: Given, label: Given, weight: Given | None = None) -> float:
    """The area under the curve: the probability that a signal event has the larger score than a background event, ties
    half. From the scores themselves, not from a grid of cuts. Arguments as :func:`accuracy`; both classes are needed.
    """
    curve = roc(score, label, weight)
    return float(np.sum(np.diff(curve.background) * (curve.signal[1:] + curve.signal[:-1]) / 2))


def rejection(score: Given, label: Given, efficiency: float = 0.3, weight: Given | None = None) -> Rejection:
    """1 / eps_B at a signal efficiency: at the point of the curve whose signal efficiency is closest (the first of two
    that are as close), as in the papers of LorentzNet and PELICAN. Compute it once over the whole test set.

    Its error is 1 / sqrt(number of background events that pass), with weights 1 / sqrt of their effective number.

    Args:
        score, label, weight: as :func:`accuracy`; both classes are needed.
        efficiency: between 0 and 1.
    """
    if not 0 < efficiency <= 1:
        fail("rejection", "efficiency", "a number above 0, at most 1", efficiency)
    s, y, w = _checked("rejection", score, label, weight)
    curve = roc(s, y, w)
    point = int(np.argmin(np.abs(curve.signal[1:] - efficiency))) + 1
    passing = ~y & (s >= curve.threshold[point])
    passed, total = int(passing.sum()), int((~y).sum())
    share, reached = curve.background[point], float(curve.signal[point])
    if share == 0:
        bound = 1 / (1 - (1 - CONFIDENCE) ** (1 / total))
        return Rejection(bound, math.nan, reached, passed, total, True)
    effective = w[passing].sum() ** 2 / np.square(w[passing]).sum()
    return Rejection(float(1 / share), float(1 / share / math.sqrt(effective)), reached, passed, total, False)


def edge_selection(score: Given, label: Given, threshold: float = 0.5) -> Edges:
    """Efficiency and purity of the edges with score >= threshold (arXiv 2304.05293)."""
    s, y, _ = _checked("edge_selection", score, label, None)
    chosen = s >= threshold
    right = float((chosen & y).sum())
    return Edges(right / float(y.sum()), right / float(chosen.sum()) if chosen.any() else math.nan)


def balanced_threshold(score: Given, label: Given) -> float:
    """The cut at which as many true edges are kept as false ones are rejected: of 0.001, 0.002, ..., 0.499 the one with
    the smallest \\|TPR - TNR\\|. Choose it on the validation set."""
    s, y, _ = _checked("balanced_threshold", score, label, None)
    signal, background = np.sort(s[y]), np.sort(s[~y])
    kept = 1 - np.searchsorted(signal, SCAN) / len(signal)
    rejected = np.searchsorted(background, SCAN) / len(background)
    return float(SCAN[np.argmin(np.abs(kept - rejected))])


def calibration(score: Given, label: Given, bins: int = 10, weight: Given | None = None) -> Calibration:
    """How far probabilities are from frequencies, in bins of equal width between 0 and 1. Arguments as
    :func:`accuracy`, scores between 0 and 1."""
    s, y, w = _checked("calibration", score, label, weight, both=False)
    if s.min() < 0 or s.max() > 1:
        fail("calibration", "score", "numbers from 0 to 1", f"{s.min():g} to {s.max():g}")
    if bins < 1:
        fail("calibration", "bins", "at least 1", bins)
    which = np.minimum((s * bins).astype(int), bins - 1)
    total, scores, signal = (_array(np.bincount(which, w * v, bins)) for v in (np.ones_like(s), s, y))
    with np.errstate(invalid="ignore"):
        mean, fraction = scores / total, signal / total
    error = float(np.abs(scores - signal).sum() / total.sum())
    return Calibration(mean, fraction, total, error)


def summary(score: Given, label: Given, weight: Given | None = None) -> dict[str, float]:
    """Accuracy, AUC and rejection at the efficiencies of the papers, with the counts behind them, for reports."""
    found = {"events": float(len(_array(score))), "accuracy": accuracy(score, label, weight=weight)}
    found["auc"] = auc(score, label, weight)
    for efficiency in (0.3, 0.5):
        r = rejection(score, label, efficiency, weight)
        name = f"rejection_{efficiency:g}"
        found |= {name: r.value, f"{name}_error": r.error, f"{name}_passed": r.passed, f"{name}_bound": r.is_bound}
    return found


def momentum_resolution(momentum: Given, true: Given) -> dict[str, float]:
    r"""How far predicted four-momenta are from the true ones (PELICAN, arXiv 2307.16506).

    Args:
        momentum, true: [n, 4] (E, px, py, pz), GeV.

    Returns:
        events, sigma_pt and sigma_m (half the 16 to 84 % range of (pT - pT*) / pT* and of (\|m\| - \|m*\|) / \|m*\|),
        sigma_psi and sigma_dr (the 68 % quantiles of the angle, and of the distance in eta and phi, between both), in
        radians. Quantiles are interpolated.
    """
    p, q = (np.asarray(torch.as_tensor(x).detach().cpu(), np.float64) for x in (momentum, true))
    if p.shape != q.shape or p.ndim != 2 or p.shape[1] != 4 or len(p) == 0:
        fail("momentum_resolution", "momentum", f"[n, 4], the shape of true, {list(q.shape)}", list(p.shape))

    def width(found: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
        low, high = np.quantile((found - expected) / expected, (0.16, 0.84))
        return float(high - low) / 2

    def mass(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sqrt(np.abs(x[:, 0] ** 2 - np.square(x[:, 1:]).sum(1)))

    u, v = (x[:, 1:] / np.linalg.norm(x[:, 1:], axis=1, keepdims=True) for x in (p, q))
    angle = 2 * np.arctan2(np.linalg.norm(u - v, axis=1), np.linalg.norm(u + v, axis=1))
    pt = [np.hypot(x[:, 1], x[:, 2]) for x in (p, q)]
    eta = [np.arcsinh(x[:, 3] / t) for x, t in zip((p, q), pt, strict=True)]
    turn = np.arctan2(p[:, 2], p[:, 1]) - np.arctan2(q[:, 2], q[:, 1])
    distance = np.hypot(eta[0] - eta[1], (turn + np.pi) % (2 * np.pi) - np.pi)
    return {
        "events": float(len(p)),
        "sigma_pt": width(*pt),
        "sigma_m": width(mass(p), mass(q)),
        "sigma_psi": float(np.quantile(angle, 0.68)),
        "sigma_dr": float(np.quantile(distance, 0.68)),
    }


def spread(values: Iterable[float]) -> Spread:
    """Mean and standard deviation over seeds.

    Raises:
        ValueError: no values.
    """
    numbers = np.asarray(list(values), dtype=np.float64)
    if numbers.size == 0:
        fail("spread", "values", "at least one number", "none")
    return Spread(float(numbers.mean()), float(numbers.std(ddof=1)) if numbers.size > 1 else math.nan, numbers.size)


def ant_v1(rejection: float, parameters: int) -> float:
    """Background rejection 1/eB at signal efficiency 0.3, for each parameter (VecNet, arXiv 2202.06941).

    Raises:
        ValueError: a rejection below 1 or NaN (infinity is valid: no background passes), fewer than 1 parameter.
    """
    if not rejection >= 1:
        fail("ant_v1", "rejection", "a number >= 1", rejection)
    _check_parameters("ant_v1", parameters)
    return rejection / parameters


def ant_v2(auc: float, parameters: int) -> float:
    """1 / ((1 - AUC) N): the second ant factor; tables print it times 1e5. AUC 1 gives infinity.

    Raises:
        ValueError: an AUC that is not in [0, 1], fewer than 1 parameter.
    """
    if not 0 <= auc <= 1:
        fail("ant_v2", "auc", "a number from 0 to 1", auc)
    _check_parameters("ant_v2", parameters)
    return math.inf if auc == 1 else 1 / ((1 - auc) * parameters)


def _check_parameters(op: str, parameters: int) -> None:
    if not (parameters >= 1 and parameters != math.inf):
        fail(op, "parameters", "a number >= 1", parameters)


def _array(values: Given) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    return np.asarray(values, dtype=np.float64)


def _checked(
    op: str, score: Given, label: Given, weight: Given | None, both: bool = True
) -> tuple[Array, NDArray[np.bool_], Array]:
    """Scores, whether an event is signal, and weights."""
    s, y = _array(score), _array(label)
    w = np.ones_like(s) if weight is None else _array(weight)
    if s.ndim != 1 or s.size == 0:
        fail(op, "score", "at least one event, shape [n]", list(s.shape))
    for name, values in (("label", y), ("weight", w)):
        if values.shape != s.shape:
            fail(op, name, f"shape {list(s.shape)}", list(values.shape))
    if np.isnan(s).any():
        fail(op, "score", "numbers", f"NaN at event {int(np.flatnonzero(np.isnan(s))[0])}")
    if not np.isin(y, (0, 1)).all():
        fail(op, "label", "0 or 1", y[~np.isin(y, (0, 1))][0])
    if not (w >= 0).all() or not np.isfinite(w).all() or w.sum() == 0:
        fail(op, "weight", "numbers >= 0, not all 0", "others")
    signal = y == 1
    if both:
        for kind, of_kind in (("signal", signal), ("background", ~signal)):
            if w[of_kind].sum() == 0:
                fail(op, "label", "events of both classes, of weight above 0", f"no {kind}")
    return s, signal, w
