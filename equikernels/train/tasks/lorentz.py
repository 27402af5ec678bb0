"""Networks of jets under the Lorentz group."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ... import models, published
from ...checks import fail
from ...data import Jets, particle_scalars, top_tagging_scalars, with_beams
from ...graph import Graph
from .task import JetBatch, Options, Task


class LorentzNet(Task):
    """LorentzNet with beams and masses (arXiv 2201.08187)."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        if not formula:
            return models.LorentzNet(2, **options)
        if options.get("readout", "masked_mean") != "padded_mean":
            fail("config", "options.readout", "padded_mean, as the published formula has it", "another")
        return published.LorentzNet(2, **{k: v for k, v in options.items() if k != "readout"})

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        x, scalars, ptr = self._inputs(batch, dtype)
        if formula:
            return published.LorentzNet.padded_inputs(x, scalars, ptr)
        return x, scalars, Graph.complete(ptr, num_nodes=x.shape[0], validate=False)

    def _inputs(self, batch: JetBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        x, ptr, is_beam = with_beams(batch.p4, batch.ptr, validate=False)
        return x.to(dtype), top_tagging_scalars(x, is_beam).to(dtype), ptr


class VecNet(LorentzNet):
    """VecNet (arXiv 2202.06941) on the inputs of LorentzNet; free features are sign(p) log(1 + |p|)."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        return (published.VecNet if formula else models.VecNet)(2, n_free_input=4, **options)

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        x, scalars, ptr = self._inputs(batch, dtype)
        graph, free = Graph.complete(ptr, num_nodes=x.shape[0], validate=False), x.sign() * x.abs().log1p()
        if not formula:
            return x, scalars, graph, free
        event = graph.events.receiver
        return x, scalars, (graph.receiver, graph.sender), (event, ptr.diff()[:, None]), free


class PELICAN(Task):
    """PELICAN (arXiv 2307.16506); four-momenta are float64 whatever the weights."""

    ours_alone: ClassVar[tuple[str, ...]] = (
        "method", "compat", "factorize", "batchnorm", "dropout", "drop_rate", "drop_rate_out",
    )  # fmt: skip

    def build(self, options: Options, formula: bool) -> nn.Module:
        if not formula:
            return models.PELICANClassifier(**options)
        if options.get("dropout") and (options.get("drop_rate") or options.get("drop_rate_out")):
            fail("config", "options.drop_rate", "0 with the published formula, which has no dropout here", "more")
        rest = {k: v for k, v in options.items() if k not in self.ours_alone}
        return published.PELICANClassifier(**rest)

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        p4 = batch.p4.double()
        if formula:
            return published.PELICANClassifier.padded_inputs(p4, batch.ptr)
        return p4, Graph.complete(batch.ptr, True, num_nodes=p4.shape[0], validate=False)


class PELICANWithIds(PELICAN):
    """PELICAN with ``dataset="qg"``: of each particle also the scalars of its PDG id, which the file must have."""

    data: ClassVar[str] = "identified"
    formulas: ClassVar[bool] = False

    def build(self, options: Options, formula: bool) -> nn.Module:
        return models.PELICANClassifier(dataset="qg", **options)

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        pdg_id = batch.features.get("pdg_id") if isinstance(batch, Jets) else batch.pdg_id
        if pdg_id is None:
            fail("config", "data", "jets with the feature pdg_id", "none")
        return *super().arguments(batch, dtype, formula), particle_scalars(pdg_id.long(), dtype)
