"""What networks are compared by."""

from __future__ import annotations

import math


def ant_v1(rejection: float, parameters: int) -> float:
    """Background rejection 1/eB at signal efficiency 0.3, for each parameter (VecNet, arXiv 2202.06941)."""
    return rejection / parameters


def ant_v2(auc: float, parameters: int) -> float:
    """1 / ((1 - AUC) N): the second ant factor; tables print it times 1e5. AUC 1 gives infinity."""
    return math.inf if auc == 1 else 1 / ((1 - auc) * parameters)
