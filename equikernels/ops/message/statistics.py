"""message_statistics: mean and variance of the edge network's first layer over all edges, at the cost of nodes.

z_ij = A_i + B_j + K u_ij, with u_ij the invariants and edge attributes, is a sum of node tables; so are the sums of z
and of z^2 over edges, given for each node its degrees, the sum of B over its senders and the sums of u over its edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import FLOATING, REAL, check_choice, check_tensor, fail
from ...graph import Graph
from ...metric import Metric, signature
from ..common import check_edges, check_graph, promote
from ..invariants import pairwise_invariants
from ..invariants.moments import invariant_moments
from ..segment import gather_segment_reduce, segment_reduce
from ..sums import column_products, column_sums, repeat_row, row_products
from .op import INVARIANTS

OP = "message_statistics"


def message_statistics(
    receiver: Tensor,
    sender: Tensor,
    x: Tensor | None,
    graph: Graph,
    *,
    invariant_weight: Tensor | None = None,
    invariants: str = "both",
    metric: Metric = "minkowski",
    psi: bool = True,
    edge_attr: Tensor | None = None,
    edge_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over all edges of z_ij of :func:`message_passing`, for BatchNorm in training.

    No tensor of E rows is made (with ``edge_attr``, which is one, others of its width are). Everything is summed in
    float64, in an order that does not depend on the number of threads. Differentiable any number of times.

    Args:
        receiver, sender, x, graph, invariant_weight, invariants, metric, psi, edge_attr, edge_weight: as
            :func:`message_passing`.

    Returns:
        (mean [H], variance [H]), float64. Over no edges both are 0.

    Raises:
        ValueError, TypeError: the message names the argument.
    """
    count, mean, square = message_deviations(
        receiver, sender, x, graph, invariant_weight, invariants, metric, psi, edge_attr, edge_weight
    )
    return mean, square / count.clamp(min=1)


def message_deviations(
    receiver: Tensor,
    sender: Tensor,
    x: Tensor | None,
    graph: Graph,
    invariant_weight: Tensor | None,
    invariants: str,
    metric: Metric,
    psi: bool,
    edge_attr: Tensor | None,
    edge_weight: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Number of edges (scalar), mean of z over them [H], and sum of (z - mean)^2 [H], all float64.

    Every part of z is centred by itself before products are formed, so that a large mean costs no digits.
    """
    receiver, sender = promote(OP, "receiver", receiver), promote(OP, "sender", sender)
    x = None if x is None else promote(OP, "x", x)
    check_tensor(OP, "receiver", receiver, ["n", "H"], REAL)
    check_tensor(OP, "sender", sender, list(receiver.shape), like=receiver)
    check_graph(OP, graph, receiver)
    _check_columns(receiver, x, graph, invariant_weight, invariants, edge_attr, edge_weight)
    hears, sends = graph.in_degree().double()[:, None], graph.out_degree().double()[:, None]
    count = hears.sum()
    a, b = receiver.double(), sender.double()
    some = count.clamp(min=1)
    mean_a, mean_b = column_products(hears, a)[0] / some, column_products(sends, b)[0] / some
    mean = mean_a + mean_b
    n = graph.num_nodes
    a, b = a - repeat_row(mean_a, n), b - repeat_row(mean_b, n)
    per_receiver = hears * a + 2 * _sum_of_senders(b, graph)
    per_sender = sends * b
    weights = [w.double() for w in (invariant_weight, edge_weight) if w is not None]
    if not weights:
        return count, mean, column_sums(a * per_receiver + b * per_sender)
    weight = torch.cat(weights, dim=1)
    received, sent, gram = _edge_sums(x, graph, invariant_weight, invariants, metric, psi, edge_attr)
    mean_u = column_sums(received) / some
    per_receiver = per_receiver + 2 * row_products(received - row_products(hears, mean_u[None]), weight.T)
    per_sender = per_sender + 2 * row_products(sent - row_products(sends, mean_u[None]), weight.T)
    gram = gram - count * torch.outer(mean_u, mean_u)
    square = ((weight @ gram) * weight).sum(1) + column_sums(a * per_receiver + b * per_sender)
    return count, mean + weight @ mean_u, square


def _check_columns(
    receiver: Tensor,
    x: Tensor | None,
    graph: Graph,
    invariant_weight: Tensor | None,
    invariants: str,
    edge_attr: Tensor | None,
    edge_weight: Tensor | None,
) -> None:
    width = receiver.shape[1]
    check_choice(OP, "invariants", invariants, INVARIANTS)
    if invariant_weight is not None:
        if x is None:
            fail(OP, "x", "a tensor, for invariants", "None")
        check_tensor(OP, "x", x, [graph.num_nodes, "D"], REAL)
        check_tensor(OP, "invariant_weight", invariant_weight, [width, sum(INVARIANTS[invariants])], FLOATING)
    if (edge_attr is None) != (edge_weight is None):
        fail(OP, "edge_weight", "to come with edge_attr", "only one of them")
    if edge_attr is not None and edge_weight is not None:
        check_tensor(OP, "edge_attr", edge_attr, ["E", "K"], FLOATING)
        check_edges(OP, "edge_attr", edge_attr, graph)
        check_tensor(OP, "edge_weight", edge_weight, [width, edge_attr.shape[1]], FLOATING)


def _sum_of_senders(b: Tensor, graph: Graph) -> Tensor:
    """Sum of b over the nodes each node hears, [n, H]."""
    if not graph.is_complete:
        return gather_segment_reduce(b, graph, reduce="sum")
    events = graph.events
    everyone = segment_reduce(b, events, "sum")[events.receiver]
    return everyone if graph.self_loops else everyone - b


def _edge_sums(
    x: Tensor | None,
    graph: Graph,
    invariant_weight: Tensor | None,
    invariants: str,
    metric: Metric,
    psi: bool,
    edge_attr: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of u over received and over sent edges [n, K] each, and of its outer product over all edges [K, K]."""
    columns = [k for k, wanted in enumerate(INVARIANTS[invariants]) if wanted]
    if edge_attr is None:
        assert x is not None
        moments = invariant_moments(x, graph, signature(OP, metric, x.shape[1]), psi)
        square, mixed, other = column_sums(moments[:, 4:]).unbind()
        gram = torch.stack([square, mixed, mixed, other]).reshape(2, 2)
        return moments[:, columns], moments[:, [2 + k for k in columns]], gram[columns][:, columns]
    u = edge_attr.double()
    if invariant_weight is not None:
        assert x is not None
        u = torch.cat([pairwise_invariants(x.double(), graph, metric, psi)[:, columns], u], dim=1)
    at_sender = segment_reduce(u, graph.reversed, "sum")
    return segment_reduce(u, graph, "sum"), at_sender, column_products(u, u)
