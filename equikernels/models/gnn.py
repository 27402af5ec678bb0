"""A graph network without symmetry, the baseline of EGNN's N-body experiment (arXiv 2102.09844, table 1)."""

from __future__ import annotations

from torch import Tensor, nn

from ..checks import check_tensor
from ..export import for_any_size
from ..graph import Graph
from ..nn import GCL
from ..nn.linear import weight_of
from ..nn.rows import apply_layers, apply_linear
from ..ops.common import as_graph
from .inputs import check_features


class GNN(nn.Module):
    """Layers of :class:`equikernels.nn.GCL` between a linear map and a network of two layers.

    Args:
        in_node_nf: width of h; 6, position and velocity, in the published experiment.
        hidden_nf: width of the layers, at most 512.
        out_node_nf: width of h'; 3, the position, in the published experiment.
        in_edge_nf: width of the edge attributes; 1, the product of charges, in the published experiment.
        act_fn: an activation that :func:`equikernels.message_passing` has (SiLU, ReLU, ELU, ...).
        n_layers: number of layers.
    """

    def __init__(
        self,
        in_node_nf: int,
        hidden_nf: int,
        out_node_nf: int = 3,
        in_edge_nf: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008 (it has no state)
        n_layers: int = 4,
    ) -> None:
        super().__init__()
        self.in_node_nf = in_node_nf
        self.n_layers = n_layers
        for k in range(n_layers):
            self.add_module(f"gcl_{k}", GCL(hidden_nf, in_edge_nf, act_fn))
        self.decoder = nn.Sequential(nn.Linear(hidden_nf, hidden_nf), act_fn, nn.Linear(hidden_nf, out_node_nf))
        self.embedding = nn.Sequential(nn.Linear(in_node_nf, hidden_nf))

    @for_any_size
    def forward(self, h: Tensor, graph: Graph | Tensor, edge_attr: Tensor | None = None) -> Tensor:
        """Node features from node features.

        Args:
            h: [n, in_node_nf], in the dtype of the weights.
            graph: the edges, over n nodes; or an edge_index [2, E] of (sender, receiver).
            edge_attr: [E, in_edge_nf], in the graph's order.

        Returns:
            h' [n, out_node_nf].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        first = self.embedding[0]
        check_tensor("GNN", "h", h, ["n", self.in_node_nf])
        check_features("GNN", "h", h, h.shape[0], self.in_node_nf, weight_of(first))
        graph = as_graph("GNN", graph, h.shape[0])
        h = apply_linear(first, h)
        for k in range(self.n_layers):
            h = self.get_submodule(f"gcl_{k}")(h, graph, edge_attr)
        return apply_layers(self.decoder, h)
