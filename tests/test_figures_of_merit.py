"""Tests the ant factors: values, and rejected arguments."""

from __future__ import annotations

import math

import pytest

from equikernels.figures_of_merit import ant_v1, ant_v2


def test_values() -> None:
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
