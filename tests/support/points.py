"""Points and edges for the tests of EGNN and its relatives, and pairs of our and the published networks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import published
from equikernels.models import EGNN, EGNNVelocity, RadialField
from equikernels.nn import EGCL

from .golden import filled


class Points(NamedTuple):
    h: Tensor
    x: Tensor
    vel: Tensor
    edge_attr: Tensor
    graph: ek.Graph

    @property
    def rows(self) -> list[Tensor]:
        """The edges as the published code takes them: messages from the second to the first."""
        return [self.graph.receiver, self.graph.sender]

    @property
    def speed(self) -> Tensor:
        return self.vel.norm(dim=1, keepdim=True)


def four_points() -> Points:
    i = torch.arange(4).double()
    x = torch.stack([torch.sin(1.1 * i + 0.3), torch.cos(0.7 * i), torch.sin(0.5 * i + 1)], dim=1)
    vel = 0.2 * torch.cos(i[:, None] + torch.arange(3))
    attr = 0.3 * torch.cos(0.6 * torch.arange(12).double())[:, None]
    return Points(0.5 * torch.sin(i + 1)[:, None], x, vel, attr, ek.Graph.complete(torch.tensor([0, 4])))


def with_distances(p: Points) -> Points:
    """The N-body experiment's edge attributes: what was given, and the initial squared distance."""
    square = (p.x[p.graph.receiver] - p.x[p.graph.sender]).square().sum(1, keepdim=True)
    return p._replace(edge_attr=torch.cat([p.edge_attr, square], dim=1))


def points(n: int = 12, edges: int = 50, dim: int = 3, attr: int = 2, self_loops: bool = True) -> Points:
    """A random sparse graph, with duplicate edges, self-loops, and a last node that receives nothing."""
    generator = torch.Generator().manual_seed(2)
    sender = torch.randint(0, n, (edges,), generator=generator)
    receiver = torch.randint(0, n - 1, (edges,), generator=generator)
    if not self_loops:
        receiver = torch.where(receiver == sender, (receiver + 1) % (n - 1), receiver)
    normal = [torch.randn(n, w, dtype=torch.float64, generator=generator) for w in (5, dim, dim)]
    edge_attr = torch.randn(edges, attr, dtype=torch.float64, generator=generator)
    return Points(*normal, edge_attr, ek.Graph.from_edge_index(torch.stack([sender, receiver]), n))


def close(results: list[Tensor | None], expected: list[Tensor | None]) -> None:
    """Equal to 1e-11 of each one's largest value; a gradient that is lost in rounding counts against the largest."""
    scale = max(e.abs().max().item() for e in expected if e is not None)
    for k, (r, e) in enumerate(zip(results, expected, strict=True)):
        if r is None or e is None:
            assert r is e, k
            continue
        assert r.shape == e.shape
        assert (r - e).abs().max() <= 1e-11 * e.abs().max() + 1e-14 * scale, k


def weighted(*outputs: Tensor) -> Tensor:
    """A scalar in which every element of the outputs has its own weight."""
    return sum((torch.linspace(-1, 1.3, o.numel(), dtype=o.dtype).view_as(o) * o).sum() for o in outputs)  # type: ignore


CLEAN: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention": {"attention": True},
    "normalize": {"normalize": True},
    "tanh": {"tanh": True},
    "sum": {"coords_agg": "sum"},
    "not residual": {"residual": False},
    "all": {"attention": True, "normalize": True, "tanh": True, "coords_agg": "sum", "residual": False},
    "relu": {"act_fn": nn.ReLU()},
    "leaky": {"act_fn": nn.LeakyReLU(0.2), "attention": True},
    "gelu": {"act_fn": nn.GELU()},
    "tanh everywhere": {"act_fn": nn.Tanh()},
}
OLD: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"coords_weight": 0.3},
    "norm_diff": {"norm_diff": True, "recurrent": False},
    "all": {"norm_diff": True, "attention": True, "tanh": True, "coords_weight": -0.3, "act_fn": nn.LeakyReLU(0.2)},
}


def layer_pair(variant: str, name: str, attr: int, node_attr: int) -> tuple[EGCL, nn.Module]:
    options = dict((CLEAN if variant == "clean" else OLD)[name])
    sizes = {"input_nf": 5, "hidden_nf": 6, "edges_in_d": attr, "nodes_att_dim": node_attr}
    recurrent = options.get("residual" if variant == "clean" else "recurrent", True)
    sizes["output_nf"] = 5 if recurrent else 3
    theirs = {"clean": published.E_GCL, "old": published.NBodyE_GCL}[variant](**sizes, **options)
    options.pop("residual", None)
    ours = EGCL(**sizes, **{**options, "recurrent": recurrent}, clamp=None if variant == "clean" else 100.0)
    return filled(ours), filled(theirs)  # type: ignore[return-value]


NETWORKS = {
    "EGNN": (EGNN, published.EGNN, (5, 8, 2, 2)),
    "EGNNVelocity": (EGNNVelocity, published.EGNN_vel, (5, 2, 8)),
    "RadialField": (RadialField, published.RF_vel, (8, 2)),
}


def model_pair(name: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Ours and the published formula, with weights that move points by less than their distances."""
    ours, theirs, sizes = NETWORKS[name]
    pair = filled(ours(*sizes, n_layers=3, **options)), filled(theirs(*sizes, n_layers=3, **options))
    for model in pair:
        for key, parameter in model.named_parameters():
            if key.endswith("coord_mlp.2.weight"):
                parameter.data *= 0.1
    return pair


def run(model: nn.Module, p: Points) -> tuple[Tensor, ...]:
    """Any of the six networks."""
    if isinstance(model, EGNN):
        return model(p.h, p.x, p.graph, p.edge_attr)
    if isinstance(model, published.EGNN):
        return model(p.h, p.x, p.rows, p.edge_attr)
    if isinstance(model, EGNNVelocity):
        return (model(p.h, p.x, p.graph, p.vel, p.edge_attr),)
    if isinstance(model, published.EGNN_vel):
        return (model(p.h, p.x, p.rows, p.vel, p.edge_attr),)
    if isinstance(model, RadialField):
        return (model(p.x, p.graph, p.vel, p.edge_attr),)
    return (model(p.speed, p.x, p.rows, p.vel, p.edge_attr),)


MODELS = [
    ("EGNN", {}),
    ("EGNN", {"attention": True, "normalize": True, "tanh": True}),
    ("EGNN", {"residual": False, "act_fn": nn.GELU()}),
    ("EGNNVelocity", {"recurrent": True}),
    ("EGNNVelocity", {"norm_diff": True, "tanh": True, "coords_weight": 0.5}),
    ("RadialField", {}),
]
