"""Networks of points in Euclidean space, on jets."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ... import models
from ...graph import Graph
from ...ops.segment import segment_reduce
from .task import JetBatch, Options, Task


class EGNN(Task):
    """EGNN (arXiv 2102.09844) under the Euclidean metric on (px, py, pz) / 100 GeV, the energy among the features; the
    mean over a jet, and two layers."""

    formulas: ClassVar[bool] = False

    def build(self, options: Options, formula: bool) -> nn.Module:
        return EGNNTagger(**options)

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        graph = Graph.complete(batch.ptr, num_nodes=batch.p4.shape[0], validate=False)
        p4 = batch.p4.to(dtype)
        return p4[:, :1].log1p(), p4[:, 1:] / 100, graph


class EGNNTagger(nn.Module):
    """EGNN with a readout for events."""

    def __init__(self, hidden_nf: int = 32, **options: Any) -> None:
        super().__init__()
        self.network = models.EGNN(1, hidden_nf, hidden_nf, **options)
        self.readout = nn.Sequential(nn.Linear(hidden_nf, hidden_nf), nn.SiLU(), nn.Linear(hidden_nf, 2))

    def forward(self, h: Tensor, x: Tensor, graph: Graph) -> Tensor:
        """Logits [n_events, 2]."""
        out: Tensor = self.readout(segment_reduce(self.network(h, x, graph)[0], graph.events, "mean"))
        return out
