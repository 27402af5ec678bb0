"""Networks of jets without Lorentz symmetry."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ... import models, published
from ...data import energy_flow, jet_images, kinematic_features
from ...graph import Graph
from ...packing import unpack
from .task import JetBatch, Options, Task


class Plain(Task):
    """A network of :mod:`equikernels.models` without a published formula whose training would be the same."""

    formulas: ClassVar[bool] = False

    def build(self, options: Options, formula: bool) -> nn.Module:
        network: nn.Module = getattr(models, type(self).__name__)(**options)
        return network

    @staticmethod
    def graph(batch: JetBatch) -> Graph:
        return Graph.complete(batch.ptr, num_nodes=batch.p4.shape[0], validate=False)

    @staticmethod
    def features(batch: JetBatch, dtype: torch.dtype) -> Tensor:
        return kinematic_features(batch.p4, batch.ptr, standardised=True, validate=False).to(dtype)


class ParticleNet(Plain):
    """ParticleNet (arXiv 1902.08570) on seven kinematic features. (In training the batch norms of the padded
    formula count padding.)"""

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        return self.features(batch, dtype), self.graph(batch)


class PCNN(ParticleNet):
    """P-CNN on the same features."""


class ParT(Plain):
    """ParT (arXiv 2202.03772) on the same features and four-momenta; padding as for :class:`ParticleNet`."""

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        return self.features(batch, dtype), batch.p4, self.graph(batch)


class EFN(Plain):
    """EFN (arXiv 1810.05165) on shares of pT and angles."""

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        return energy_flow(batch.p4, batch.ptr, validate=False).to(dtype), self.graph(batch)


class PFN(Plain):
    """PFN (arXiv 1810.05165) on log pT and the angles of the kinematic features."""

    formulas: ClassVar[bool] = True

    def build(self, options: Options, formula: bool) -> nn.Module:
        return published.PFN(**options) if formula else super().build(options, formula)

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        features = self.features(batch, dtype)[:, [0, 5, 6]]
        if not formula:
            return features, self.graph(batch)
        padded, mask = unpack(features, batch.ptr, validate=False)
        return padded.transpose(1, 2), mask[:, None]


class EFP(Plain):
    """A logistic regression on energy flow polynomials (arXiv 1712.07124)."""

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        return batch.p4, self.graph(batch)


class MLP(EFP):
    """A fully connected network on four-momenta, as arXiv 2203.06153 compares it."""


class ResNeXt(Plain):
    """ResNeXt-50 on jet images."""

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        return (jet_images(batch.p4, batch.ptr, validate=False).to(dtype),)
