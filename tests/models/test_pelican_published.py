"""PELICAN's published formula, which speed-ups are measured against, gives the published numbers too."""

from __future__ import annotations

import pytest

from equikernels.baselines import PELICANClassifier

from ..support.golden import filled, jets
from ..support.pelican import CLASSIFIERS, close, count, small


@pytest.mark.parametrize("case", [0, 1, 4, 5, 6, 7])  # the others are not what it covers
def test_golden(case: int) -> None:
    options, parameters, evaluation, training = CLASSIFIERS[case]
    left_out = ("method", "compat", "batchnorm", "factorize")
    network = filled(PELICANClassifier(**{k: v for k, v in small(**options).items() if k not in left_out}))
    assert count(network) == parameters
    inputs = PELICANClassifier.padded_inputs(*jets(5, 4))
    if training is not None:
        close(network.train()(*inputs), training)
        filled(network)  # running statistics
    close(network.eval()(*inputs), evaluation)
