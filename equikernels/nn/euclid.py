"""The blocks of EuclidNet (arXiv 2304.05293): messages between hits, with features on edges that live on."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checks import fail
from ..graph import Graph
from ..metric import psi
from ..ops.edge_network import EdgeNetwork, edge_network
from ..ops.message import message_passing
from ..ops.segment import segment_reduce
from .chain import RowNetwork, chain, chain_at, chain_layers, one_slope
from .edge_chain import EdgeChain
from .edge_norm import EdgeInput, fold_batch_norm
from .linear import weight_and_bias
from .plain import Layers, expect_layers, obstacle, warn_once

CLAMP = 100.0


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

    def prepare(self) -> PreparedBlock | None:
        """The weights as the op takes them, for any number of calls of :meth:`forward`; None where layers are called
        one by one, because something is attached to them or they have no fused form."""
        if reason := obstacle(self, euclid_layers):
            warn_once(self, type(self).__name__, reason)
            return None
        return PreparedBlock.of(self)

    def forward(
        self, h: Tensor, x: Tensor, e: Tensor, graph: Graph, prepared: PreparedBlock | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One round.

        Args:
            h: [n, n_hidden] node features.
            x: [n, D] points, in the dtype of h or float64.
            e: [E, n_hidden] edge features, in the graph's order.
            graph: the edges j -> i, over n nodes.
            prepared: of :meth:`prepare`, where weights are shared between rounds.

        Returns:
            (h', x', e', sum of messages [n, n_hidden]).

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        if h.shape != (graph.num_nodes, self.n_hidden):
            fail("EuclidBlock", "h", f"shape [{graph.num_nodes}, {self.n_hidden}]", list(h.shape))
        prepared = prepared or self.prepare()
        if prepared is not None:
            return prepared.round(self.c_weight, h, x, e, graph)
        j, i = graph._edges
        e = self.edge_update(h[i], h[j], x[i], x[j], e)
        m, step = self.message(x[i], x[j], e).tensor_split([-x.shape[1]], dim=1)
        total, moved = segment_reduce(m.to(h.dtype), graph, "sum"), segment_reduce(step, graph, "sum").to(x.dtype)
        update = self.phi_s(torch.cat([h, total], dim=1))
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


class PreparedBlock(NamedTuple):
    edge: EdgeChain
    node: RowNetwork
    edges_at: int
    messages_at: int
    slope: float

    @classmethod
    def of(cls, block: Any) -> PreparedBlock:
        """Of any module with the released block's phi_e, phi_m, phi_x and phi_s.

        Raises:
            ValueError: layers without a fused form.
        """
        op = "EuclidBlock"
        parts = [chain_layers(op, name, getattr(block, name)) for name in ("phi_e", "phi_m", "phi_x")]
        edge, message, head = (layers for layers, _ in parts)
        width = edge[-1].weight.shape[0]
        invariants, u, v, q = edge[0].weight.tensor_split([2, 2 + width, 2 + 2 * width], dim=1)
        return cls(
            EdgeChain.of([*edge, *message, *head], u, v, q, invariants),
            RowNetwork.of(op, "phi_s", block.phi_s),
            len(edge) - 1,
            len(edge) + len(message) - 1,
            slope_of(op, parts),
        )

    def round(self, c: float, h: Tensor, x: Tensor, e: Tensor, graph: Graph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(h', x', e', sum of messages)."""
        out = self.edge.run(
            h,
            graph,
            x=x,
            edge_attr=e,
            invariants="both",
            edges_at=self.edges_at,
            messages_at=self.messages_at,
            coordinates=True,
            clamp=CLAMP,
            negative_slope=self.slope,
        )
        assert out.edges is not None
        assert out.messages is not None
        assert out.coordinates is not None
        update = self.node.run(h, out.messages)
        return torch.add(h, update, alpha=c), torch.add(x, out.coordinates, alpha=c), out.edges, out.messages


def slope_of(op: str, parts: list[Any]) -> float:
    """The slope of all LeakyReLU in parts of one edge network, each (layers, slope)."""
    leaky = {slope for layers, slope in parts if any(layer.activation == "leaky_relu" for layer in layers)}
    return one_slope(op, leaky)


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
        parts = [chain_layers(op, name, getattr(self, name)) for name in ("phi_e", "phi_m", "phi_x")]
        edge, message, head = (layers for layers, _ in parts)
        common: dict[str, Any] = {"x": x, "invariants": "both", "negative_slope": slope_of(op, parts)}
        e = edge_network(EdgeNetwork.of(edge), graph, edge_attr=e, edges_at=len(edge) - 1, **common).edges  # type: ignore[assignment]
        u, v, q, s = message[0].weight.tensor_split([width, 2 * width, 3 * width], dim=1)
        out = EdgeChain.of([*message, *head], u, v, q, s).run(
            h,
            graph,
            edge_attr=e,
            messages_at=len(message) - 1,
            coordinates=True,
            **common,
        )
        assert out.messages is not None
        assert out.coordinates is not None
        update = RowNetwork.of(op, "phi_h", self.phi_h).run(h, out.messages)
        return h + update, torch.add(x, out.coordinates, alpha=self.c_weight), e, out.messages

    def _layer_by_layer(self, h: Tensor, x: Tensor, e: Tensor, graph: Graph) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        j, i = graph._edges
        d = x[i] - x[j]
        s = [psi(v.sum(-1, keepdim=True)).to(h.dtype) for v in (d.square(), x[i] * x[j])]
        e = self.phi_e(torch.cat([*s, e], dim=1))
        m = self.phi_m(torch.cat([h[i], h[j], e, *s], dim=1))
        total, moved = segment_reduce(m, graph, "sum"), segment_reduce(d * self.phi_x(m), graph, "sum")
        update = self.phi_h(torch.cat([h, total], dim=1))
        return h + update, torch.add(x, moved, alpha=self.c_weight), e, total


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
        return euclid_points(self.phi_e, self.phi_x, self.phi_m, self.c_weight, x, graph, return_edges)


def points_layers(block: Any) -> Layers:
    """The layers of a block that :func:`euclid_points` reads.

    Raises:
        ValueError: they are not the published ones.
    """
    layers = [*expect_layers(block, "phi_e", (nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.ReLU))]
    layers += expect_layers(block, "phi_m", (nn.Linear, nn.Sigmoid))
    return [*layers, *expect_layers(block, "phi_x", (nn.Linear, nn.ReLU, nn.Linear))]


def euclid_points(
    phi_e: nn.Sequential,
    phi_x: nn.Sequential,
    phi_m: nn.Sequential,
    c_weight: float,
    x: Tensor,
    graph: Graph,
    return_edges: bool,
) -> tuple[Tensor, Tensor | None]:
    """The SO(3) block on anybody's modules of the released shape."""
    weight, _ = weight_and_bias(phi_e[0])
    nothing = weight.new_zeros(graph.num_nodes, weight.shape[0])
    z = fold_batch_norm(phi_e[1], EdgeInput(nothing, nothing, weight), x, graph, metric="euclidean")
    out = message_passing(
        z.receiver,
        z.sender,
        x,
        graph,
        invariant_weight=z.invariant_weight,
        metric="euclidean",
        layers=[weight_and_bias(phi_e[3])],
        gate=weight_and_bias(phi_m[0]),
        head=(*weight_and_bias(phi_x[0]), weight_and_bias(phi_x[2])[0]),
        clamp=CLAMP,
        return_edges=return_edges,
    )
    assert out[1] is not None
    return torch.add(x, out[1], alpha=c_weight), out[2] if return_edges else None  # type: ignore[misc]
