"""Regression of a true four-momentum, such as that of the W boson in a jet."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ... import metrics, models
from ...graph import Graph
from ...metric import minkowski_square
from .task import JetBatch, Options, Task


class PELICANRegressor(Task):
    r"""The four-momentum of the W boson in a jet, by PELICAN (arXiv 2307.16506, section 5).

    .. math:: L = 0.05 \, \langle |m - m^*| \rangle + 0.01 \, \langle \|\vec p - \vec p^*\| \rangle, \quad
              m = \mathrm{sign}(P^2) \sqrt{|P^2| + 10^{-8}}

    in GeV, with means over jets. Scores are the predicted four-momenta [n_jets, 4].
    """

    data: ClassVar[str] = "momenta"
    formulas: ClassVar[bool] = False

    def build(self, options: Options, formula: bool) -> nn.Module:
        return models.PELICANRegressor(**options)

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        p4 = batch.p4.double()
        return p4, Graph.complete(batch.ptr, True, num_nodes=p4.shape[0], validate=False)

    def label(self, batch: JetBatch) -> Tensor:
        """The true four-momenta [n_jets, 4], float64."""
        return batch.label.double()

    def loss(self, out: tuple[Tensor, Tensor], label: Tensor) -> Tensor:
        momentum = out[0]
        mass, true = (_mass(p) for p in (momentum, label))
        return 0.05 * (mass - true).abs().mean() + 0.01 * (momentum - label)[:, 1:].norm(dim=1).mean()

    def score(self, out: tuple[Tensor, Tensor]) -> Tensor:
        return out[0]

    def summary(self, score: Tensor, label: Tensor) -> dict[str, float]:
        return metrics.momentum_resolution(score, label)


def _mass(p: Tensor) -> Tensor:
    square = minkowski_square(p)
    return square.sign() * (square.abs() + 1e-8).sqrt()
