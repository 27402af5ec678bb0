"""What the segment ops mean. 16-bit values are added in float32, as the kernels do, and rounded once."""

from __future__ import annotations

import torch
from torch import Tensor

from ...graph import Graph


def segment_reduce(values: Tensor, graph: Graph, reduce: str) -> Tensor:
    return _reduce(_wide(values), graph, reduce).to(values.dtype)


def gather_segment_reduce(node_values: Tensor, graph: Graph, weight: Tensor | None, reduce: str) -> Tensor:
    values = _wide(node_values)[graph.sender]
    if weight is not None:
        values = values * _wide(weight if weight.dim() == 2 else weight[:, None])
    return _reduce(values, graph, reduce).to(node_values.dtype)


def segment_softmax(values: Tensor, graph: Graph) -> Tensor:
    wide = _wide(values)
    top = _extreme(wide.detach(), graph, "amax")[graph.receiver]
    shares = (wide - top).exp()
    return (shares / _sum(shares, graph)[graph.receiver]).to(values.dtype)


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _reduce(values: Tensor, graph: Graph, reduce: str) -> Tensor:
    if reduce == "sum":
        return _sum(values, graph)
    if reduce == "mean":
        return _sum(values, graph) / graph.in_degree().clamp(min=1).to(values.dtype)[:, None]
    # Of the edges that reach the extremum, or are NaN where it is, the first is the one that counts.
    best = _extreme(values.detach(), graph, "a" + reduce)[graph.receiver]
    hits = (values == best) | (values.isnan() & best.isnan())
    nobody = graph.num_edges
    edges = torch.arange(nobody, device=values.device)[:, None].expand_as(values)
    first = _extreme(torch.where(hits, edges, nobody), graph, "amin", nobody)
    padded = torch.cat([values, values.new_zeros(1, values.shape[1])])
    return padded.gather(0, first)


def _sum(values: Tensor, graph: Graph) -> Tensor:
    return values.new_zeros(graph.num_nodes, values.shape[1]).index_add(0, graph.receiver, values)


def _extreme(values: Tensor, graph: Graph, reduce: str, empty: float = 0.0) -> Tensor:
    out = values.new_full((graph.num_nodes, values.shape[1]), empty)
    return out.scatter_reduce(0, graph.receiver[:, None].expand_as(values), values, reduce, include_self=False)
