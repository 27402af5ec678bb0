"""Networks on hit graphs, with a probability for each edge."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import models, published
from ...graph import Graph
from .task import Hits, Options, Task

UNITS = 10.0  # of EuclidNet's coordinates in a metre


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
    """EuclidNet, the SO(2) network (arXiv 2304.05293), on (x, y, z) in units of 100 mm.

    Every edge is read in both directions, as in the release: with one from the inner to the outer hit alone, a hit
    would learn nothing from those outside of it. Labels and scores have the given edges first, then their reverse. In
    metres, as the release reads hits, squared distances are 0.001, which learning hardly sees.
    """

    def build(self, options: Options, formula: bool) -> nn.Module:
        return (published.EuclidNetSO2 if formula else models.EuclidNet)(**options)

    def arguments(self, batch: Hits, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        r, phi, z = (batch.x * batch.x.new_tensor([UNITS, torch.pi, UNITS])).unbind(1)
        x = torch.stack([r * phi.cos(), r * phi.sin(), z], dim=1).to(dtype)
        edges = batch.graph.edge_index
        graph = Graph.from_edge_index(torch.cat([edges, edges.flip(0)], dim=1), len(x), validate=False)
        return x, (graph.receiver, graph.sender) if formula else graph

    def label(self, batch: Hits) -> Tensor:
        return torch.cat([batch.y, batch.y]).long()


class InteractionNetwork(OfEdges):
    """The Interaction Network (arXiv 2103.16701)."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        return (published.InteractionNetwork if formula else models.InteractionNetwork)(**options)

    def arguments(self, batch: Hits, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        edges = torch.stack([batch.graph.sender, batch.graph.receiver]) if formula else batch.graph
        return batch.x.to(dtype), edges, batch.edge_attr.to(dtype)
