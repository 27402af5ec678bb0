"""One pass of the Interaction Network (arXiv 2103.16701)."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from ..checks import fail
from ..graph import Graph
from ..ops.edge_network import EdgeNetwork
from .chain import apply_rows, chain, chain_layers, row_network
from .edge_chain import EdgeChain


class RelationalModel(nn.Module):
    """Three linear layers with ReLU between, under the released key ``layers``."""

    def __init__(self, input_size: int, output_size: int, hidden_size: int) -> None:
        super().__init__()
        self.layers = chain([input_size, hidden_size, hidden_size, output_size], nn.ReLU(), norm=False)

    def forward(self, rows: Tensor) -> Tensor:
        """[m, output_size] of rows [m, input_size]."""
        return self.layers(rows)


class InteractionBlock(nn.Module):
    r"""Edges' effects, summed at the receiver, and what they do to the node.

    .. math:: E_{ij} = R_1(x_i, x_j, a_{ij}), \quad x_i' = O(x_i, \textstyle\sum_j E_{ij})

    Args:
        n_node: width of x.
        n_edge: width of a.
        n_effect: width of E.
        n_output: width of x'.
        hidden_size: width of the hidden layers.
    """

    def __init__(self, n_node: int, n_edge: int, n_effect: int, n_output: int, hidden_size: int) -> None:
        super().__init__()
        self.n_node = n_node
        self.n_edge = n_edge
        self.R1 = RelationalModel(2 * n_node + n_edge, n_effect, hidden_size)
        self.O = RelationalModel(n_node + n_effect, n_output, hidden_size)

    def forward(self, x: Tensor, graph: Graph, edge_attr: Tensor) -> tuple[Tensor, Tensor]:
        """(x' [n, n_output], E [E, n_effect]) of x [n, n_node] and a [E, n_edge], in the graph's order."""
        for name, value, rows, width in (
            ("x", x, graph.num_nodes, self.n_node),
            ("edge_attr", edge_attr, graph.num_edges, self.n_edge),
        ):
            if value.shape != (rows, width):
                fail("InteractionBlock", name, f"shape [{rows}, {width}]", list(value.shape))
        x, edges = InteractionWeights.of(self.R1, self.O).one_pass(x, edge_attr, graph, return_edges=True)
        assert edges is not None
        return x, edges


class InteractionWeights(NamedTuple):
    """R_1 and O as the op takes them, for any number of passes."""

    edge: EdgeChain
    node: EdgeNetwork

    @classmethod
    def of(cls, relational: Any, objects: Any) -> InteractionWeights:
        """Of anybody's modules with three linear layers under ``layers``, ReLU between."""
        op = "InteractionNetwork"
        layers, _ = chain_layers(op, "R1", relational.layers)
        width = objects.layers[0].weight.shape[1] - layers[-1].weight.shape[0]
        u, v, q = layers[0].weight.tensor_split([width, 2 * width], dim=1)
        return cls(EdgeChain.of(layers, u, v, q), row_network(op, "O", objects.layers))

    def one_pass(self, x: Tensor, edge_attr: Tensor, graph: Graph, return_edges: bool) -> tuple[Tensor, Tensor | None]:
        """(x', and E if asked for)."""
        last = len(self.edge.network.widths) - 1
        out = self.edge.run(
            x,
            graph,
            edge_attr=edge_attr,
            edges_at=last if return_edges else None,
            messages_at=last,
        )
        assert out.messages is not None
        return apply_rows(self.node, x, out.messages), out.edges
