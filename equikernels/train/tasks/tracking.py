"""Networks on hit graphs, with a probability for each edge."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import models, published
from .task import Hits, Options, Task


class OfEdges(Task):
    """A network on hit graphs with a probability for each edge; the mean loss over edges."""

    data: ClassVar[str] = "hits"

    def label(self, batch: Hits) -> Tensor:
        return batch.y.long()

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.binary_cross_entropy(logits.flatten(), label.to(logits.dtype))

    def score(self, logits: Tensor) -> Tensor:
        return logits.flatten()


class EuclidNet(OfEdges):
    """EuclidNet, the SO(2) network (arXiv 2304.05293), on (x, y, z) in metres."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        return (published.EuclidNetSO2 if formula else models.EuclidNet)(**options)

    def arguments(self, batch: Hits, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        r, phi, z = (batch.x * batch.x.new_tensor([1.0, torch.pi, 1.0])).unbind(1)
        x = torch.stack([r * phi.cos(), r * phi.sin(), z], dim=1).to(dtype)
        return x, (batch.graph.receiver, batch.graph.sender) if formula else batch.graph


class InteractionNetwork(OfEdges):
    """The Interaction Network (arXiv 2103.16701)."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        return (published.InteractionNetwork if formula else models.InteractionNetwork)(**options)

    def arguments(self, batch: Hits, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        edges = torch.stack([batch.graph.sender, batch.graph.receiver]) if formula else batch.graph
        return batch.x.to(dtype), edges, batch.edge_attr.to(dtype)
