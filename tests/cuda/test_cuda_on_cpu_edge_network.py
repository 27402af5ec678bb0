"""edge_network's CUDA kernels, emulated on the CPU: numbers of edges, widths, limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.ops.edge_network.spec import EdgeOptions, EdgeTensors, cuda_limit

from ..support.cases import (
    CASES,
    Case,
)
from ..support.edge_network_cases import network_inputs
from ..support.emulator import MARKS, Emulator, check

pytestmark = MARKS


def edge_network_case(id: str, h: int | None = None) -> Case:
    """Of width h: the three channels of the list can be nearly equal, where LayerNorm loses digits."""
    case = next(case for case in CASES if case.op == "edge_network" and case.id == id)
    if h is None:
        return case
    widths = (h, h, h, h, h, 1)
    return replace(case, options={**case.options, "widths": widths}, make=network_inputs(widths, attr=h, invariants=2))


def hub() -> ek.Graph:
    """One node receives more than a tile of edges, some others none."""
    sender, receiver = torch.randint(0, 9, (2, 290), generator=torch.Generator().manual_seed(0))
    receiver[(receiver > 2) & (receiver < 7)] = 2
    return ek.Graph.from_edge_index(torch.stack([sender, receiver]), 9)


def lonely() -> ek.Graph:
    """Few edges, and many more nodes than a block processes at once."""
    edge_index = torch.randint(0, 400, (2, 90), generator=torch.Generator().manual_seed(0))
    return ek.Graph.from_edge_index(edge_index, 400)


def long_rows() -> ek.Graph:
    return ek.Graph.complete(torch.tensor([0, 140, 140, 143]))


@pytest.mark.parametrize("make", [hub, lonely, long_rows])
@pytest.mark.parametrize("id", ["euclidnet", "messages", "rows"])
def test_edges_of_any_number_per_node(
    id: str, make: Callable[[], ek.Graph], emulator: Emulator, poisoned: None
) -> None:
    graph = make()
    case = edge_network_case(id, 8 if id == "euclidnet" else None)
    check(case, graph, case.inputs(torch.float32, graph))
    exact = case.inputs(torch.float32, graph)
    if "x" in exact:  # float64 coordinates and float32 features
        exact["x"] = case.inputs(torch.float64, graph)["x"]
        check(case, graph, exact)


@pytest.mark.parametrize(
    ("dtype", "h"),
    [*((torch.float32, h) for h in (1, 8, 16, 32, 64)), *((torch.float64, h) for h in (1, 8, 32))],
    ids=str,
)
def test_edge_network_of_any_width(dtype: torch.dtype, h: int, emulator: Emulator, poisoned: None) -> None:
    """Every form of the kernels: larger tiles for few channels, weights in global memory for many."""
    case = edge_network_case("euclidnet", h)
    graph = case.graph()
    check(case, graph, case.inputs(dtype, graph))


def test_edge_network_too_large_for_shared_memory(emulator: Emulator) -> None:
    rows = ek.Graph.complete(torch.tensor([0, 3]))  # of which the edges count
    for last in (42, 43):
        widths = (64,) * 8 + (last,)
        inputs = network_inputs(widths, attr=3, ends=())(torch.Generator().manual_seed(0), rows)
        weights, edge_attr = inputs["weights"].float().requires_grad_(), inputs["edge_attr"].float()
        network = ek.EdgeNetwork(weights, 3, widths, (1,) * 9)
        options = EdgeOptions(
            False, [], False, False, True, list(widths), [1] * 9, 0.0, 8, -1, False, 0, 0.0, 0.0, None
        )
        limit = cuda_limit(EdgeTensors(None, None, None, edge_attr, weights), options)
        out = ek.edge_network(network, None, edge_attr=edge_attr, edges_at=8).edges
        assert out is not None
        if last == 42:
            assert limit is None
            out.sum().backward()
        else:
            assert limit is not None
            assert "layers of 555 channels in all need 101488 bytes of shared memory: at most 101376" in limit
            with pytest.raises(RuntimeError, match="shared memory"):
                out.sum().backward()


def test_edge_network_of_points_alone(emulator: Emulator, poisoned: None) -> None:
    """Eight coordinates on a layer one wide, and coordinates on which nothing depends."""
    graph = lonely()
    x = torch.randn(graph.num_nodes, 8, dtype=torch.float64).requires_grad_()
    weights = torch.randn(3, dtype=torch.float64).requires_grad_()
    for options in ({"invariants": "both", "coordinates": True}, {}):
        columns = 2 if options else 0
        network = ek.EdgeNetwork(weights[: columns + 1], columns, (1,), (5,))

        def gradients() -> list[Tensor]:
            out = ek.edge_network(network, graph, x=x, messages_at=0, **options)  # noqa: B023
            assert out.messages is not None
            total = out.messages.sum() if out.coordinates is None else (out.messages * out.coordinates).sum()
            return list(torch.autograd.grad(total, [x, weights], allow_unused=True, materialize_grads=True))

        with ek.use_backend("reference"):
            expected = gradients()
        for found, right in zip(gradients(), expected, strict=True):
            torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
