"""EGNN and EuclidNet on the edges of hit graphs, against the published formulas in eager PyTorch.

python -m bench.tracking --network euclidnet --out bench/results/euclidnet.json
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels import baselines

from . import side_by_side
from .side_by_side import PUBLISHED

NODES, EDGES = 10_000, 80_000


class EGNNSides(side_by_side.Sides):
    """H 64, 4 layers, attention, three coordinates; edges in random order, a hit graph's number of them."""

    name = "H 64, 4 layers, attention"

    def __init__(self, quick: bool) -> None:
        n, edges = (NODES // 8, EDGES // 8) if quick else (NODES, EDGES)
        generator = torch.Generator().manual_seed(0)
        self.graph = ek.Graph.from_edge_index(torch.randint(0, n, (2, edges), generator=generator), n)
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


class EuclidNetSides(side_by_side.Sides):
    """SO(2), H 8, 3 layers, 5 rounds, on the sample hit graphs, several times where ``quick`` is False."""

    name = "SO(2), H 8, 3 layers, 5 rounds"

    def __init__(self, quick: bool) -> None:
        events = ek.data.load_sample_hit_graphs() * (1 if quick else 4)
        edges, first = [], 0
        for event in events:
            edges.append(torch.stack([event.graph.sender, event.graph.receiver]) + first)
            first += len(event.x)
        self.x = torch.cat([event.cartesian for event in events])
        self.graph = ek.Graph.from_edge_index(torch.cat(edges, dim=1), first)
        self.edges = self.graph.receiver, self.graph.sender
        self.label = torch.cat([event.y for event in events]).long()
        torch.manual_seed(0)
        self.ours, self.published = ek.models.EuclidNet(), baselines.EuclidNetSO2()
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        """[E, 2]: not a segment, a segment."""
        model, edges = (self.published, self.edges) if side == PUBLISHED else (self.ours, self.graph)
        y = model(self.x.to(next(model.parameters()).dtype), edges)
        return torch.cat([-y, y], dim=1)


NETWORKS: dict[str, Callable[[bool], Any]] = {"egnn": EGNNSides, "euclidnet": EuclidNetSides}


def measure(network: str, threads: int, quick: bool, device: str = "cpu") -> dict[str, Any]:
    """``quick``: an eighth (EGNN) or a quarter (EuclidNet) of the edges."""
    torch.set_num_threads(threads)
    sides = NETWORKS[network](quick).to(device)
    sides.graph.table  # noqa: B018 (made on first use; not what is measured)
    difference, errors = sides.agree(), sides.gradient_errors()
    size = f"{sides.graph.num_edges:,} edges"
    rounds = (3, 5) if quick else (3, 10)
    step = sides.time(f"training step, {size}", sides.step, rounds)
    rows = [
        {**sides.time(f"forward, {size}", sides.forward, rounds), "difference": difference},
        {**step, "gradient_error": errors[0], "published_gradient_error": errors[1]},
    ]
    result = {**side_by_side.machine(network, threads, device), "model": sides.name, "rows": rows}
    if device == "cpu":
        arguments = ["--network", network, "--threads", str(threads), *(["--quick"] if quick else [])]
        result["training_step_peak_mib"] = side_by_side.peaks(f"{__package__}.tracking", arguments)
    return result


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--network", choices=NETWORKS, default="euclidnet")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        sides = NETWORKS[options.network](options.quick)
        side_by_side.print_peaks(lambda: sides.step(options.child), lambda: sides.step(options.child))
    else:
        side_by_side.write(measure(options.network, options.threads, options.quick), options.out)


if __name__ == "__main__":
    main()
