"""Random graphs of any shape: kernels and reference agree on values and gradients."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import equikernels as ek

from ..support.cases import OPS, select
from ..support.tools import cotangent_for, reference, value_and_grads


@st.composite
def graphs(draw: st.DrawFn) -> ek.Graph:
    if draw(st.booleans()):
        counts = draw(st.lists(st.integers(0, 20), max_size=6))
        ptr = torch.tensor([0, *counts]).cumsum(0)
        return ek.Graph.complete(ptr, self_loops=draw(st.booleans()))
    n = draw(st.integers(1, 12))
    ends = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=60))
    edge_index = torch.tensor(ends, dtype=torch.int64).reshape(-1, 2).t()
    if draw(st.booleans()):
        return ek.Graph.from_edge_index(edge_index, n)
    order = edge_index[1].argsort(stable=True)
    ptr = torch.cat([torch.zeros(1, dtype=torch.int64), torch.bincount(edge_index[1], minlength=n).cumsum(0)])
    return ek.Graph.from_csr(ptr, edge_index[0][order])


def different(graph: ek.Graph, op: str) -> int:
    """Rows over which a batch norm of this op measures, equal ones once."""
    if op == "pairwise_network":
        return graph.pairs.num_edges
    return graph.num_nodes if op == "row_mlp" else torch.unique(graph.edge_index, dim=1).shape[1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(graph=graphs(), which=st.integers(0, 10**6), op=st.sampled_from(OPS), seed=st.integers(0, 1000))
def test_any_graph(graph: ek.Graph, which: int, op: str, seed: int) -> None:
    cases = select(op=op)
    case = cases[which % len(cases)]
    assume(graph.is_complete or not case.complete_only)
    # Over two different rows a norm gives the same two numbers whatever enters: gradients cancel, to rounding.
    assume(not case.measures or different(graph, op) > 2)
    # On a self-loop the unit direction is 0 / 1e-8: gradients of 1e8 cancel, to rounding.
    geometry = case.options.get("geometry")
    assume(geometry is None or geometry.direction != "unit" or not (graph.receiver == graph.sender).any())
    inputs = case.inputs(torch.float64, graph, seed)
    cotangent = cotangent_for(reference(case, inputs, graph))
    result = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    expected = value_and_grads(lambda i: reference(case, i, graph), inputs, cotangent)
    for r, e in zip(result, expected, strict=True):
        torch.testing.assert_close(r, e, rtol=1e-9, atol=1e-11)
