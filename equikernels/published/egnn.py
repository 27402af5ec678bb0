"""EGNN and its N-body relatives as published (arXiv 2102.09844): an edge list, an [E, 2H + 1 + e] gather, index_add_.

Edges are index tensors (row, col), as in the published code; messages go from col to row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .lorentznet import scatter_sum

Edges = Sequence[Tensor]


def scatter_mean(values: Tensor, index: Tensor, size: int) -> Tensor:
    count = scatter_sum(torch.ones_like(values), index, size)
    return scatter_sum(values, index, size) / count.clamp(min=1)


def small_head(width: int) -> nn.Linear:
    layer = nn.Linear(width, 1, bias=False)
    nn.init.xavier_uniform_(layer.weight, gain=0.001)
    return layer


class E_GCL(nn.Module):
    """The standalone layer."""

    def __init__(
        self,
        input_nf: int,
        output_nf: int,
        hidden_nf: int,
        edges_in_d: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008
        residual: bool = True,
        attention: bool = False,
        normalize: bool = False,
        coords_agg: str = "mean",
        tanh: bool = False,
        nodes_att_dim: int = 0,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention = attention
        self.normalize = normalize
        self.coords_agg = coords_agg
        self.tanh = tanh
        self.epsilon = 1e-8
        self.edge_mlp = nn.Sequential(
            nn.Linear(2 * input_nf + 1 + edges_in_d, hidden_nf), act_fn, nn.Linear(hidden_nf, hidden_nf), act_fn
        )
        self.node_mlp = nn.Sequential(
            nn.Linear(input_nf + hidden_nf + nodes_att_dim, hidden_nf), act_fn, nn.Linear(hidden_nf, output_nf)
        )
        head = small_head(hidden_nf)
        self.coord_mlp = nn.Sequential(nn.Linear(hidden_nf, hidden_nf), act_fn, head)
        if tanh:
            self.coord_mlp.append(nn.Tanh())
        if attention:
            self.att_mlp = nn.Sequential(nn.Linear(hidden_nf, 1), nn.Sigmoid())

    def difference(self, coord: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Squared distance [E, 1], and the vector that the head's weight multiplies [E, D]."""
        row, col = edges
        d = coord[row] - coord[col]
        square = (d * d).sum(1, keepdim=True)
        if self.normalize:
            d = d / (square.sqrt().detach() + self.epsilon)
        return square, d

    def move(self, coord: Tensor, edges: Edges, d: Tensor, message: Tensor) -> Tensor:
        aggregate = {"mean": scatter_mean, "sum": scatter_sum}[self.coords_agg]
        return coord + aggregate(d * self.coord_mlp(message), edges[0], len(coord))

    def messages(self, h: Tensor, square: Tensor, edges: Edges, edge_attr: Tensor | None) -> Tensor:
        row, col = edges
        gathered = [h[row], h[col], square] + ([] if edge_attr is None else [edge_attr])
        message = self.edge_mlp(torch.cat(gathered, dim=1))
        return message * self.att_mlp(message) if self.attention else message

    def update(self, h: Tensor, edges: Edges, message: Tensor, node_attr: Tensor | None) -> Tensor:
        nodes = [h, scatter_sum(message, edges[0], len(h))] + ([] if node_attr is None else [node_attr])
        out = self.node_mlp(torch.cat(nodes, dim=1))
        return h + out if self.residual else out

    def forward(
        self, h: Tensor, edges: Edges, coord: Tensor, edge_attr: Tensor | None = None, node_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """(h', x', edge_attr)."""
        square, d = self.difference(coord, edges)
        message = self.messages(h, square, edges, edge_attr)
        return self.update(h, edges, message, node_attr), self.move(coord, edges, d, message), edge_attr


class NBodyE_GCL(E_GCL):
    """The older layer: clamp, coords_weight, norm_diff. (The published one moves coord in place; this does not.)"""

    def __init__(
        self,
        input_nf: int,
        output_nf: int,
        hidden_nf: int,
        edges_in_d: int = 0,
        nodes_att_dim: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008
        recurrent: bool = True,
        coords_weight: float = 1.0,
        attention: bool = False,
        norm_diff: bool = False,
        tanh: bool = False,
    ) -> None:
        options = {"residual": recurrent, "attention": attention, "tanh": tanh, "nodes_att_dim": nodes_att_dim}
        super().__init__(input_nf, output_nf, hidden_nf, edges_in_d, act_fn, **options)  # type: ignore[arg-type]
        self.recurrent = recurrent
        self.coords_weight = coords_weight
        self.norm_diff = norm_diff

    def difference(self, coord: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        square, d = super().difference(coord, edges)
        return square, d / (square.sqrt() + 1) if self.norm_diff else d

    def move(self, coord: Tensor, edges: Edges, d: Tensor, message: Tensor) -> Tensor:
        step = (d * self.coord_mlp(message)).clamp(-100, 100)
        return coord + self.coords_weight * scatter_mean(step, edges[0], len(coord))


class E_GCL_vel(NBodyE_GCL):
    """The older layer for points with velocities."""

    def __init__(
        self,
        input_nf: int,
        output_nf: int,
        hidden_nf: int,
        edges_in_d: int = 0,
        nodes_att_dim: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008
        recurrent: bool = True,
        coords_weight: float = 1.0,
        attention: bool = False,
        norm_diff: bool = False,
        tanh: bool = False,
    ) -> None:
        options = (nodes_att_dim, act_fn, recurrent, coords_weight, attention, norm_diff, tanh)
        super().__init__(input_nf, output_nf, hidden_nf, edges_in_d, *options)
        self.coord_mlp_vel = nn.Sequential(nn.Linear(input_nf, hidden_nf), act_fn, nn.Linear(hidden_nf, 1))

    def forward(  # type: ignore[override]
        self,
        h: Tensor,
        edges: Edges,
        coord: Tensor,
        vel: Tensor,
        edge_attr: Tensor | None = None,
        node_attr: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        updated, moved, _ = super().forward(h, edges, coord, edge_attr, node_attr)
        return updated, moved + self.coord_mlp_vel(h) * vel, edge_attr


class EGNN(nn.Module):
    """The standalone network."""

    def __init__(
        self,
        in_node_nf: int,
        hidden_nf: int,
        out_node_nf: int,
        in_edge_nf: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008
        n_layers: int = 4,
        residual: bool = True,
        attention: bool = False,
        normalize: bool = False,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.embedding_in = nn.Linear(in_node_nf, hidden_nf)
        self.embedding_out = nn.Linear(hidden_nf, out_node_nf)
        options = {"residual": residual, "attention": attention, "normalize": normalize, "tanh": tanh}
        for k in range(n_layers):
            layer = E_GCL(hidden_nf, hidden_nf, hidden_nf, in_edge_nf, act_fn, **options)  # type: ignore[arg-type]
            self.add_module(f"gcl_{k}", layer)

    def forward(self, h: Tensor, x: Tensor, edges: Edges, edge_attr: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.embedding_in(h)
        for k in range(self.n_layers):
            h, x, _ = self.get_submodule(f"gcl_{k}")(h, edges, x, edge_attr=edge_attr)
        return self.embedding_out(h), x


class EGNN_vel(nn.Module):
    """The N-body network."""

    def __init__(
        self,
        in_node_nf: int,
        in_edge_nf: int,
        hidden_nf: int,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008
        n_layers: int = 4,
        coords_weight: float = 1.0,
        recurrent: bool = False,
        norm_diff: bool = False,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.embedding = nn.Linear(in_node_nf, hidden_nf)
        options = (0, act_fn, recurrent, coords_weight, False, norm_diff, tanh)
        for k in range(n_layers):
            self.add_module(f"gcl_{k}", E_GCL_vel(hidden_nf, hidden_nf, hidden_nf, in_edge_nf, *options))

    def forward(self, h: Tensor, x: Tensor, edges: Edges, vel: Tensor, edge_attr: Tensor | None = None) -> Tensor:
        h = self.embedding(h)
        for k in range(self.n_layers):
            h, x, _ = self.get_submodule(f"gcl_{k}")(h, edges, x, vel, edge_attr=edge_attr)
        return x


class GCL_rf_vel(nn.Module):
    """The radial field layer for points with velocities."""

    def __init__(
        self,
        nf: int,
        edge_attr_nf: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008
    ) -> None:
        super().__init__()
        self.coord_mlp_vel = nn.Sequential(nn.Linear(1, nf), act_fn, nn.Linear(nf, 1))
        head = small_head(nf)
        self.phi = nn.Sequential(nn.Linear(1 + edge_attr_nf, nf), act_fn, head, nn.Tanh())

    def forward(
        self, x: Tensor, vel_norm: Tensor, vel: Tensor, edges: Edges, edge_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        row, col = edges
        d = x[row] - x[col]
        edge = (d * d).sum(1, keepdim=True).sqrt()
        weight = self.phi(edge if edge_attr is None else torch.cat([edge, edge_attr], dim=1))
        return x + scatter_mean(d * weight, row, len(x)) + self.coord_mlp_vel(vel_norm) * vel, edge_attr


class RF_vel(nn.Module):
    """The radial field network."""

    def __init__(
        self,
        hidden_nf: int,
        edge_attr_nf: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008
        n_layers: int = 4,
    ) -> None:
        super().__init__()
        self.n_layers = n_layers
        for k in range(n_layers):
            self.add_module(f"gcl_{k}", GCL_rf_vel(hidden_nf, edge_attr_nf, act_fn))

    def forward(
        self, vel_norm: Tensor, x: Tensor, edges: Edges, vel: Tensor, edge_attr: Tensor | None = None
    ) -> Tensor:
        for k in range(self.n_layers):
            x, _ = self.get_submodule(f"gcl_{k}")(x, vel_norm, vel, edges, edge_attr)
        return x
