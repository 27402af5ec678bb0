"""Figures of merit: ant factors, from the background rejection or AUC and the number of parameters of a network."""

from __future__ import annotations

import math

from .checks import fail


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
