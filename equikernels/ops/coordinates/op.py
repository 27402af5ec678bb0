"""coordinate_update: moves every node by a weighted sum, or mean, over its neighbours."""

from __future__ import annotations

from torch import Tensor

from ...backend import KERNELS, use_kernel
from ...checks import FLOATING, REAL, check_bound, check_choice, check_number, check_tensor, fail
from ...graph import Graph
from ...metric import MAX_DIM
from ..autograd import call, register_op
from ..common import check_edges, check_graph, graph_arguments, promote
from . import reference

OP = "coordinate_update"
KERNELS[OP] = ("cpu", "cuda")


def coordinate_update(
    x: Tensor,
    weight: Tensor,
    graph: Graph,
    c: float = 1.0,
    clamp: float | None = 100.0,
    reduce: str = "mean",
    direction: str = "difference",
) -> Tensor:
    r"""Equivariant update of coordinates from one weight per edge j -> i.

    .. math:: x_i' = x_i + c \, \mathrm{agg}_{j} \, \mathrm{clamp}(w_{ij} (x_i - x_j), -b, b)

    EGNN, arXiv 2102.09844, eq. 4; LorentzNet, arXiv 2201.08187, eq. 3.4 in the form of its released code (difference,
    mean, clamped to +-100), or as printed (``direction="sender"``, ``reduce="sum"``, ``clamp=None``). The clamp acts on
    each component, so the update is equivariant only if no component exceeds the bound; its gradient is one up to and
    at the bound and zero beyond. A node that receives no edge keeps x_i.

    Args:
        x: [n, D] coordinates, float32 or float64 (GeV for four-momenta), D from 1 to 8. Under autocast, lower
            precision is raised to float32.
        weight: [E] or [E, 1], edges in the graph's order, of the dtype of x or a narrower floating dtype. It is
            converted to the dtype of x first; its gradient has its own dtype.
        graph: the edges, over n nodes.
        c: factor of the update.
        clamp: bound b >= 0 on each component of a message, in either direction; None or inf: no bound.
        reduce: agg is "mean" or "sum" over the edges the node receives.
        direction: the factor of the weight: "difference", x_i - x_j, or "sender", x_j.

    Returns:
        [n, D] in the dtype of x.

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    x = promote(OP, "x", x)
    check_tensor(OP, "x", x, ["n", "D"], REAL)
    if not 1 <= x.shape[1] <= MAX_DIM:
        fail(OP, "x", f"1 to {MAX_DIM} coordinates", x.shape[1])
    check_graph(OP, graph, x)
    weight = _check_weight(weight, x, graph)
    bound = check_bound(OP, "clamp", clamp)
    check_choice(OP, "reduce", reduce, ("mean", "sum"))
    check_choice(OP, "direction", direction, ("difference", "sender"))
    options = check_number(OP, "c", c), bound, reduce == "mean", direction == "difference"
    if not use_kernel(OP, x, weight):
        return reference.coordinate_update(x, weight, graph, *options)
    return call("coordinates", x, weight, *graph_arguments(graph), *options)


def _check_weight(weight: Tensor, x: Tensor, graph: Graph) -> Tensor:
    """[E] in the dtype of x."""
    check_tensor(OP, "weight", weight, None, FLOATING, like=x)
    if weight.dim() not in (1, 2) or (weight.dim() == 2 and weight.shape[1] != 1):
        fail(OP, "weight", "shape [E] or [E, 1]", list(weight.shape))
    check_edges(OP, "weight", weight, graph)
    if weight.dtype.itemsize > x.dtype.itemsize:
        fail(OP, "weight", "the dtype of x, float32, or a narrower one", "float64", TypeError)
    return weight.flatten().to(x.dtype)


register_op("coordinates", 2, reference.coordinate_update, lambda x, *rest: x.new_empty(x.shape))
