"""What training needs to know of a network, and how events become a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import metrics
from ...data import HitGraph
from ...graph import Graph

Options = Mapping[str, Any]


class JetBatch(NamedTuple):
    """Jets as one batch, by the fields of :class:`equikernels.data.Jets`; pdg_id is the feature, if there is one.
    (Lightning converts tuples, no dataclasses.)"""

    p4: Tensor
    ptr: Tensor
    label: Tensor
    pdg_id: Tensor | None = None


class Hits(NamedTuple):
    """Hit graphs as one batch; the fields of :class:`equikernels.data.HitGraph`."""

    x: Tensor
    graph: Graph
    edge_attr: Tensor
    y: Tensor

    @classmethod
    def of(cls, events: list[HitGraph]) -> Hits:
        x, edge_attr, y = (torch.cat([getattr(event, name) for event in events]) for name in ("x", "edge_attr", "y"))
        return cls(x, Graph.batch([event.graph for event in events]), edge_attr, y)

    def to(self, device: Any, **_: Any) -> Hits:
        return Hits(self.x.to(device), self.graph.to(device), self.edge_attr.to(device), self.y.to(device))


class Task:
    """A network on events: two logits for each, or what :meth:`loss` and :meth:`score` take.

    Attributes:
        data: "jets", "identified" (jets with PDG ids), "momenta" (jets with a true four-momentum, the label of their
            batches) or "hits".
        formulas: whether there is a published formula beside our network.
    """

    data: ClassVar[str] = "jets"
    formulas: ClassVar[bool] = True

    def build(self, options: Options, formula: bool) -> nn.Module:
        raise NotImplementedError

    def arguments(self, batch: Any, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        """Of the network's forward, weights being of ``dtype``."""
        raise NotImplementedError

    def label(self, batch: Any) -> Tensor:
        return batch.label.long()

    def loss(self, logits: Any, label: Tensor) -> Tensor:
        return F.cross_entropy(logits, label)

    def score(self, logits: Any) -> Tensor:
        """The probability of signal."""
        probability: Tensor = logits.softmax(1)[:, 1]
        return probability

    def summary(self, score: Tensor, label: Tensor) -> dict[str, float]:
        """How good the scores of all events are; events of one class have no ROC curve."""
        if 0 < int(label.sum()) < len(label):
            return metrics.summary(score, label)
        found = {"accuracy": metrics.accuracy(score, label), "auc": 0.5}
        return {**found, "rejection_0.3": 1.0, "rejection_0.3_bound": 0.0}
