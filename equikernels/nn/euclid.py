"""The blocks of EuclidNet (arXiv 2304.05293): messages between hits, with features on edges that live on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import fail
from ..graph import Graph
from ..metric import psi
from ..ops.message_passing import EdgeMLP, Geometry, message_passing
from ..ops.segment import segment_reduce
from .chain import chain, chain_at
from .linear import weight_and_bias
from .plain import Layers, expect_layers, obstacle, warn_once
from .rows import apply_layers

CLAMP = 100.0
FREE = Geometry(metric="euclidean")
CLAMPED = Geometry(metric="euclidean", clamp=CLAMP)


class EuclidBlock(nn.Module):
    r"""The released SO(2) block: edge memory e, points x and features h, in one fused pass over edges.

    .. math::
        e_{ij}' &= \phi_e(\psi(\|x_i - x_j\|^2), \psi(\langle x_i, x_j \rangle), h_i, h_j, e_{ij}), \quad
        m_{ij} = \phi_m(e_{ij}') \\
        x_i' &= x_i + c \textstyle\sum_j \mathrm{clamp}((x_i - x_j) \phi_x(m_{ij}), -100, 100) \\
        h_i' &= h_i + c\, \phi_s(h_i, \textstyle\sum_j m_{ij})

    Per layer e is read once and written once; nothing else is kept per edge, in training neither. State-dict keys are
    those of the released block.

    Args:
        n_hidden: width of h, e and m.
        n_layers: linear layers of phi_e, phi_m and phi_s; phi_x has one more.
        c_weight: c.
        activation: between layers; SiLU in the release.
        layernorm: LayerNorm without affine before every activation.
    """

    def __init__(
        self,
        n_hidden: int,
        n_layers: int = 3,
        c_weight: float = 0.005,
        activation: nn.Module = nn.SiLU(),  # noqa: B008 (it has no state)
        layernorm: bool = True,
    ) -> None:
        super().__init__()
        self.n_hidden = n_hidden
        self.c_weight = c_weight
        h = [n_hidden] * n_layers
        self.phi_e = chain([3 * n_hidden + 2, *h], activation, layernorm)
        self.phi_x = chain([n_hidden, *h, 1], activation, layernorm)
        self.phi_m = chain([n_hidden, *h], activation, layernorm, nn.Sigmoid())
        self.phi_s = chain([2 * n_hidden, *h], activation, layernorm)

    def forward(self, h: Tensor, x: Tensor, e: Tensor, graph: Graph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One round.

        Args:
            h: [n, n_hidden] node features.
            x: [n, D] points, in the dtype of h or float64.
            e: [E, n_hidden] edge features, in the graph's order.
            graph: the edges j -> i, over n nodes.

        Returns:
            (h', x', e', sum of messages [n, n_hidden]).

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        if h.shape != (graph.num_nodes, self.n_hidden):
            fail("EuclidBlock", "h", f"shape [{graph.num_nodes}, {self.n_hidden}]", list(h.shape))
        reason = obstacle(self, euclid_layers)
        if reason is None:
            return euclid_round(self, h, x, e, graph)
        warn_once(self, type(self).__name__, reason)
        j, i = graph._edges
        e = self.edge_update(h[i], h[j], x[i], x[j], e)
        m, step = self.message(x[i], x[j], e).tensor_split([-x.shape[1]], dim=1)
        total, moved = segment_reduce(m.to(h.dtype), graph, "sum"), segment_reduce(step, graph, "sum").to(x.dtype)
        update = apply_layers(self.phi_s, h, total)
        return torch.add(h, update, alpha=self.c_weight), torch.add(x, moved, alpha=self.c_weight), e, total

    def edge_update(self, h_i: Tensor, h_j: Tensor, x_i: Tensor, x_j: Tensor, e: Tensor) -> Tensor:
        """e' [E, n_hidden], by calling the layers."""
        square, product = (v.sum(-1, keepdim=True) for v in ((x_i - x_j).square(), x_i * x_j))
        return self.phi_e(torch.cat([psi(square).to(e.dtype), psi(product).to(e.dtype), h_i, h_j, e], dim=1))

    def message(self, x_i: Tensor, x_j: Tensor, e: Tensor) -> Tensor:
        """[m, the step of x] of every edge j -> i, by calling the layers: [E, n_hidden + D]."""
        m = self.phi_m(e)
        return torch.cat([m, ((x_i - x_j) * self.phi_x(m)).clamp(-CLAMP, CLAMP)], dim=1)


def euclid_layers(block: Any) -> Layers:
    """The layers of a block that the fused pass over edges reads.

    Raises:
        ValueError: they are not the published ones.
    """
    return [layer for name in ("phi_e", "phi_m", "phi_x") for layer in chain_at(block, name)]


def euclid_round(block: Any, h: Tensor, x: Tensor, e: Tensor, graph: Graph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(h', x', e', sum of messages), of any block with the released phi_e, phi_m, phi_x, phi_s and c_weight."""
    mlp = EdgeMLP.of(
        block.phi_e, block.phi_m, head=block.phi_x, order=("invariants", "receiver", "sender", "edge_attr")
    )
    edges = sum(isinstance(layer, nn.Linear) for layer in block.phi_e) - 1
    out = message_passing(mlp, graph, h=h, x=x, edge_attr=e, geometry=CLAMPED, coordinates="sum", edges=edges)
    assert out.messages is not None
    assert out.coordinates is not None
    assert out.edges is not None
    update, c = apply_layers(block.phi_s, h, out.messages), block.c_weight
    return torch.add(h, update, alpha=c), torch.add(x, out.coordinates, alpha=c), out.edges, out.messages


class PaperEuclidBlock(nn.Module):
    r"""Equations 3.1-3.4 of arXiv 2304.05293, (3.2) first, as (3.1) needs it.

    .. math::
        e_{ij}' &= \phi_e(\psi(\|x_i - x_j\|^2), \psi(\langle x_i, x_j \rangle), e_{ij}) \\
        m_{ij} &= \phi_m(h_i, h_j, e_{ij}', \psi(\|x_i - x_j\|^2), \psi(\langle x_i, x_j \rangle)) \\
        x_i' &= x_i + c \textstyle\sum_j \phi_x(m_{ij}) (x_i - x_j), \quad
        h_i' = h_i + \phi_h(h_i, \textstyle\sum_j m_{ij})

    No LayerNorm and no clamp are mentioned there, and c multiplies the update of x alone. Arguments as
    :class:`EuclidBlock`.
    """

    def __init__(
        self,
        n_hidden: int,
        n_layers: int = 3,
        c_weight: float = 0.005,
        activation: nn.Module = nn.SiLU(),  # noqa: B008 (it has no state)
    ) -> None:
        super().__init__()
        self.n_hidden = n_hidden
        self.c_weight = c_weight
        h = [n_hidden] * n_layers
        self.phi_e = chain([n_hidden + 2, *h], activation, norm=False)
        self.phi_m = chain([3 * n_hidden + 2, *h], activation, norm=False)
        self.phi_x = chain([n_hidden, *h, 1], activation, norm=False)
        self.phi_h = chain([2 * n_hidden, *h], activation, norm=False)

    def forward(self, h: Tensor, x: Tensor, e: Tensor, graph: Graph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As :meth:`EuclidBlock.forward`."""
        op, width = "PaperEuclidBlock", self.n_hidden
        if h.shape != (graph.num_nodes, width):
            fail(op, "h", f"shape [{graph.num_nodes}, {width}]", list(h.shape))
        if reason := obstacle(self, euclid_layers):
            warn_once(self, op, reason)
            return self._layer_by_layer(h, x, e, graph)
        mlp = EdgeMLP.of(self.phi_e, order=("invariants", "edge_attr"))
        memory = message_passing(mlp, graph, x=x, edge_attr=e, geometry=FREE, messages="none", edges=True).edges
        assert memory is not None
        mlp = EdgeMLP.of(self.phi_m, head=self.phi_x, order=("receiver", "sender", "edge_attr", "invariants"))
        out = message_passing(mlp, graph, h=h, x=x, edge_attr=memory, geometry=FREE, coordinates="sum")
        assert out.messages is not None
        assert out.coordinates is not None
        update = apply_layers(self.phi_h, h, out.messages, residual=h)
        return update, torch.add(x, out.coordinates, alpha=self.c_weight), memory, out.messages

    def _layer_by_layer(self, h: Tensor, x: Tensor, e: Tensor, graph: Graph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        j, i = graph._edges
        d = x[i] - x[j]
        s = [psi(v.sum(-1, keepdim=True)).to(h.dtype) for v in (d.square(), x[i] * x[j])]
        e = self.phi_e(torch.cat([*s, e], dim=1))
        m = self.phi_m(torch.cat([h[i], h[j], e, *s], dim=1))
        total, moved = segment_reduce(m, graph, "sum"), segment_reduce(d * self.phi_x(m), graph, "sum")
        return apply_layers(self.phi_h, h, total, residual=h), torch.add(x, moved, alpha=self.c_weight), e, total


class EuclidPointsBlock(nn.Module):
    r"""The released SO(3) block, which has no node features.

    .. math::
        m_{ij} &= \phi_e(\psi(\|x_i - x_j\|^2), \psi(\langle x_i, x_j \rangle)), \quad
        m_{ij} \leftarrow \phi_m(m_{ij}) m_{ij} \\
        x_i' &= x_i + c\, \mathrm{mean}_j\, \mathrm{clamp}((x_i - x_j) \phi_x(m_{ij}), -100, 100)

    State-dict keys are those of the released block. BatchNorm's statistics run over edges.

    Args:
        n_hidden: width of m.
        c_weight: c.
    """

    def __init__(self, n_hidden: int, c_weight: float = 0.005) -> None:
        super().__init__()
        self.c_weight = c_weight
        self.phi_e = nn.Sequential(
            nn.Linear(2, n_hidden, bias=False),
            nn.BatchNorm1d(n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_hidden),
            nn.ReLU(),
        )
        head = nn.Linear(n_hidden, 1, bias=False)
        nn.init.xavier_uniform_(head.weight, gain=0.001)  # x hardly moves at first
        self.phi_x = nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.ReLU(), head)
        self.phi_m = nn.Sequential(nn.Linear(n_hidden, 1), nn.Sigmoid())

    def forward(self, x: Tensor, graph: Graph, return_edges: bool = False) -> tuple[Tensor, Tensor | None]:
        """(x' [n, D], and with ``return_edges`` m [E, n_hidden])."""
        if reason := obstacle(self, points_layers):
            warn_once(self, type(self).__name__, reason)
            j, i = graph._edges
            d = x[i] - x[j]
            s = [psi(v.sum(-1, keepdim=True)) for v in (d.square(), x[i] * x[j])]
            m = self.phi_e(torch.cat(s, dim=1).to(weight_and_bias(self.phi_e[0])[0].dtype))
            m = m * self.phi_m(m)
            moved = segment_reduce((d * self.phi_x(m)).clamp(-CLAMP, CLAMP), graph, "mean")
            return torch.add(x, moved, alpha=self.c_weight), m if return_edges else None
        mlp = EdgeMLP.of(self.phi_e, gate=self.phi_m, head=self.phi_x, order=("invariants",))
        out = message_passing(
            mlp, graph, x=x, geometry=CLAMPED, messages="none", coordinates="mean", edges=return_edges
        )
        assert out.coordinates is not None
        return torch.add(x, out.coordinates, alpha=self.c_weight), out.edges


def points_layers(block: Any) -> Layers:
    """The layers of a block that the fused op reads.

    Raises:
        ValueError: they are not the published ones.
    """
    layers = [*expect_layers(block, "phi_e", (nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.ReLU))]
    layers += expect_layers(block, "phi_m", (nn.Linear, nn.Sigmoid))
    return [*layers, *expect_layers(block, "phi_x", (nn.Linear, nn.ReLU, nn.Linear))]
