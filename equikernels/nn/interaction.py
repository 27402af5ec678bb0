"""One pass of the Interaction Network (arXiv 2103.16701)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import fail
from ..graph import Graph
from ..ops.message_passing import EdgeMLP, message_passing
from ..ops.segment import segment_reduce
from .chain import chain, chain_at
from .plain import Layers, obstacle, warn_once
from .rows import apply_layers


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
        if reason := obstacle(self, interaction_layers, replaced):
            warn_once(self, type(self).__name__, reason)
            return layer_by_layer(self, x, edge_attr, graph)
        x, edges = interaction_pass(self, x, edge_attr, graph, return_edges=True)
        assert edges is not None
        return x, edges

    def edge_update(self, x_i: Tensor, x_j: Tensor, edge_attr: Tensor) -> Tensor:
        """E, by calling the layers."""
        return self.R1(torch.cat([x_i, x_j, edge_attr], dim=1))

    def message(self, effects: Tensor) -> Tensor:
        """E."""
        return effects


def interaction_layers(block: Any) -> Layers:
    """The layers of a block that a fused pass reads.

    Raises:
        ValueError: R1, O or, in a network, R2 holds others than plain layers.
    """
    layers: list[tuple[str, nn.Module]] = []
    for name in ("R1", "O", *(("R2",) if hasattr(block, "R2") else ())):
        layers += [(name, getattr(block, name)), *chain_at(block, f"{name}.layers")]
    return layers


def interaction_pass(
    block: Any, x: Tensor, edge_attr: Tensor, graph: Graph, return_edges: bool
) -> tuple[Tensor, Tensor | None]:
    """(x', and E if asked for), of any module with the published R1 and O."""
    mlp = EdgeMLP.of(block.R1.layers, order=("receiver", "sender", "edge_attr"))
    out = message_passing(mlp, graph, h=x, edge_attr=edge_attr, edges=return_edges)
    assert out.messages is not None
    return apply_layers(block.O.layers, x, out.messages), out.edges


def layer_by_layer(block: Any, x: Tensor, edge_attr: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
    """One pass of a block whose R1 and O are called: (x', E)."""
    effects = block.R1(torch.cat([x[graph.receiver], x[graph.sender], edge_attr], dim=1))
    return block.O(torch.cat([x, segment_reduce(effects, graph, "sum")], dim=1)), effects


def replaced(layers: Layers) -> str | None:
    """Which of the relational models is another class."""
    for path, layer in layers:
        if "." not in path and type(layer).forward is not RelationalModel.forward:
            return f"{path} is a {type(layer).__name__}"
    return None
