"""EGNN and its relatives (arXiv 2102.09844, table 1) on jets: particles are points (px, py, pz) / 100 GeV."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ... import models, published
from ...graph import Graph
from ...ops.segment import segment_reduce
from .task import JetBatch, Options, Task

UNIT = 100.0  # GeV


class Tagger(nn.Module):
    """A network of points, the mean of what it gives over a jet, and two layers."""

    def __init__(self, network: nn.Module, width: int, hidden: int = 32) -> None:
        super().__init__()
        self.network = network
        self.readout = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, 2))

    def forward(self, events: Graph, *inputs: Any) -> Tensor:
        """Logits [n_events, 2]."""
        out: Tensor = self.readout(segment_reduce(self.particles(*inputs), events, "mean"))
        return out

    def particles(self, *inputs: Any) -> Tensor:
        """Features of every particle [n, width]."""
        out: Tensor = self.network(*inputs)
        return out


class OfPoints(Task):
    """A network on a jet's complete graph, by the published formula as an edge list."""

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        p4 = batch.p4.to(dtype)
        graph = Graph.complete(batch.ptr, num_nodes=p4.shape[0], validate=False)
        edges = (graph.receiver, graph.sender) if formula else graph
        return graph.events, *self.inputs(p4[:, :1], p4[:, 1:], edges)

    def inputs(self, energy: Tensor, momentum: Tensor, edges: Any) -> tuple[Any, ...]:
        """Of the network's forward, of energies [n, 1] and momenta [n, 3] in GeV."""
        raise NotImplementedError


class EGNN(OfPoints):
    """EGNN (arXiv 2102.09844) under the Euclidean metric, ln(1 + E) as the feature."""

    formulas: ClassVar[bool] = False

    def build(self, options: Options, formula: bool) -> nn.Module:
        given = {"hidden_nf": 32, **options}
        width = given["hidden_nf"]
        return ScalarsTagger(models.EGNN(1, out_node_nf=width, **given), width, width)

    def inputs(self, energy: Tensor, momentum: Tensor, edges: Any) -> tuple[Any, ...]:
        return energy.log1p(), momentum / UNIT, edges


class SchNet(OfPoints):
    """SchNet (arXiv 1706.08566), ln(1 + E) as the feature."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        given = {"hidden_nf": 64, **options}
        width = given["hidden_nf"]
        return Tagger((published if formula else models).SchNet(1, out_node_nf=width, **given), width)

    def inputs(self, energy: Tensor, momentum: Tensor, edges: Any) -> tuple[Any, ...]:
        return energy.log1p(), momentum / UNIT, edges


class TFN(OfPoints):
    """A tensor field network (arXiv 1802.08219), ln(1 + E) as the scalar and the velocity as the vector."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        given = {"width": 16, **options}
        width = given["width"]
        return ScalarsTagger((published if formula else models).TFN((1, 1), n_out=(width, 0), **given), width)

    def inputs(self, energy: Tensor, momentum: Tensor, edges: Any) -> tuple[Any, ...]:
        return energy.log1p(), (momentum / energy)[:, None], momentum / UNIT, edges


class ScalarsTagger(Tagger):
    """With the first output of the network, its scalars."""

    def particles(self, *inputs: Any) -> Tensor:
        out: Tensor = self.network(*inputs)[0]
        return out


class GNN(OfPoints):
    """The graph network without symmetry, on positions and velocities."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        given = {"hidden_nf": 64, **options}
        width = given["hidden_nf"]
        return Tagger((published if formula else models).GNN(6, out_node_nf=width, **given), width)

    def inputs(self, energy: Tensor, momentum: Tensor, edges: Any) -> tuple[Any, ...]:
        return torch.cat([momentum / UNIT, momentum / energy], dim=1), edges


class RadialField(OfPoints):
    """The radial field (arXiv 1910.00753) with velocities. What is read of a point is how far from the origin it was
    and is, and how far it moved."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        given = {"hidden_nf": 64, **options}
        return RadialFieldTagger(published.RF_vel(**given) if formula else models.RadialField(**given), formula)

    def inputs(self, energy: Tensor, momentum: Tensor, edges: Any) -> tuple[Any, ...]:
        return momentum / UNIT, edges, momentum / energy


class RadialFieldTagger(Tagger):
    """With the norms of the points."""

    def __init__(self, network: nn.Module, formula: bool) -> None:
        super().__init__(network, 3)
        self.formula = formula

    def particles(self, *inputs: Any) -> Tensor:
        x, edges, vel = inputs
        speed = (vel.norm(dim=1, keepdim=True),) if self.formula else ()
        moved = self.network(*speed, x, edges, vel)
        return torch.stack([x.norm(dim=1), moved.norm(dim=1), (moved - x).norm(dim=1)], dim=1).log1p()
