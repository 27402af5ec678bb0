"""Edge networks whose first layer reads both ends of an edge: what it does to nodes, and the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..graph import Graph
from ..ops.edge_network import EdgeLayer, EdgeNetwork, EdgeOutput, edge_network
from .chain import chain_layers


class Tables(NamedTuple):
    """A linear layer on [h_i, h_j, a_ij] is U h_i + V h_j + Q a_ij: products over nodes, not over edges."""

    nodes: Tensor  # [2 H, n_node]: U over V
    network: EdgeNetwork

    @classmethod
    def of(cls, layers: list[EdgeLayer], columns: list[Tensor], u: Tensor, v: Tensor) -> Tables:
        """``columns`` of the first layer are those of invariants and edge features."""
        first = layers[0]._replace(weight=torch.cat(columns, dim=1) if len(columns) > 1 else columns[0])
        return cls(torch.cat([u, v]), EdgeNetwork.of([first, *layers[1:]]))

    def run(self, nodes: Tensor, graph: Graph, **options: Any) -> EdgeOutput:
        """The network on the edges between ``nodes``; options are those of :func:`equikernels.edge_network`."""
        receiver, sender = F.linear(nodes, self.nodes).chunk(2, dim=1)
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
    """A chain on the columns [h_j, h_i, a_ij] of every edge, or [h_i, h_j, a_ij]; ``end`` follows its last layer."""
    layers, slope = chain_layers(op, "modules", modules)
    width = nodes.shape[1]
    first, second, q = layers[0].weight.tensor_split([width, 2 * width], dim=1)
    u, v = (first, second) if receiver_first else (second, first)
    if end != "identity":
        layers[-1] = layers[-1]._replace(activation=end)
    tables = Tables.of(layers, [q], u, v)
    out = tables.run(nodes, graph, edge_attr=edge_attr, edges_at=len(layers) - 1, negative_slope=slope).edges
    assert out is not None
    return out
