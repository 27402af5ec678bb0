from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import equikernels as ek

from ..conftest import everyone

WIDTH = 72  # LorentzNet's

OF_EDGES = {
    "segment_reduce, sum": (
        1,  # FLOP of an edge and channel
        everyone(
            lambda graph, values: ek.segment_reduce(values, graph, "sum"),
            lambda by, graph, values: by.segment_sum(values, graph.receiver, graph.num_nodes),
        ),
    ),
    "segment_reduce, max": (
        1,
        everyone(
            lambda graph, values: ek.segment_reduce(values, graph, "max"),
            lambda by, graph, values: by.segment_max(values, graph.receiver, graph.num_nodes),
        ),
    ),
    "segment_softmax": (
        5,
        everyone(
            lambda graph, values: ek.segment_softmax(values, graph),
            lambda by, graph, values: by.segment_softmax(values, graph.receiver, graph.num_nodes),
        ),
    ),
}
GATHERED = everyone(
    lambda graph, nodes: ek.gather_segment_reduce(nodes, graph),
    lambda by, graph, nodes: by.gather_segment_sum(nodes, graph.receiver, graph.sender),
)


@pytest.mark.parametrize("op", OF_EDGES)
def test_of_edges(measure: Callable[..., None], graph: ek.Graph, op: str) -> None:
    flops, implementations = OF_EDGES[op]
    values = torch.randn(graph.num_edges, WIDTH, generator=torch.Generator().manual_seed(0))
    measure(op, implementations, [values], flops * values.numel(), kinks=op.endswith("max"), lower=True)


def test_gather_segment_reduce(measure: Callable[..., None], graph: ek.Graph) -> None:
    nodes = torch.randn(graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(0))
    measure("gather_segment_reduce, sum", GATHERED, [nodes], WIDTH * graph.num_edges, lower=True)
