"""Networks on the edges of hit graphs; and table 5 of "Equivariance Is Not All You Need" (arXiv 2311.03094), times of
two trackers, once more.

python -m bench.tracking --out bench/results/trackers.json
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels import baselines

from . import side_by_side
from .machine import machine
from .side_by_side import OURS, PUBLISHED

NODES, EDGES = 10_000, 80_000


class EGNNSides(side_by_side.Sides):
    """H 64, 4 layers, attention, three coordinates; edges in random order, a hit graph's number of them."""

    name = "H 64, 4 layers, attention"

    def __init__(self, quick: bool) -> None:
        n, edges = (NODES // 8, EDGES // 8) if quick else (NODES, EDGES)
        generator = torch.Generator().manual_seed(0)
        self.graph = ek.Graph.from_edge_index(torch.randint(0, n, (2, edges), generator=generator), n)
        self.size = f"{edges:,} edges"
        self.edges = self.graph.receiver, self.graph.sender
        self.h, self.x = (torch.randn(n, width, generator=generator) for width in (16, 3))
        self.label = torch.randint(0, 19, (n,), generator=generator)
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"in_node_nf": 16, "hidden_nf": 64, "out_node_nf": 16, "attention": True}
        self.ours, self.published = ek.models.EGNN(**sizes), baselines.EGNN(**sizes)
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        """[n, 19]: features and coordinates that come out, so that a loss reads both."""
        model, edges = (self.published, self.edges) if side == PUBLISHED else (self.ours, self.graph)
        dtype = next(model.parameters()).dtype
        return torch.cat(model(self.h.to(dtype), self.x.to(dtype), edges), dim=1)


def hit_graphs(quick: bool) -> tuple[list[ek.data.HitGraph], Tensor]:
    """The sample hit graphs, several times where ``quick`` is False, and the edges (sender, receiver) of all."""
    events = ek.data.load_sample_hit_graphs() * (1 if quick else 4)
    edges, first = [], 0
    for event in events:
        edges.append(torch.stack([event.graph.sender, event.graph.receiver]) + first)
        first += len(event.x)
    return events, torch.cat(edges, dim=1)


class EuclidNetSides(side_by_side.Sides):
    """SO(2), H 8, 3 layers, 5 rounds, on the sample hit graphs, several times where ``quick`` is False."""

    name = "SO(2), H 8, 3 layers, 5 rounds"

    def __init__(self, quick: bool) -> None:
        events, edges = hit_graphs(quick)
        self.x = torch.cat([event.cartesian for event in events])
        self.graph = ek.Graph.from_edge_index(edges, len(self.x))
        self.edges = self.graph.receiver, self.graph.sender
        self.label = torch.cat([event.y for event in events]).long()
        self.size = f"{len(self.label):,} edges"
        torch.manual_seed(0)
        self.ours, self.published = ek.models.EuclidNet(), baselines.EuclidNetSO2()
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        """[E, 2]: not a segment, a segment."""
        model, edges = (self.published, self.edges) if side == PUBLISHED else (self.ours, self.graph)
        y = model(self.x.to(next(model.parameters()).dtype), edges)
        return torch.cat([-y, y], dim=1)


class InteractionSides(side_by_side.Sides):
    """The Interaction Network on the sample hit graphs, several times where ``quick`` is False."""

    name = "H 40, one pass"

    def __init__(self, quick: bool) -> None:
        events, edges = hit_graphs(quick)
        self.x, self.attr = torch.cat([event.x for event in events]), torch.cat([event.edge_attr for event in events])
        self.graph, self.edges = ek.Graph.from_edge_index(edges, len(self.x)), edges
        self.label = torch.cat([event.y for event in events]).long()
        self.size = f"{len(self.label):,} edges"
        torch.manual_seed(0)
        self.ours, self.published = ek.models.InteractionNetwork(40), baselines.InteractionNetwork(40)
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        """[E, 2]: not a segment, a segment."""
        model, edges = self.model(side), self.edges if side == PUBLISHED else self.graph
        dtype = next(model.parameters()).dtype
        y = model(self.x.to(dtype), edges, self.attr.to(dtype))
        return torch.cat([-y, y], dim=1)


class TrackerSides(side_by_side.Sides):
    """One sample hit graph through the models whose numbers of parameters the table gives: SO(3) EuclidNet of H 16 (the
    table says SO(2)) and the Interaction Network of H 32."""

    def __init__(self, interaction: bool) -> None:
        event = ek.data.load_sample_hit_graphs()[0]
        self.graph, self.label = event.graph, event.y.long()
        edges = torch.stack([self.graph.sender, self.graph.receiver])
        torch.manual_seed(0)
        if interaction:
            self.ours, self.published = ek.models.InteractionNetwork(32), baselines.InteractionNetwork(32)
            self.inputs = {OURS: (event.x, self.graph, event.edge_attr), PUBLISHED: (event.x, edges, event.edge_attr)}
        else:
            self.ours, self.published = ek.models.EuclidNetSO3(16, 3), baselines.EuclidNetSO3(16, 3)
            rows = edges.flip(0)
            self.inputs = {OURS: (event.cartesian, self.graph), PUBLISHED: (event.cartesian, rows)}
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        """[E, 2]: not a segment, a segment."""
        y = self.model(side)(*self.inputs[side])
        return torch.cat([-y, y], dim=1)


# name, parameters, ms on a CPU (EPYC 7713) and on a GPU (A100) as published
TABLE = (("InteractionNetwork", 4392, 4.714, 0.403), ("EuclidNet", 2580, 4.866, 0.151))


def table(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Inference times of two trackers, the published columns beside ours; batches and graphs are not the table's."""
    torch.set_num_threads(threads)
    rows = []
    for name, parameters, cpu, gpu in TABLE:
        sides = TrackerSides(name == "InteractionNetwork").to(device)
        count = sum(p.numel() for p in sides.ours.parameters())
        if count != parameters:
            raise SystemExit(f"{name}: {count} parameters where the table has {parameters}")
        difference = sides.agree()
        row = sides.time(f"{name}, forward, one graph of {sides.graph.num_edges:,} edges", sides.forward, (5, 15))
        rows.append({**row, "difference": difference, "parameters": count, "table_cpu": cpu, "table_gpu": gpu})
    return {**machine("trackers", threads, device), "rows": rows}


def main() -> None:
    options = side_by_side.parser(__doc__).parse_args()
    side_by_side.write(table(options.threads, options.device), options.out)


if __name__ == "__main__":
    main()
