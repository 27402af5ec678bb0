"""A tensor field network (arXiv 1802.08219) of scalars and vectors, as in EGNN's comparison (arXiv 2102.09844)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..checks import check_tensor, fail
from ..export import for_any_size
from ..graph import Graph
from ..nn import NormActivation, TensorFieldLayer
from ..ops.common import as_graph
from .inputs import check_weights


class TFN(nn.Module):
    """Layers of :class:`equikernels.nn.TensorFieldLayer` with norm nonlinearities between them.

    Scalars of the output are invariant under rotations and translations, vectors turn with the points. Reflections are
    a symmetry too where ``order=0``: a cross product needs hidden vectors. The N-body network of the comparison is
    ``TFN((1, 1), 16, (0, 1), order=1)`` on charges and velocities, whose one vector is added to x.

    Args:
        n_in: numbers of scalars and vectors of the input.
        width: channels of each order in between.
        n_out: numbers of scalars and vectors of the output.
        order: the highest order in between: 0, scalars alone, or 1.
        edge_attr_nf: width of the edge attributes.
        act_fn: any activation module.
        n_layers: number of layers, at least 1.
    """

    def __init__(
        self,
        n_in: Sequence[int],
        width: int,
        n_out: Sequence[int],
        order: int = 1,
        edge_attr_nf: int = 0,
        act_fn: nn.Module = nn.ReLU(),  # noqa: B008 (it has no state)
        n_layers: int = 4,
    ) -> None:
        super().__init__()
        if order not in (0, 1):
            fail("TFN", "order", "0 or 1", order)
        if n_layers < 1:
            fail("TFN", "n_layers", "at least 1", n_layers)
        between = (width, width * order)
        widths = [tuple(n_in), *[between] * (n_layers - 1), tuple(n_out)]
        self.n_in = widths[0]
        self.layers = nn.ModuleList(TensorFieldLayer(a, b, edge_attr_nf, act_fn) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(NormActivation(between, act_fn) for _ in range(n_layers - 1))

    @for_any_size
    def forward(
        self, s: Tensor, v: Tensor, x: Tensor, graph: Graph | Tensor, edge_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scalars and vectors of every point.

        Args:
            s: [n, n_in[0]] scalars, in the dtype of the weights.
            v: [n, n_in[1], 3] vectors, in that dtype.
            x: [n, 3] positions, in that dtype or float64.
            graph: the edges, over n nodes; or an edge_index [2, E] of (sender, receiver).
            edge_attr: [E, edge_attr_nf], in the graph's order.

        Returns:
            (s' [n, n_out[0]], v' [n, n_out[1], 3]).

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        check_tensor("TFN", "x", x, ["n", 3])
        graph = as_graph("TFN", graph, x.shape[0])
        check_weights("TFN", next(self.parameters()))
        for k, layer in enumerate(self.layers):
            if k > 0:
                s, v = self.norms[k - 1](s, v)
            s, v = layer(s, v, x, graph, edge_attr)
        return s, v
