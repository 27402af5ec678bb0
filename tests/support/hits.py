"""Hit graphs for the tests of EuclidNet, the Interaction Network and VecNet, and pairs of networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import published
from equikernels.models import EuclidNet, EuclidNetSO3, InteractionNetwork

from .golden import filled


class Hits(NamedTuple):
    x: Tensor
    edge_attr: Tensor
    graph: ek.Graph

    @property
    def rows(self) -> Tensor:
        """The edges as EuclidNet's published code takes them: messages from the second to the first."""
        return self.graph.edge_index.flip(0)


def six_hits() -> Hits:
    """The graph's receivers are what the published EuclidNet calls i: its first index."""
    i = torch.arange(6).double()
    x = torch.stack([0.1 * torch.sin(1.1 * i + 0.3), 0.1 * torch.cos(0.7 * i), 0.2 * torch.sin(0.5 * i + 1)], dim=1)
    first = torch.tensor([[0, 0, 1, 2, 3, 1, 4], [1, 2, 3, 3, 5, 4, 5]])
    attr = 0.3 * torch.sin(0.9 * torch.arange(7)[:, None].double() + torch.arange(4))
    edges = torch.cat([first, first.flip(0)], dim=1)
    return Hits(x, torch.cat([attr, -attr]), ek.Graph.from_edge_index(edges.flip(0), 6))


def hits(n: int = 30, edges: int = 150) -> Hits:
    """A random graph, with duplicate edges, self-loops, and a last hit that receives nothing."""
    generator = torch.Generator().manual_seed(2)
    sender = torch.randint(0, n, (edges,), generator=generator)
    receiver = torch.randint(0, n - 1, (edges,), generator=generator)
    x = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    attr = torch.randn(edges, 4, dtype=torch.float64, generator=generator)
    return Hits(x, attr, ek.Graph.from_edge_index(torch.stack([sender, receiver]), n))


def turned(p: Hits, angle: float, reflect: bool = False) -> Hits:
    """Rotated about z, after y -> -y where asked."""
    c, s = (f(torch.tensor(angle, dtype=torch.float64)) for f in (torch.cos, torch.sin))
    one, zero = torch.ones_like(c), torch.zeros_like(c)
    matrix = torch.stack([torch.stack(row) for row in ([c, -s, zero], [s, c, zero], [zero, zero, one])])
    x = p.x * torch.tensor([1.0, -1.0, 1.0]).double() if reflect else p.x
    return p._replace(x=x @ matrix.T)


def shuffled(p: Hits) -> tuple[Hits, Tensor, Tensor]:
    """The same graph with hits and edges in another order, and both orders."""
    nodes, edges = torch.randperm(len(p.x)), torch.randperm(p.graph.num_edges)
    place = torch.argsort(nodes)
    graph = ek.Graph.from_edge_index(place[p.graph.edge_index][:, edges], len(nodes))
    return Hits(p.x[nodes], p.edge_attr[edges], graph), nodes, edges


# name -> ours, published, options; widths at which vectors have tails, and two rounds or passes
SIZES = {"n_hidden": 6, "n_layers": 2, "c_weight": 0.1}
ITERATED = {**SIZES, "n_graph_iters": 2}
NETWORKS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module], dict[str, Any], dict[str, Any]]] = {
    "SO(2)": (EuclidNet, published.EuclidNetSO2, ITERATED, {}),
    "SO(2) vectors out": (EuclidNet, published.EuclidNetSO2, {**ITERATED, "equi_output": False}, {}),
    "SO(2) depth 3": (EuclidNet, published.EuclidNetSO2, {**ITERATED, "n_layers": 3, "n_hidden": 16}, {}),
    "paper": (EuclidNet, published.PaperEuclidNet, ITERATED, {"variant": "paper"}),
    "SO(3)": (EuclidNetSO3, published.EuclidNetSO3, SIZES, {}),
    "IN": (InteractionNetwork, published.InteractionNetwork, {"hidden_size": 8, "n_layers": 2}, {}),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Ours and the published formula, float64, same weights."""
    ours, theirs, options, extra = NETWORKS[name]
    return filled(ours(**options, **extra)), filled(theirs(**options))


def run(model: nn.Module, p: Hits) -> Tensor:
    """Any of the networks."""
    if isinstance(model, InteractionNetwork):
        return model(p.x, p.graph, p.edge_attr)
    if isinstance(model, published.InteractionNetwork):
        return model(p.x, p.graph.edge_index, p.edge_attr)
    return model(p.x, p.graph if isinstance(model, EuclidNet | EuclidNetSO3) else p.rows)
