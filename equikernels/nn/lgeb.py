"""The Lorentz group equivariant block of LorentzNet (arXiv 2201.08187, section 3.2), as published weights need it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_choice, fail
from ..graph import Graph
from ..metric import psi
from ..ops.message_passing import EdgeMLP, EdgeOutput, Geometry, message_passing
from ..ops.message_passing.options import PRECISIONS
from ..ops.segment import segment_reduce
from .linear import check_dtype
from .plain import Layers, expect_layers, obstacle, warn_once
from .rows import apply_layers

CLAMP = 100.0
GEOMETRY = Geometry(clamp=CLAMP)


class LGEB(nn.Module):
    r"""One round of messages between four-vectors.

    .. math::
        m_{ij} &= \phi_e(h_i, h_j, \psi(\|x_i - x_j\|^2), \psi(\langle x_i, x_j \rangle), a_{ij}), \quad
        m_{ij} \leftarrow \phi_m(m_{ij}) m_{ij} \\
        x_i' &= x_i + c \, \mathrm{mean}_j \, \mathrm{clamp}((x_i - x_j) \phi_x(m_{ij}), -100, 100) \\
        h_i' &= h_i + \phi_h(h_i, \textstyle\sum_j m_{ij}, s_i)

    Not ``equivariant``, phi_e reads the four-vectors of both ends in place of their products, and is
    :math:`\phi_e(h_i, \psi(x_i), h_j, \psi(x_j), a_{ij})`, with psi of each component: the ablation.

    Where something is attached to the layers of phi_e, phi_x or phi_m (hooks, adapters, quantised weights), or one of
    them is another layer than published, all are called one by one, on a tensor of edges.

    State-dict keys are the published ones. The statistics of phi_e's BatchNorm run over edges, those of phi_h's over
    nodes. The published code, which pads, counts padding among the nodes when it trains; see
    :class:`equikernels.models.LorentzNet`.

    Args:
        n_input: width of h; n_output must be the same, h being updated residually.
        n_output: width of h'.
        n_hidden: width of the messages.
        n_node_attr: width of the node attributes s.
        dropout: taken for the published signature's sake; the published block has no dropout. Must be 0.
        c_weight: c.
        last_layer: leave x alone; the block then has no phi_x.
        n_edge_attr: width of the edge attributes a (0 in the published network).
        equivariant: False: no symmetry restricts the messages, see above.
        precision: of the products on edges: "highest", "high" or "medium"; see :func:`equikernels.message_passing`.
            An attribute, which may be changed; not part of the state dict.
    """

    def __init__(
        self,
        n_input: int,
        n_output: int,
        n_hidden: int,
        n_node_attr: int = 0,
        dropout: float = 0.0,
        c_weight: float = 1.0,
        last_layer: bool = False,
        *,
        n_edge_attr: int = 0,
        equivariant: bool = True,
        precision: str = "highest",
    ) -> None:
        super().__init__()
        if n_output != n_input:
            fail("LGEB", "n_output", f"{n_input}, the width of the input", n_output)
        if dropout != 0:
            fail("LGEB", "dropout", "0", dropout)
        check_choice("LGEB", "precision", precision, PRECISIONS)
        self.n_input = n_input
        self.n_node_attr = n_node_attr
        self.n_edge_attr = n_edge_attr
        self.c_weight = c_weight
        self.last_layer = last_layer
        self.equivariant = equivariant
        self.precision = precision
        self.phi_e = nn.Sequential(
            nn.Linear(2 * n_input + (2 if equivariant else 8) + n_edge_attr, n_hidden, bias=False),
            nn.BatchNorm1d(n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_hidden),
            nn.ReLU(),
        )
        self.phi_h = nn.Sequential(
            nn.Linear(n_input + n_hidden + n_node_attr, n_hidden),
            nn.BatchNorm1d(n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_output),
        )
        if not last_layer:
            head = nn.Linear(n_hidden, 1, bias=False)
            nn.init.xavier_uniform_(head.weight, gain=0.001)  # x hardly moves at first
            self.phi_x = nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.ReLU(), head)
        self.phi_m = nn.Sequential(nn.Linear(n_hidden, 1), nn.Sigmoid())

    def forward(
        self,
        h: Tensor,
        x: Tensor,
        graph: Graph,
        edge_attr: Tensor | None = None,
        node_attr: Tensor | None = None,
        return_edges: bool = False,
        *,
        padding: int = 0,
    ) -> tuple[Tensor, ...]:
        """Updates node features and coordinates.

        Args:
            h: [n + padding, n_input] node features.
            x: [n, 4] four-vectors (E, px, py, pz), float32 or float64, which may be wider than h.
            graph: the edges, over n nodes.
            edge_attr: [E, n_edge_attr], in the graph's order.
            node_attr: [n + padding, n_node_attr].
            return_edges: also return the gated messages.
            padding: rows of h behind the nodes, without edges and coordinates: they enter phi_h alone, and its batch
                statistics.

        Returns:
            (h' [n + padding, n_input], x' [n, 4]), and with ``return_edges`` m [E, n_hidden].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        self._check(h, x, graph, edge_attr, node_attr, padding)
        out = self._messages(h[: graph.num_nodes] if padding else h, x, graph, edge_attr, return_edges)
        if padding:
            assert out.messages is not None
            out = out._replace(messages=F.pad(out.messages, (0, 0, 0, padding)))
        updated = lorentz_update(self, h, x, out, node_attr)
        return (*updated, out.edges) if out.edges is not None else updated

    def _messages(
        self, h: Tensor, x: Tensor, graph: Graph, edge_attr: Tensor | None, return_edges: bool = False
    ) -> EdgeOutput:
        if reason := obstacle(self, lorentz_layers):
            warn_once(self, type(self).__name__, reason)
            return self._layer_by_layer(h, x, graph, edge_attr, return_edges)
        return lorentz_messages(self, h, x, graph, edge_attr, self.precision, return_edges)

    def message(self, h_i: Tensor, h_j: Tensor, x_i: Tensor, x_j: Tensor, edge_attr: Tensor | None) -> Tensor:
        """[m, the step of x] of every edge j -> i, by calling the layers: [E, n_hidden + 4]."""
        d = x_i - x_j
        if self.equivariant:
            metric = x_i.new_tensor([1.0] + [-1.0] * (x_i.shape[1] - 1))
            interval, product = ((v * metric).sum(-1, keepdim=True) for v in (d * d, x_i * x_j))
            inputs = [h_i, h_j, psi(interval).to(h_i.dtype), psi(product).to(h_i.dtype)]
        else:
            inputs = [h_i, psi(x_i).to(h_i.dtype), h_j, psi(x_j).to(h_i.dtype)]
        m = self.phi_e(torch.cat(inputs if edge_attr is None else [*inputs, edge_attr], dim=1))
        m = m * self.phi_m(m)
        step = torch.zeros_like(d) if self.last_layer else (d * self.phi_x(m)).clamp(-CLAMP, CLAMP)
        return torch.cat([m, step], dim=1)

    def _layer_by_layer(
        self, h: Tensor, x: Tensor, graph: Graph, edge_attr: Tensor | None, return_edges: bool
    ) -> EdgeOutput:
        j, i = graph._edges
        m, step = self.message(h[i], h[j], x[i], x[j], edge_attr).tensor_split([-x.shape[1]], dim=1)
        moved = None if self.last_layer else segment_reduce(step, graph, "mean").to(x.dtype)
        return EdgeOutput(segment_reduce(m.to(h.dtype), graph, "sum"), moved, m if return_edges else None)

    def _check(
        self,
        h: Tensor,
        x: Tensor,
        graph: Graph,
        edge_attr: Tensor | None,
        node_attr: Tensor | None,
        padding: int = 0,
        receivers: int | None = None,
    ) -> None:
        n = graph.num_nodes
        if h.shape != (n + padding, self.n_input):
            fail("LGEB", "h", f"shape [{n + padding}, {self.n_input}]", list(h.shape))
        check_dtype("LGEB", "h", h, self.phi_h)
        if x.shape != (n, 4):
            fail("LGEB", "x", f"shape [{n}, 4]", list(x.shape))
        attributes = (
            ("edge_attr", edge_attr, self.n_edge_attr),
            ("node_attr", node_attr, self.n_node_attr),
        )
        for name, value, width in attributes:
            if name == "node_attr" or value is None:
                rows = n + padding if receivers is None else receivers
            else:
                rows = graph.num_edges  # which a complete graph on a device may have to read back
            if (value is None and width > 0) or (value is not None and value.shape != (rows, width)):
                got = None if value is None else list(value.shape)
                fail("LGEB", name, f"shape [{rows}, {width}]" if width else "None", got)
            if value is not None and value.dtype != h.dtype:
                check_dtype("LGEB", name, value, self.phi_h)


def lorentz_layers(block: Any) -> Layers:
    """The layers of a block that :func:`lorentz_messages` reads.

    Raises:
        ValueError: they are not the published ones.
    """
    layers = [*expect_layers(block, "phi_e", (nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.ReLU))]
    layers += expect_layers(block, "phi_m", (nn.Linear, nn.Sigmoid))
    if getattr(block, "phi_x", None) is not None:
        layers += expect_layers(block, "phi_x", (nn.Linear, nn.ReLU, nn.Linear))
        if block.phi_x[2].bias is not None:
            raise ValueError("phi_x.2 has a bias")
    return layers


def lorentz_messages(
    block: Any,
    h: Tensor,
    x: Tensor,
    graph: Graph,
    edge_attr: Tensor | None = None,
    precision: str = "highest",
    return_edges: bool = False,
) -> EdgeOutput:
    """Summed messages and the coordinates' step (None without phi_x), of any block with the published phi_e, phi_m and
    phi_x."""
    phi_x = getattr(block, "phi_x", None)
    equivariant = getattr(block, "equivariant", True)
    if not equivariant:
        h = torch.cat([h, psi(x).to(h.dtype)], dim=1)
    invariants = ("invariants",) if equivariant else ()
    order = ("receiver", "sender", *invariants, *(() if edge_attr is None else ("edge_attr",)))
    return message_passing(
        EdgeMLP.of(block.phi_e, gate=block.phi_m, head=phi_x, order=order),
        graph,
        h=h,
        x=x,
        edge_attr=edge_attr,
        geometry=GEOMETRY,
        coordinates="none" if phi_x is None else "mean",
        edges=return_edges,
        precision=precision,
    )


def lorentz_update(
    block: Any, h: Tensor, x: Tensor, out: EdgeOutput, node_attr: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(h', x') from what :func:`lorentz_messages` gave, of any block with the published phi_h and c_weight."""
    assert out.messages is not None
    if out.coordinates is not None:
        x = torch.add(x, out.coordinates, alpha=block.c_weight)
    more = () if node_attr is None else (node_attr,)
    return apply_layers(block.phi_h, h, out.messages, *more, residual=h), x
