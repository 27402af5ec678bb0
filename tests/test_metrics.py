"""Tests the metrics against scikit-learn and torchmetrics, on ties and weights; counts, bounds and refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics.functional.classification as torchmetrics

from equikernels import metrics
from equikernels.metrics import ant_v1, ant_v2


def sample(seed: int, events: int = 500, decimals: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, with ties if rounded, labels and weights."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, 2, events)
    score = 1 / (1 + np.exp(-generator.normal(1.5 * label - 0.7)))
    weight = generator.exponential(size=events)
    return score if decimals is None else score.round(decimals), label, weight


SAMPLES = [sample(0), sample(1, decimals=1), sample(2, decimals=2), sample(3, events=7)]


@pytest.mark.parametrize("given", SAMPLES)
@pytest.mark.parametrize("weighted", [False, True])
def test_as_scikit_learn_and_torchmetrics(given: tuple[np.ndarray, ...], weighted: bool) -> None:
    score, label, w = given
    weight = w if weighted else None
    assert metrics.auc(score, label, weight) == pytest.approx(
        sklearn.metrics.roc_auc_score(label, score, sample_weight=weight), abs=1e-12
    )
    assert metrics.accuracy(score, label, weight=weight) == pytest.approx(
        sklearn.metrics.accuracy_score(label, score >= 0.5, sample_weight=weight), abs=1e-12
    )
    curve = metrics.roc(score, label, weight)
    theirs = sklearn.metrics.roc_curve(label, score, sample_weight=weight, drop_intermediate=False)
    for ours, expected in zip(curve, theirs, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-12)
    if not weighted:
        tensors = torch.from_numpy(score), torch.from_numpy(label)
        assert metrics.auc(*tensors) == pytest.approx(torchmetrics.binary_auroc(*tensors).item(), abs=1e-6)
        cut = metrics.edge_selection(*tensors)
        assert cut.efficiency == pytest.approx(sklearn.metrics.recall_score(label, score >= 0.5), abs=1e-12)
        assert cut.purity == pytest.approx(sklearn.metrics.precision_score(label, score >= 0.5), abs=1e-12)
        error = torchmetrics.binary_calibration_error(*tensors, n_bins=10).item()
        assert metrics.calibration(*tensors).error == pytest.approx(error, abs=1e-6)


def test_ties_count_half() -> None:
    assert metrics.auc([0.5, 0.5], [0, 1]) == 0.5
    assert metrics.auc([0.1, 0.4, 0.4, 0.9], [0, 0, 1, 1]) == 0.875


def test_the_order_of_events_does_not_matter() -> None:
    score, label, weight = SAMPLES[1]
    order = np.random.default_rng(0).permutation(len(score))
    assert metrics.auc(score[order], label[order], weight[order]) == pytest.approx(
        metrics.auc(score, label, weight), abs=1e-12
    )
    assert metrics.rejection(score, label, 0.3) == metrics.rejection(score[order], label[order], 0.3)


def test_rejection_is_that_of_the_closest_point() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
    label = np.array([1, 1, 0, 1, 0, 0, 1, 0, 0, 0])
    found = metrics.rejection(score, label, 0.7)  # of 0.5 and 0.75 the latter; one of six passes
    assert (found.value, found.efficiency, found.passed, found.background) == (6.0, 0.75, 1, 6)
    assert found.error == 6.0
    assert not found.is_bound
    two = metrics.rejection(score, label, 1.0)
    assert two.value == pytest.approx(2.0)
    assert two.error == pytest.approx(2 / math.sqrt(3))
    assert str(two) == "2 +- 1"


def test_where_no_background_passes_there_is_a_bound() -> None:
    score, label = np.array([0.9, 0.8, 0.2, 0.1]), np.array([1, 1, 0, 0])
    found = metrics.rejection(score, label, 0.5)
    assert found.is_bound
    assert math.isnan(found.error)
    share = 1 / found.value  # as probable as it may be: no event of two passes in 5 % of experiments
    assert (1 - share) ** 2 == pytest.approx(0.05)
    assert str(found) == "> 1"


def test_weights_of_rejection_count_effective_events() -> None:
    score, label = np.array([0.9, 0.8, 0.7, 0.2]), np.array([1, 0, 0, 0])
    equal = metrics.rejection(score, label, 1.0, [2.0, 2.0, 2.0, 2.0])
    assert equal == metrics.rejection(score, label, 1.0)
    some = metrics.rejection([0.5, 0.5, 0.5, 0.2], label, 1.0, [1.0, 3.0, 1.0, 4.0])
    assert some.value == 2.0
    assert some.error == pytest.approx(2 / math.sqrt(16 / 10))


def test_the_balanced_threshold_is_on_the_grid() -> None:
    score, label, _ = SAMPLES[0]
    best = metrics.balanced_threshold(score, label)
    apart = {t: abs((score[label == 1] >= t).mean() - (score[label == 0] < t).mean()) for t in metrics.SCAN}
    assert apart[best] == min(apart.values())


def test_an_empty_selection_has_no_purity() -> None:
    cut = metrics.edge_selection([0.1, 0.2], [0, 1])
    assert cut.efficiency == 0
    assert math.isnan(cut.purity)


def test_calibration_of_true_probabilities_and_of_empty_bins() -> None:
    found = metrics.calibration([0.0, 0.05, 1.0, 1.0], [0, 0, 1, 1], bins=4)
    assert found.error == pytest.approx(0.0125)
    np.testing.assert_allclose(found.score, [0.025, np.nan, np.nan, 1.0])
    np.testing.assert_allclose(found.weight, [2, 0, 0, 2])


def test_summary_and_spread() -> None:
    score, label, _ = SAMPLES[0]
    found = metrics.summary(torch.tensor(score), torch.tensor(label))
    assert found["events"] == 500
    assert found["rejection_0.3"] == metrics.rejection(score, label, 0.3).value
    several = metrics.spread([1.0, 2.0, 4.0])
    assert several.mean == pytest.approx(7 / 3)
    assert several.deviation == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert math.isnan(metrics.spread([3.0]).deviation)
    with pytest.raises(ValueError, match="spread: values: expected at least one"):
        metrics.spread([])


GOOD = [0.1, 0.9, 0.5], [0, 1, 1]


@pytest.mark.parametrize(
    ("score", "label", "weight", "message"),
    [
        ([], [], None, "score: expected at least one event"),
        ([[0.1]], [[1]], None, "score: expected at least one event"),
        ([0.1, math.nan, 0.5], GOOD[1], None, "score: expected numbers, got NaN at event 1"),
        (GOOD[0], [0, 1], None, r"label: expected shape \[3\]"),
        (GOOD[0], [0, 1, 2], None, "label: expected 0 or 1, got 2"),
        (GOOD[0], [0, 1, math.nan], None, "label: expected 0 or 1, got nan"),
        (GOOD[0], [1, 1, 1], None, "label: expected events of both classes, of weight above 0, got no background"),
        (GOOD[0], GOOD[1], [0.0, 1.0, 1.0], "got no background"),
        (GOOD[0], GOOD[1], [1.0, -1.0, 1.0], "weight: expected numbers >= 0"),
        (GOOD[0], GOOD[1], [1.0, math.inf, 1.0], "weight: expected numbers >= 0"),
        (GOOD[0], GOOD[1], [1.0], r"weight: expected shape \[3\]"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.auc, metrics.roc, metrics.rejection, metrics.summary])
def test_bad_input_is_named(metric, score, label, weight, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(score, label, weight=weight)


@pytest.mark.parametrize("efficiency", [0.0, -0.1, 1.01, math.nan])
def test_an_efficiency_outside_its_range_is_refused(efficiency: float) -> None:
    with pytest.raises(ValueError, match="rejection: efficiency: expected a number above 0, at most 1"):
        metrics.rejection(*GOOD, efficiency)


def test_scores_are_probabilities_for_calibration() -> None:
    with pytest.raises(ValueError, match="calibration: score: expected numbers from 0 to 1"):
        metrics.calibration([0.1, 1.2], [0, 1])
    with pytest.raises(ValueError, match="calibration: bins: expected at least 1"):
        metrics.calibration(*GOOD, bins=0)


# model, AUC, parameters, 1e5 times the second ant factor: tables 1 and 2 of "Equivariance Is Not All You Need"
PRINTED = [
    ("ResNeXt", 0.984, 1.46e6, 4.28),
    ("ParticleNet", 0.985, 498e3, 13.4),
    ("PFN", 0.982, 82e3, 67.8),
    ("EFP", 0.980, 1e3, 5000),
    ("LGN", 0.964, 4.5e3, 617),
    ("VecNet.1", 0.984, 633e3, 9.87),
    ("VecNet.2", 0.981, 15e3, 351),  # printed: 350
    ("PELICAN", 0.987, 45e3, 171),
    ("LorentzNet", 0.987, 220e3, 35.0),  # whose AUC is printed as 0.9868, which gives 34.4
    ("EuclidNet 8", 0.9913, 967, 11887),
    ("EuclidNet 16", 0.9932, 2580, 5700),
    ("EuclidNet 32", 0.9941, 4448, 3811),  # printed: 3810
    ("InteractionNet 8", 0.9849, 1432, 4625),
    ("InteractionNet 16", 0.9932, 4392, 3348),
    ("InteractionNet 32", 0.9978, 6448, 7049),
]


@pytest.mark.parametrize(("model", "auc", "parameters", "printed"), PRINTED)
def test_ant_factors_of_the_tables(model: str, auc: float, parameters: float, printed: float) -> None:
    digits = 3 if printed < 1000 else 4 if printed < 10_000 else 5
    assert float(f"{1e5 * ant_v2(auc, int(parameters)):.{digits}g}") == printed


def test_ant_factors() -> None:
    assert ant_v1(1018.0, 224_072) == pytest.approx(4.543e-3, rel=1e-3)
    assert ant_v2(0.9868, 224_072) * 1e5 == pytest.approx(33.81, rel=1e-3)
    assert ant_v1(math.inf, 5) == math.inf
    assert ant_v2(1, 5) == ant_v2(1.0, 5) == math.inf
    assert ant_v2(0, 4) == 0.25


@pytest.mark.parametrize("auc", [1 + 2e-16, math.nextafter(1, 2), -1e-300, 1.5, 98.7, math.nan, math.inf, -math.inf])
def test_an_auc_outside_its_range_is_refused(auc: float) -> None:
    with pytest.raises(ValueError, match="ant_v2: auc: expected a number from 0 to 1, got"):
        ant_v2(auc, 10)


@pytest.mark.parametrize("rejection", [0.0, -3.0, 0.5, math.nan, -math.inf])
def test_a_rejection_below_one_is_refused(rejection: float) -> None:
    with pytest.raises(ValueError, match="ant_v1: rejection: expected a number >= 1, got"):
        ant_v1(rejection, 10)


@pytest.mark.parametrize("parameters", [0, -1, 0.5, math.nan, math.inf])
@pytest.mark.parametrize("figure", [ant_v1, ant_v2])
def test_a_number_of_parameters_below_one_is_refused(figure, parameters: float) -> None:
    with pytest.raises(ValueError, match=f"{figure.__name__}: parameters: expected a number >= 1, got"):
        figure(1.0, parameters)
