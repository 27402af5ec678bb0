"""segment_reduce, gather_segment_reduce, segment_softmax: what each node makes of the edges it receives."""

from __future__ import annotations

import torch
from torch import Tensor

from ...backend import KERNELS, PARTS, use_kernel
from ...checks import FLOATING, check_choice, check_tensor, fail
from ...graph import Graph
from ..autograd import call
from ..common import check_edges, check_graph, graph_arguments, promote
from . import autograd, reference

REDUCE, GATHER, SOFTMAX = "segment_reduce", "gather_segment_reduce", "segment_softmax"
for _op in (REDUCE, GATHER, SOFTMAX):
    KERNELS[_op] = ("cpu", "cuda")
PARTS.update((REDUCE, GATHER))
REDUCTIONS = ("sum", "mean", "max", "min")


def segment_reduce(values: Tensor, graph: Graph, reduce: str = "sum") -> Tensor:
    r"""Sum, mean, maximum or minimum of the edges each node receives; deterministic, without atomics.

    .. math:: \mathrm{out}_{i} = \mathrm{agg}_{e = (j \to i)} \; v_e

    What PyTorch Geometric's ``scatter(values, edge_index[1], 0, num_nodes, reduce)`` gives, a node that receives no
    edge included: 0, for every ``reduce``. A NaN makes the result NaN. The gradient of max and min goes to one edge:
    of equals, the first in the graph's order (``torch_scatter`` picks one edge too; ``torch.scatter_reduce`` shares
    the gradient evenly).

    Args:
        values: [E, C] or [E], edges in the graph's order; float32, float64, or bfloat16 or float16, which are added in
            float32 and rounded once.
        graph: the edges, over n nodes.
        reduce: "sum", "mean", "max" or "min".

    Returns:
        [n, C] or [n], in the dtype of values.

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    columns = _edge_columns(REDUCE, values, graph)
    check_choice(REDUCE, "reduce", reduce, REDUCTIONS)
    if use_kernel(REDUCE, values):
        out = _reduce_rows(columns, None, graph, autograd.EDGES, reduce)
    else:
        out = reference.segment_reduce(columns, graph, reduce)
    return out if values.dim() == 2 else out.squeeze(1)


def gather_segment_reduce(
    node_values: Tensor, graph: Graph, weight: Tensor | None = None, reduce: str = "sum"
) -> Tensor:
    r"""Each node's sum, mean, maximum or minimum over the nodes it receives from, without an [E, C] tensor.

    .. math:: \mathrm{out}_{i} = \mathrm{agg}_{e = (j \to i)} \; w_e v_j

    Equal to ``segment_reduce(weight * node_values[graph.sender], graph, reduce)``, whose rules for empty
    neighbourhoods, NaN and ties it shares; the mean divides by the number of edges, not by the sum of weights.

    Args:
        node_values: [n, C], float32, float64, bfloat16 or float16 (added in float32, rounded once).
        graph: the edges, over n nodes.
        weight: [E] or [E, 1], one number an edge, or [E, C], in the graph's order and the dtype of node_values. Under
            autocast, dtypes that differ are raised to the wider.
        reduce: "sum", "mean", "max" or "min".

    Returns:
        [n, C] in the dtype of node_values.

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    check_tensor(GATHER, "node_values", node_values, ["n", "C"], FLOATING)
    check_graph(GATHER, graph, node_values)
    if weight is not None:
        node_values, weight = _check_weight(node_values, weight, graph)
    check_choice(GATHER, "reduce", reduce, REDUCTIONS)
    if use_kernel(GATHER, node_values, *([] if weight is None else [weight])):
        return _reduce_rows(node_values, weight, graph, autograd.SENDERS, reduce)
    return reference.gather_segment_reduce(node_values, graph, weight, reduce)


def segment_softmax(values: Tensor, graph: Graph) -> Tensor:
    r"""Softmax over the edges each node receives, channel by channel: attention weights.

    .. math:: \mathrm{out}_e = \exp(v_e) / \sum_{e' \to i} \exp(v_{e'}), \quad e = (j \to i)

    GAT, arXiv 1710.10903, eq. 3. The largest value is taken out first, so nothing overflows; -inf masks an edge, and
    a node all of whose edges are masked gives NaN, as ``torch.softmax`` does.

    Args:
        values: [E, C] or [E], edges in the graph's order, float32, float64, bfloat16 or float16 (in float32, rounded
            once; under autocast returned in float32, as ``torch.softmax`` is).
        graph: the edges.

    Returns:
        The shape and dtype of values.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device; the message names the argument.
    """
    values = promote(SOFTMAX, "values", values)
    columns = _edge_columns(SOFTMAX, values, graph)
    if use_kernel(SOFTMAX, values):
        out = call("segment_softmax", columns, *graph_arguments(graph), graph.num_nodes)
    else:
        out = reference.segment_softmax(columns, graph)
    return out if values.dim() == 2 else out.squeeze(1)


def _reduce_rows(rows: Tensor, weight: Tensor | None, graph: Graph, rows_of: int, reduce: str) -> Tensor:
    arguments = *graph_arguments(graph), graph.num_nodes, rows_of
    if reduce in ("sum", "mean"):
        return call("segment_sum", rows, weight, None, *arguments, reduce == "mean")
    return call("segment_extremum", rows, weight, *arguments, reduce == "max")[0]


def _edge_columns(op: str, values: Tensor, graph: Graph) -> Tensor:
    """[E, C], also for values that are [E]."""
    check_tensor(op, "values", values, None, FLOATING)
    if values.dim() not in (1, 2):
        fail(op, "values", "shape [E, C] or [E]", list(values.shape))
    if not isinstance(graph, Graph):
        fail(op, "graph", "an equikernels.Graph", type(graph).__name__, TypeError)
    if graph.device != values.device:
        fail(op, "graph", f"device {values.device}", graph.device)
    check_edges(op, "values", values, graph)
    return values if values.dim() == 2 else values.unsqueeze(1)


def _check_weight(node_values: Tensor, weight: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
    check_tensor(GATHER, "weight", weight, None, FLOATING)
    channels = node_values.shape[1]
    if weight.dim() not in (1, 2) or (weight.dim() == 2 and weight.shape[1] not in (1, channels)):
        fail(GATHER, "weight", f"shape [E], [E, 1] or [E, {channels}]", list(weight.shape))
    if weight.dim() == 2 and weight.shape[1] == 1:
        weight = weight.squeeze(1)
    check_edges(GATHER, "weight", weight, graph)
    if torch.is_autocast_enabled(node_values.device.type):
        dtype = torch.promote_types(node_values.dtype, weight.dtype)
        node_values, weight = node_values.to(dtype), weight.to(dtype)
    check_tensor(GATHER, "weight", weight, like=node_values)
    return node_values, weight
