"""pairwise_invariants: squared distance and product of the four-vectors at the two ends of every edge."""

from __future__ import annotations

from torch import Tensor

from ...backend import KERNELS, use_kernel
from ...checks import REAL, check_tensor
from ...graph import Graph
from ...metric import Metric, signature
from ..autograd import call, register_op
from ..common import check_graph, graph_arguments, promote
from . import reference

OP = "pairwise_invariants"
KERNELS[OP] = ("cpu", "cuda")


def pairwise_invariants(x: Tensor, graph: Graph, metric: Metric = "minkowski", psi: bool = True) -> Tensor:
    r"""Lorentz (or rotation) invariants of every edge j -> i.

    .. math:: s_{ij} = (\psi(\|x_i - x_j\|^2), \psi(\langle x_i, x_j \rangle)), \quad
              \psi(z) = \mathrm{sign}(z) \ln(1 + |z|)

    LorentzNet, arXiv 2201.08187, eq. 3.2; EuclidNet, arXiv 2304.05293, eq. 3.1.

    Products are computed as if in twice the working precision (float32: in float64; float64: compensated dot products,
    Dot2), so that a light particle keeps its mass at high boost.

    Args:
        x: [n, D] coordinates, float32 or float64 (GeV for four-momenta (E, px, py, pz)), D from 2 to 8. Under
            autocast, lower precision is raised to float32.
        graph: the edges, over n nodes.
        metric: "minkowski" (+, -, -, -), "euclidean", or a signature of D entries.
        psi: squash the invariants.

    Returns:
        [E, 2] in the dtype of x: ||x_i - x_j||^2 and <x_i, x_j>, edges in the graph's order.

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or metric; the message names the argument.
    """
    x = promote(OP, "x", x)
    check_tensor(OP, "x", x, ["n", "D"], REAL)
    check_graph(OP, graph, x)
    eta = signature(OP, metric, x.shape[1])
    if not use_kernel(OP, x):
        return reference.pairwise_invariants(x, graph, eta, psi)
    return call("invariants", x, *graph_arguments(graph), eta, psi)


register_op(
    "invariants", 1, reference.pairwise_invariants, lambda x, graph, num_edges, *rest: x.new_empty(num_edges, 2)
)
