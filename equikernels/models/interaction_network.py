"""The Interaction Network for tracking, arXiv 2103.16701."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import REAL, check_tensor, fail
from ..export import for_any_size
from ..graph import Graph
from ..nn.edge_chain import read_ends
from ..nn.interaction import (
    InteractionBlock,
    RelationalModel,
    interaction_layers,
    interaction_pass,
    layer_by_layer,
    replaced,
)
from ..nn.linear import weight_of
from ..nn.plain import obstacle, warn_once
from ..ops.common import HasEdges, as_graph, of_data
from .inputs import check_features


class InteractionNetwork(nn.Module):
    r"""Classifies edges of a hit graph.

    .. math::
        E_{ij} &= R_1(x_i, x_j, a_{ij}), \quad x_i' = O(x_i, \textstyle\sum_j E_{ij})
            \quad \text{(n\_layers times, with the same weights and the original } a) \\
        w_{ij} &= \mathrm{sigmoid}(R_2(x_i', x_j', E_{ij}))

    with the receiver i first. ``n_layers=1`` is the paper's network. The only edge tensors are E and w of the last
    pass. State-dict keys are the released ones.

    Args:
        hidden_size: width of the hidden layers; 40 in the paper's code.
        n_layers: passes, at least 1.
    """

    def __init__(self, hidden_size: int = 40, n_layers: int = 1) -> None:
        super().__init__()
        if n_layers < 1:
            fail("InteractionNetwork", "n_layers", "at least 1", n_layers)
        self.n_layers = n_layers
        conv = InteractionBlock(3, 4, 4, 3, hidden_size)
        self.R1 = conv.R1
        self.O = conv.O
        self.R2 = RelationalModel(10, 1, hidden_size)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, n_layers: int = 1) -> InteractionNetwork:
        """A network of the width of ``state``, not yet filled; the state does not contain the number of passes."""
        return cls(state["R1.layers.0.weight"].shape[0], n_layers)

    @for_any_size
    def forward(
        self, x: Tensor | HasEdges, graph: Graph | Tensor | None = None, edge_attr: Tensor | None = None
    ) -> Tensor:
        """The probability that each edge belongs to a track.

        Args:
            x: [n, 3] hits; (r/1000, phi/pi, z/1000) of millimetres in the paper, in the dtype of the weights. Or a
                ``torch_geometric.data.Data`` or ``Batch`` with x, edge_index and edge_attr; the others are then
                omitted.
            graph: the edges, over n hits; or an edge_index [2, E] of (sender, receiver), as the release's.
            edge_attr: [E, 4], in the graph's order; (dr/1000, dphi/pi, dz/1000, dR) in the paper.

        Returns:
            [E, 1] in (0, 1), in the graph's order.

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        op = "InteractionNetwork"
        x, graph, edge_attr = of_data(op, x, graph, edge_attr)
        if edge_attr is None:
            fail(op, "edge_attr", "shape [E, 4]", None)
        check_tensor(op, "x", x, ["n", 3], REAL)
        check_features(op, "x", x, x.shape[0], 3, weight_of(self.R1.layers[0]))
        check_tensor(op, "edge_attr", edge_attr, ["E", 4], like=x)
        graph = as_graph(op, graph, x.shape[0])
        edges: Any = None
        if reason := obstacle(self, interaction_layers, replaced):
            warn_once(self, op, reason)
            for _ in range(self.n_layers):
                x, edges = layer_by_layer(self, x, edge_attr, graph)
            ends = torch.cat([x[graph.receiver], x[graph.sender], edges], dim=1)
            return torch.sigmoid(self.R2(ends))
        for k in range(self.n_layers):
            x, edges = interaction_pass(self, x, edge_attr, graph, return_edges=k == self.n_layers - 1)
        return read_ends(op, self.R2.layers, x, edges, graph, receiver_first=True, sigmoid=True)
