"""Edge networks whose first layer reads both ends of an edge."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..graph import Graph
from ..ops.edge_network import EdgeLayer, EdgeNetwork, EdgeOutput, edge_network
from .chain import chain_itself, chain_layers
from .plain import obstacle, warn_once
from .rows import linear_rows

# Features of a node up to which edges read them as they are. Against tables of products over nodes that is a tenth to a
# half faster forward where nodes have an edge each, and at most a tenth slower where they have twenty.
FEW = 32


class EdgeChain(NamedTuple):
    """A chain on [s_ij, h_i, h_j, a_ij]. Its first layer is U h_i + V h_j + W [s_ij, a_ij]: where h is wide, U and V
    are products over nodes, not over edges."""

    nodes: Tensor | None  # [2 H, n_node]: U over V; None: edges read h itself
    network: EdgeNetwork

    @classmethod
    def of(cls, layers: list[EdgeLayer], u: Tensor, v: Tensor, q: Tensor, s: Tensor | None = None) -> EdgeChain:
        """Of the first layer's columns: u of h_i, v of h_j, q of a_ij (maybe none), s of the invariants."""
        few = u.shape[1] <= FEW
        columns = [t for t in (s, *((u, v) if few else ()), q) if t is not None]
        first = layers[0]._replace(weight=torch.cat(columns, dim=1) if len(columns) > 1 else columns[0])
        return cls(None if few else torch.cat([u, v]), EdgeNetwork.of([first, *layers[1:]]))

    def run(self, h: Tensor, graph: Graph, **options: Any) -> EdgeOutput:
        """The network on the edges between nodes of features h; options are those of
        :func:`equikernels.edge_network`."""
        if self.nodes is None:
            return edge_network(self.network, graph, receiver=h, sender=h, ends="inputs", **options)
        receiver, sender = linear_rows(h, self.nodes).chunk(2, dim=1)
        return edge_network(self.network, graph, receiver=receiver, sender=sender, **options)


def read_ends(
    op: str,
    modules: Any,
    nodes: Tensor,
    edge_attr: Tensor | None,
    graph: Graph,
    *,
    receiver_first: bool = False,
    end: str = "identity",
) -> Tensor:
    """A chain on the columns [h_j, h_i, a_ij] of every edge, or [h_i, h_j, a_ij]; ``end`` ("sigmoid" or "identity")
    follows its last layer. Where the chain is not plain, its layers are called one by one."""
    if reason := obstacle(modules, chain_itself):
        warn_once(modules, op, reason)
        ends = (graph.receiver, graph.sender) if receiver_first else (graph.sender, graph.receiver)
        columns = [*(nodes[i] for i in ends), *(() if edge_attr is None else (edge_attr,))]
        out = modules(torch.cat(columns, dim=1))
        return torch.sigmoid(out) if end == "sigmoid" else out
    layers, slope = chain_layers(op, "modules", modules)
    width = nodes.shape[1]
    first, second, q = layers[0].weight.tensor_split([width, 2 * width], dim=1)
    u, v = (first, second) if receiver_first else (second, first)
    if end != "identity":
        layers[-1] = layers[-1]._replace(activation=end)
    chain = EdgeChain.of(layers, u, v, q)
    edges = chain.run(nodes, graph, edge_attr=edge_attr, edges_at=len(layers) - 1, negative_slope=slope).edges
    assert edges is not None
    return edges
