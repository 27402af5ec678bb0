"""k nearest neighbours and radius graphs, event by event, under any metric."""

from __future__ import annotations

import math
from typing import Any, Literal, overload

import torch
from torch import Tensor

from ... import _native
from ...backend import KERNELS, use_kernel
from ...checks import REAL, check_bound, check_choice, check_integer, check_tensor, fail
from ...graph import Graph
from ...metric import Metric, eta_phi, signature
from ..common import graph_arguments, promote
from . import reference

K_NEAREST, KNN, RADIUS = "k_nearest", "knn_graph", "radius_graph"
for name in (K_NEAREST, KNN, RADIUS):
    KERNELS[name] = ("cpu", "cuda")

FLOWS = ("source_to_target", "target_to_source")

# The coordinates in float64, the events, and the options of all native ops: metric, periodic, compensated, loop.
Search = tuple[Tensor, Graph, tuple[list[float], bool, bool, bool]]


def k_nearest(
    x: Tensor,
    k: int,
    ptr: Tensor | None = None,
    metric: Metric = "euclidean",
    *,
    loop: bool = False,
    radius: float | None = None,
) -> tuple[Tensor, Tensor]:
    r"""The k nearest nodes of every node among those of its event, in tensors of a fixed size (for ``torch.compile``).

    .. math:: d_{ij} = \sqrt{|\sum_c \eta_c (x_i - x_j)_c^2|}

    "euclidean"
        eta = (+, ..., +), D from 2 to 8.
    "minkowski"
        eta = (+, -, ..., -): the root of the absolute interval \|(x_i - x_j)^2\|, in the units of x. It has no triangle
        inequality, so that all pairs are tested. Intervals are computed as in :func:`pairwise_invariants`, so that a
        boost does not change the neighbours.
    "delta_r"
        sqrt((eta_i - eta_j)^2 + (phi_i - phi_j)^2) with phi_i - phi_j in [-pi, pi]. x contains (eta, phi) for D = 2,
        four-momenta (E, px, py, pz) for D = 4: eta is then the pseudorapidity (:func:`eta_phi`).
    D numbers
        the diagonal eta itself.

    Neighbours are sorted by distance; of two at the same distance, the one with the lower index comes first. The search
    is exact. Distances are computed in float64, and the result depends neither on the order of events nor on the number
    of threads. A node with a coordinate that is NaN or infinite (in "delta_r": on the beam axis) has no neighbours and
    is not a neighbour of others.

    Args:
        x: [n, D] float32 or float64. Under autocast, lower precision is raised to float32.
        k: how many, at least 1.
        ptr: int64 [n_events + 1]; event b owns rows ptr[b] .. ptr[b + 1] - 1. None: all are one event.
        metric: as above.
        loop: whether a node is its own neighbour, and one of the k.
        radius: the largest distance of neighbours, in the units of d; None or inf: no limit.

    Returns:
        (index int64 [n, k], distance [n, k] in the dtype of x), filled with (-1, inf) if there are fewer than k.
        Neither has a gradient: for distances with one, see :func:`pairwise_invariants`.

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    index, square = _nearest(K_NEAREST, x, k, ptr, metric, loop, radius, clip=False)
    return index, square.sqrt().to(_real(x))


@overload
def knn_graph(
    x: Tensor,
    k: int,
    ptr: Tensor | None = None,
    metric: Metric = "euclidean",
    *,
    loop: bool = False,
    flow: str = "source_to_target",
    return_distance: Literal[False] = False,
) -> Graph: ...
@overload
def knn_graph(
    x: Tensor,
    k: int,
    ptr: Tensor | None = None,
    metric: Metric = "euclidean",
    *,
    loop: bool = False,
    flow: str = "source_to_target",
    return_distance: Literal[True],
) -> tuple[Graph, Tensor]: ...
def knn_graph(
    x: Tensor,
    k: int,
    ptr: Tensor | None = None,
    metric: Metric = "euclidean",
    *,
    loop: bool = False,
    flow: str = "source_to_target",
    return_distance: bool = False,
) -> Graph | tuple[Graph, Tensor]:
    """Connects every node to its k nearest; :func:`k_nearest` explains metrics, ties and bad values.

    ``knn_graph(x, k, ptr).edge_index`` are the rows of ``torch_geometric.nn.knn_graph``, which takes a vector ``batch``
    for ptr. A node of an event of n < k + 1 nodes has n - 1 neighbours (with loop, n). The number of edges depends on
    data: ``torch.compile`` breaks its graph here, and on CUDA this synchronises.

    Args:
        x, k, ptr, metric, loop: see :func:`k_nearest`.
        flow: "source_to_target": a node receives from its nearest, edges are ordered by receiver, nearest first.
            "target_to_source": it sends to them instead; edges are ordered by sender.
        return_distance: also return the distance of every edge.

    Returns:
        A :class:`Graph`; with ``return_distance`` (graph, distance [E] in the dtype of x).

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    check_choice(KNN, "flow", flow, FLOWS)
    index, square = _nearest(KNN, x, k, ptr, metric, loop, None, clip=True)
    return _graph_of_rows(index, square, flow, _real(x) if return_distance else None)


@overload
def radius_graph(
    x: Tensor,
    r: float | None,
    ptr: Tensor | None = None,
    metric: Metric = "euclidean",
    *,
    loop: bool = False,
    max_num_neighbors: int | None = None,
    flow: str = "source_to_target",
    return_distance: Literal[False] = False,
) -> Graph: ...
@overload
def radius_graph(
    x: Tensor,
    r: float | None,
    ptr: Tensor | None = None,
    metric: Metric = "euclidean",
    *,
    loop: bool = False,
    max_num_neighbors: int | None = None,
    flow: str = "source_to_target",
    return_distance: Literal[True],
) -> tuple[Graph, Tensor]: ...
def radius_graph(
    x: Tensor,
    r: float | None,
    ptr: Tensor | None = None,
    metric: Metric = "euclidean",
    *,
    loop: bool = False,
    max_num_neighbors: int | None = None,
    flow: str = "source_to_target",
    return_distance: bool = False,
) -> Graph | tuple[Graph, Tensor]:
    """Connects every node to all nodes of its event at a distance of at most r.

    As :func:`knn_graph` otherwise; metrics, ties and bad values are those of :func:`k_nearest`.

    Args:
        x, ptr, metric, loop: see :func:`k_nearest`.
        r: the radius, >= 0, in the units of the distance (Minkowski: those of x, not their square); None or inf: no
            limit.
        max_num_neighbors: keep only this many, the nearest. None keeps all; ``torch_geometric.nn.radius_graph`` keeps
            any 32 by default.
        flow, return_distance: see :func:`knn_graph`.

    Returns:
        A :class:`Graph`; with ``return_distance`` (graph, distance [E] in the dtype of x).

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    check_choice(RADIUS, "flow", flow, FLOWS)
    dtype = _real(x) if return_distance else None
    if max_num_neighbors is not None:
        most = check_integer(RADIUS, "max_num_neighbors", max_num_neighbors, "a number >= 1 or None", 1)
        index, square = _nearest(RADIUS, x, most, ptr, metric, loop, r, clip=True)
        return _graph_of_rows(index, square, flow, dtype)
    radius = check_bound(RADIUS, "r", r)
    wide, events, options = _prepare(RADIUS, x, ptr, metric, loop)
    if use_kernel(RADIUS, wide):
        within = torch.ops.equikernels.neighbors_within.default
        first, index, square = within(wide, *graph_arguments(events, need_edges=False), radius, *options)
    else:
        eta, periodic, _, loop = options
        first, index, square = reference.neighbors_within(wide, events, radius, eta, periodic, loop)
    centre = torch.repeat_interleave(first.diff(), output_size=index.shape[0])
    return _graph(index, centre, wide.shape[0], square, flow, dtype)


def _nearest(
    op: str, x: Tensor, k: int, ptr: Tensor | None, metric: Metric, loop: bool, radius: float | None, clip: bool
) -> tuple[Tensor, Tensor]:
    """(index, distance squared); ``clip``: at most as many columns as the largest event can fill."""
    k = check_integer(op, "k", k, "a number >= 1", 1)
    radius = check_bound(op, "radius" if op == K_NEAREST else "r", radius)
    wide, events, options = _prepare(op, x, ptr, metric, loop)
    if clip:
        assert events.ptr is not None
        largest = int(events.ptr.diff().max()) if events.ptr.shape[0] > 1 else 0
        k = max(1, min(k, largest if loop else largest - 1))
    if use_kernel(op, wide):
        nearest = torch.ops.equikernels.nearest_neighbors.default
        return nearest(wide, *graph_arguments(events, need_edges=False), radius, *options, k)
    eta, periodic, _, loop = options
    return reference.nearest_neighbors(wide, events, k, radius, eta, periodic, loop)


def _prepare(op: str, x: Tensor, ptr: Tensor | None, metric: Metric, loop: bool) -> Search:
    x = promote(op, "x", x).detach()
    check_tensor(op, "x", x, ["n", "D"], REAL)
    if ptr is None:
        ptr = torch.tensor([0, x.shape[0]], device=x.device)
    else:
        check_tensor(op, "ptr", ptr, ["n_events + 1"], [torch.int64])
        if ptr.device != x.device:
            fail(op, "ptr", f"device {x.device}", ptr.device)
    compiling = torch.compiler.is_compiling()
    events = Graph.complete(ptr, self_loops=True, num_nodes=x.shape[0], validate=not compiling)
    wide, narrow, dim = x.double(), x.dtype == torch.float32, x.shape[1]
    if isinstance(metric, str) and metric == "delta_r":
        if dim not in (2, 4):
            fail(op, "x", "2 coordinates (eta, phi) or 4 (E, px, py, pz)", dim)
        angles = eta_phi(wide) if dim == 4 else wide
        turns = torch.round(angles[:, 1] / (2 * math.pi))
        wrapped = torch.stack([angles[:, 0], angles[:, 1] - 2 * math.pi * turns], dim=1)
        return wrapped, events, ([1.0, 1.0], True, False, loop)
    eta = signature(op, metric, dim)
    # If all terms have one sign nothing cancels, and products of float32 numbers are exact in float64.
    return wide, events, (eta, False, not narrow and min(eta) < 0, loop)


def _real(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _graph_of_rows(index: Tensor, square: Tensor, flow: str, dtype: torch.dtype | None) -> Graph | tuple[Graph, Tensor]:
    n, k = index.shape
    centre = torch.arange(n, device=index.device).repeat_interleave(k)
    neighbor, square = index.flatten(), square.flatten()
    if bool((index[:, -1] < 0).any()):  # rows are filled from the front
        found = neighbor >= 0
        centre, neighbor, square = centre[found], neighbor[found], square[found]
    return _graph(neighbor, centre, n, square, flow, dtype)


def _graph(
    neighbor: Tensor, centre: Tensor, num_nodes: int, square: Tensor, flow: str, dtype: torch.dtype | None
) -> Graph | tuple[Graph, Tensor]:
    rows = [neighbor, centre] if flow == "source_to_target" else [centre, neighbor]
    graph = Graph.from_edge_index(torch.stack(rows), num_nodes, validate=False)
    return graph if dtype is None else (graph, square.sqrt().to(dtype))


def _fake_nearest(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    k = rest[-1]
    return x.new_empty(x.shape[0], k, dtype=torch.int64), x.new_empty(x.shape[0], k)


def _fake_within(x: Tensor, *rest: object) -> tuple[Tensor, Tensor, Tensor]:
    found = torch.library.get_ctx().new_dynamic_size()
    return (
        x.new_empty(x.shape[0] + 1, dtype=torch.int64),
        x.new_empty(found, dtype=torch.int64),
        x.new_empty(found),
    )


if _native.cpu_reason is None:
    torch.library.register_fake("equikernels::nearest_neighbors", _fake_nearest)
    torch.library.register_fake("equikernels::neighbors_within", _fake_within)
