"""Tests fuse_ on forks of the EGNN layer: masks, ranges, factors, norms, activations run fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.published.egnn import scatter_mean
from equikernels.published.lorentznet import scatter_sum

from ..support.fuse_blocks import Layer, Masked, awake, compare, fuses, layer_call, masks, numbers, runs_fused, variant

FORKS: dict[str, tuple[dict[str, Any], dict[str, Tensor]]] = {
    f"{'steps and ' * steps}messages, {'x and ' * points}h, {' and '.join(names) or 'no mask'}": (
        {"mask_steps": steps, "mask_points": points},
        {name: masks()[name] for name in names},
    )
    for steps in (True, False)
    for points in (True, False)
    for names in ((), ("edge_mask",), ("node_mask",), ("node_mask", "edge_mask"))
}


@pytest.mark.parametrize("name", list(FORKS))
def test_masks_of_edges_and_nodes_run_fused(name: str) -> None:
    options, given = FORKS[name]
    compare(variant(Masked, **options), layer_call(), given, fused=True)


def mean_over_masks(self: Any, step: Tensor, edges: Any, n: int, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scatter_mean(step, edges[0], n)
    return scatter_sum(step * mask, edges[0], n) / scatter_sum(mask, edges[0], n).clamp(min=1)


def test_what_masks_do_otherwise_runs_as_before() -> None:
    edge, node = masks()["edge_mask"], masks()["node_mask"]
    compare(Masked, layer_call(), {"edge_mask": 0.5 * edge}, fused=False)
    compare(Masked, layer_call(), {"edge_mask": edge.squeeze(1)[:1]}, fused=False)
    compare(variant(Masked, aggregate=mean_over_masks), layer_call(), {"edge_mask": edge}, fused=False)
    compare(variant(Masked, aggregate=mean_over_masks), layer_call(), fused=True)
    compare(Filled, layer_call(), {"node_mask": 0.5 * node}, fused=False)


class Filled(Masked):
    """A mask that is not a factor: at 0 and 1 the result is the same."""

    def forward(self, h: Any, edges: Any, coord: Any, edge_attr: Any = None, node_mask: Any = None) -> Any:  # type: ignore[override]
        h, coord, edge_attr = self.run(h, edges, coord, edge_attr)
        return h if node_mask is None else h.masked_fill(node_mask == 0, 0.0), coord, edge_attr


class MoleculeLayer(nn.Module):
    """Coordinates stay, masks are positional, and the one of nodes is not used."""

    def __init__(self) -> None:
        super().__init__()
        layers = Layer(attention=True)
        self.edge_mlp, self.node_mlp, self.att_mlp = layers.edge_mlp, layers.node_mlp, layers.att_mlp

    def forward(
        self,
        h: Any,
        edge_index: Any,
        coord: Any,
        node_mask: Any,
        edge_mask: Any,
        edge_attr: Any = None,
        n_nodes: Any = None,
    ) -> Any:
        row, col = edge_index
        square = (coord[row] - coord[col]).square().sum(1, keepdim=True)
        m = self.edge_mlp(torch.cat([h[row], h[col], square], dim=1))
        m = m * self.att_mlp(m) * edge_mask
        return h + self.node_mlp(torch.cat([h, scatter_sum(m, row, len(h))], dim=1)), coord, edge_attr


def test_the_layer_of_molecules_runs_fused() -> None:
    call = [*layer_call(), masks()["node_mask"], masks()["edge_mask"]]
    block = awake(MoleculeLayer())
    ek.fuse_(block)
    assert runs_fused(block, call)
    compare(MoleculeLayer, call, {"n_nodes": 12}, fused=False)


class Ranged(Layer):
    def __init__(self, size: Any) -> None:
        super().__init__()
        self.tanh, self.coords_range = True, size

    def weight(self, m: Tensor) -> Tensor:
        return torch.tanh(self.coord_mlp(m)) * self.coords_range


class Factored(Layer):
    def __init__(self) -> None:
        super().__init__()
        self.normalization_factor = 100.0

    def aggregate(self, step: Tensor, edges: Any, n: int, edge_mask: Tensor | None) -> Tensor:
        return scatter_sum(step, edges[0], n) / self.normalization_factor

    def total(self, m: Tensor, edges: Any, n: int) -> Tensor:
        return scatter_sum(m, edges[0], n) / self.normalization_factor


class OverNorm(Layer):
    def __init__(self, inside: float, held: bool) -> None:
        super().__init__()
        self.inside, self.held, self.norm_constant = inside, held, 1.0

    def difference(self, coord: Tensor, edges: Any) -> tuple[Tensor, Tensor]:
        d = coord[edges[0]] - coord[edges[1]]
        square = d.square().sum(1, keepdim=True)
        norm = (square + self.inside).sqrt()
        return square, d / ((norm.detach() if self.held else norm) + self.norm_constant)


class InPlace(Layer):
    def moved(self, coord: Tensor, step: Tensor) -> Tensor:
        coord += step
        return coord


PEOPLE_HAVE: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Any] | None]] = {
    "range": (lambda: Ranged(3.0), lambda m: setattr(m, "coords_range", 2.0)),
    "range that is learned": (lambda: Ranged(nn.Parameter(torch.tensor([3.0]))), None),
    "factor of sums": (Factored, lambda m: setattr(m, "normalization_factor", 7.0)),
    "norm + 1": (lambda: OverNorm(1e-8, False), lambda m: setattr(m, "norm_constant", 0.3)),
    "norm + 1, held": (lambda: OverNorm(0.0, True), lambda m: setattr(m, "norm_constant", 0.3)),
    "mean of messages": (variant(Layer, total=lambda s, m, e, n: scatter_mean(m, e[0], n)), None),
    "sum of steps": (lambda: Layer(coords_agg="sum"), None),
    "attention, tanh, normalize": (lambda: Layer(attention=True, tanh=True, normalize=True), None),
    "moves in place": (InPlace, None),
}


@pytest.mark.parametrize("name", list(PEOPLE_HAVE))
def test_forks_of_the_egnn_layer_run_fused(name: str) -> None:
    make, after = PEOPLE_HAVE[name]
    compare(make, layer_call(), fused=True, after=after)


@pytest.mark.parametrize(
    "act", [nn.ELU(), nn.Softplus(), nn.Mish(), nn.Hardswish(), nn.GELU("tanh"), nn.SiLU(True)], ids=repr
)
def test_activations(act: nn.Module) -> None:
    compare(lambda: Layer(act=act), layer_call(), fused=True)


@pytest.mark.parametrize(
    "act", [nn.ELU(0.5), nn.Softplus(2.0), nn.SELU(), nn.Hardtanh(), nn.RReLU(), nn.Softsign()], ids=repr
)
def test_activations_without_a_fused_form_are_left_alone(act: nn.Module) -> None:
    assert not fuses(Layer(act=act))


def test_prelu_runs_fused_in_scoring_only() -> None:
    block = compare(lambda: Layer(act=nn.PReLU()), layer_call())  # a training step gives the slope its gradient
    assert runs_fused(block.eval(), layer_call())


def test_edge_and_node_attributes_run_fused() -> None:
    compare(lambda: Layer(edge=2), [*layer_call(), numbers(40, 2)], fused=True)
    compare(lambda: Layer(node=2), layer_call(), {"node_attr": numbers(12, 2)}, fused=True)
