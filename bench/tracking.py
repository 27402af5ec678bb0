"""Measures networks on hit graphs, and repeats table 5 of "Equivariance Is Not All You Need" (arXiv 2311.03094), times
of two trackers."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels import published

from . import side_by_side
from .plan import Plan, Row, Setting, pair
from .side_by_side import OURS, PUBLISHED, Disagreement

EDGES = 80_000  # of the largest hit graphs


class EGNNSides(side_by_side.Sides):
    """H 64, 4 layers, attention, three coordinates; a number of edges in random order, an eighth as many nodes."""

    name = "H 64, 4 layers, attention"

    def __init__(self, edges: int) -> None:
        n, generator = edges // 8, torch.Generator().manual_seed(0)
        self.graph = ek.Graph.from_edge_index(torch.randint(0, n, (2, edges), generator=generator), n)
        self.edges = self.graph.receiver, self.graph.sender
        self.h, self.x = (torch.randn(n, width, generator=generator) for width in (16, 3))
        self.label = torch.randint(0, 19, (n,), generator=generator)
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"in_node_nf": 16, "hidden_nf": 64, "out_node_nf": 16, "attention": True}
        self.ours, self.published = ek.models.EGNN(**sizes), published.EGNN(**sizes)
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        """[n, 19]: output features and coordinates, so that a loss reads both."""
        model, edges = (self.published, self.edges) if side == PUBLISHED else (self.ours, self.graph)
        dtype = next(model.parameters()).dtype
        return torch.cat(model(self.h.to(dtype), self.x.to(dtype), edges), dim=1)


def hits(graphs: int) -> list[ek.data.HitGraph]:
    """A number of sample hit graphs, repeated if there are fewer; for one: the smallest."""
    sample = ek.data.load_sample_hit_graphs()
    if graphs == 1:
        return [min(sample, key=lambda event: event.graph.num_edges)]
    return [sample[k % len(sample)] for k in range(graphs)]


def hit_edges(graphs: int) -> int:
    return sum(event.graph.num_edges for event in hits(graphs))


def batched(events: list[ek.data.HitGraph]) -> Tensor:
    """Edges (sender, receiver) of all graphs as one."""
    first = torch.tensor([0, *(len(event.x) for event in events)]).cumsum(0)
    edges = [torch.stack([event.graph.sender, event.graph.receiver]) for event in events]
    return torch.cat([pair + start for pair, start in zip(edges, first, strict=False)], dim=1)


class EuclidNetSides(side_by_side.Sides):
    """SO(2), H 8, 3 layers, 5 rounds, on a number of sample hit graphs."""

    name = "SO(2), H 8, 3 layers, 5 rounds"

    def __init__(self, graphs: int, hidden: int = 8) -> None:
        events = hits(graphs)
        self.x = torch.cat([event.cartesian for event in events])
        self.graph = ek.Graph.from_edge_index(batched(events), len(self.x))
        self.edges = self.graph.receiver, self.graph.sender
        self.label = torch.cat([event.y for event in events]).long()
        torch.manual_seed(0)
        self.ours, self.published = ek.models.EuclidNet(hidden), published.EuclidNetSO2(hidden)
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        """[E, 2]: not a segment, a segment."""
        model, edges = (self.published, self.edges) if side == PUBLISHED else (self.ours, self.graph)
        y = model(self.x.to(next(model.parameters()).dtype), edges)
        return torch.cat([-y, y], dim=1)


class EuclidNetSO3Sides(EuclidNetSides):
    """SO(3), H 16, 3 layers: the network that has the table's number of parameters, see below."""

    name = "SO(3), H 16, 3 layers"

    def __init__(self, graphs: int) -> None:
        super().__init__(graphs)
        torch.manual_seed(0)
        self.ours, self.published = ek.models.EuclidNetSO3(16, 3), published.EuclidNetSO3(16, 3)
        self.published.load_state_dict(self.ours.state_dict())


class InteractionSides(side_by_side.Sides):
    """The Interaction Network on a number of sample hit graphs."""

    name = "H 40, one pass"

    def __init__(self, graphs: int) -> None:
        events = hits(graphs)
        self.x, self.attr = torch.cat([event.x for event in events]), torch.cat([event.edge_attr for event in events])
        self.edges = batched(events)
        self.graph = ek.Graph.from_edge_index(self.edges, len(self.x))
        self.label = torch.cat([event.y for event in events]).long()
        torch.manual_seed(0)
        self.ours, self.published = ek.models.InteractionNetwork(40), published.InteractionNetwork(40)
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        """[E, 2]: not a segment, a segment."""
        model, edges = self.model(side), self.edges if side == PUBLISHED else self.graph
        dtype = next(model.parameters()).dtype
        y = model(self.x.to(dtype), edges, self.attr.to(dtype))
        return torch.cat([-y, y], dim=1)


class TrackerSides(side_by_side.Sides):
    """One sample hit graph and the models with the table's numbers of parameters: SO(3) EuclidNet of H 16 (the table
    says SO(2)) and the Interaction Network of H 32."""

    def __init__(self, interaction: bool) -> None:
        event = ek.data.load_sample_hit_graphs()[0]
        self.graph, self.label = event.graph, event.y.long()
        edges = torch.stack([self.graph.sender, self.graph.receiver])
        torch.manual_seed(0)
        if interaction:
            self.ours, self.published = ek.models.InteractionNetwork(32), published.InteractionNetwork(32)
            self.inputs = {OURS: (event.x, self.graph, event.edge_attr), PUBLISHED: (event.x, edges, event.edge_attr)}
        else:
            self.ours, self.published = ek.models.EuclidNetSO3(16, 3), published.EuclidNetSO3(16, 3)
            rows = edges.flip(0)
            self.inputs = {OURS: (event.cartesian, self.graph), PUBLISHED: (event.cartesian, rows)}
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        """[E, 2]: not a segment, a segment."""
        y = self.model(side)(*self.inputs[side])
        return torch.cat([-y, y], dim=1)


# name, parameters, ms on a CPU (EPYC 7713) and on a GPU (A100) as published
TABLE = (("InteractionNetwork", 4392, 4.714, 0.403), ("EuclidNet", 2580, 4.866, 0.151))


def plan(setting: Setting) -> Plan:
    """Inference times of two trackers, with the published columns; batches and graphs differ from the table's."""

    @functools.cache
    def both(name: str) -> TrackerSides:
        return TrackerSides(name == "InteractionNetwork").to(setting.device).prepared()

    def check() -> None:
        for name, parameters, *_ in TABLE:
            both(name).agree()
            count = sum(p.numel() for p in both(name).ours.parameters())
            if count != parameters:
                raise Disagreement(f"{name}: {count} parameters where the table has {parameters}")

    def of(name: str, parameters: int, cpu: float, gpu: float) -> Row:
        edges = ek.data.load_sample_hit_graphs()[0].graph.num_edges
        measure = pair(functools.partial(both, name), "", lambda: (5, 15))[0].measure
        row = Row(f"{name}, forward, one graph of {edges:,} edges", measure)
        return row.with_fields(parameters=parameters, table_cpu=cpu, table_gpu=gpu)

    return Plan([of(*line) for line in TABLE], check)
