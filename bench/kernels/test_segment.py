from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import equikernels as ek

from ..baselines import index_add, pyg

WIDTH = 72  # LorentzNet's

OF_EDGES = {
    "segment_reduce, sum": (
        lambda graph, values: ek.segment_reduce(values, graph, "sum"),
        index_add.segment_sum,
        pyg.segment_sum,
    ),
    "segment_reduce, max": (
        lambda graph, values: ek.segment_reduce(values, graph, "max"),
        index_add.segment_max,
        pyg.segment_max,
    ),
    "segment_softmax": (
        lambda graph, values: ek.segment_softmax(values, graph),
        index_add.segment_softmax,
        pyg.segment_softmax,
    ),
}


@pytest.mark.parametrize("op", OF_EDGES)
def test_of_edges(measure: Callable[..., None], graph: ek.Graph, op: str) -> None:
    ours, plain, scatter = OF_EDGES[op]
    implementations = {
        "equikernels": ours,
        "index_add_": lambda graph, values: plain(values, graph.receiver, graph.num_nodes),
        "PyG": lambda graph, values: scatter(values, graph.receiver, graph.num_nodes),
    }
    values = torch.randn(graph.num_edges, WIDTH, generator=torch.Generator().manual_seed(0))
    measure(op, implementations, [values])


def test_gather_segment_reduce(measure: Callable[..., None], graph: ek.Graph) -> None:
    implementations = {
        "equikernels": lambda graph, nodes: ek.gather_segment_reduce(nodes, graph),
        "index_add_": lambda graph, nodes: index_add.gather_segment_sum(nodes, graph.receiver, graph.sender),
        "PyG": lambda graph, nodes: pyg.gather_segment_sum(nodes, graph.receiver, graph.sender),
    }
    nodes = torch.randn(graph.num_nodes, WIDTH, generator=torch.Generator().manual_seed(0))
    measure("gather_segment_reduce, sum", implementations, [nodes])
