"""SchNet, arXiv 1706.08566: features of points, by filters of their distances."""

from __future__ import annotations

from torch import Tensor, nn

from ..export import for_any_size
from ..graph import Graph
from ..nn import ContinuousFilter
from ..nn.linear import weight_of
from ..nn.rows import apply_linear
from ..ops.common import as_graph
from .inputs import check_features


class SchNet(nn.Module):
    """Blocks of :class:`equikernels.nn.ContinuousFilter` between two linear maps; h' is E(n) invariant.

    The row "SchNet" of EGNN's comparison (arXiv 2102.09844, table 1) fixes the form of the block alone; the rest is as
    in the paper of SchNet but for its first and last layers, which are made for atoms.

    Args:
        in_node_nf: width of h.
        hidden_nf: width of the blocks; 64 in the paper.
        out_node_nf: width of h'.
        n_layers: number of blocks; 3 in the paper.
        n_gaussians, reach: functions of the distance, from 0 to ``reach`` in the unit of x; 300 up to 30 angstrom in
            the paper.
    """

    def __init__(
        self,
        in_node_nf: int,
        hidden_nf: int,
        out_node_nf: int,
        n_layers: int = 3,
        n_gaussians: int = 300,
        reach: float = 30.0,
    ) -> None:
        super().__init__()
        self.embedding_in = nn.Linear(in_node_nf, hidden_nf)
        self.embedding_out = nn.Linear(hidden_nf, out_node_nf)
        self.blocks = nn.ModuleList(ContinuousFilter(hidden_nf, n_gaussians, reach) for _ in range(n_layers))

    @for_any_size
    def forward(self, h: Tensor, x: Tensor, graph: Graph | Tensor) -> Tensor:
        """Updates node features.

        Args:
            h: [n, in_node_nf], in the dtype of the weights.
            x: [n, D] coordinates, D from 2 to 8, in that dtype or float64.
            graph: the edges, over n nodes; or an edge_index [2, E] of (sender, receiver).

        Returns:
            h' [n, out_node_nf].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        graph = as_graph("SchNet", graph, x.shape[0])
        check_features("SchNet", "h", h, x.shape[0], self.embedding_in.in_features, weight_of(self.embedding_in))
        h = apply_linear(self.embedding_in, h)
        for block in self.blocks:
            h = block(h, x, graph)
        return apply_linear(self.embedding_out, h)
