from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import equikernels as ek
from equikernels import baselines, models

# hits, edges: a graph behind tight cuts, and one behind loose ones
SIZES = {"3k edges": (3_000, 3_000), "80k edges": (10_000, 80_000)}
NETWORKS: dict[str, tuple[nn.Module, nn.Module]] = {
    **{f"EuclidNet SO(2), h {h}": (models.EuclidNet(h), baselines.EuclidNetSO2(h)) for h in (8, 16, 32)},
    "InteractionNetwork, h 8, 3 passes": (models.InteractionNetwork(8, 3), baselines.InteractionNetwork(8, 3)),
    "InteractionNetwork, h 40": (models.InteractionNetwork(40), baselines.InteractionNetwork(40)),
}


@pytest.fixture(scope="session", params=SIZES)
def graph(request: pytest.FixtureRequest) -> Iterator[ek.Graph]:
    nodes, edges = SIZES[request.param]
    graph = ek.Graph.from_edge_index(
        torch.randint(0, nodes, (2, edges), generator=torch.Generator().manual_seed(0)), nodes
    )
    graph.by_receiver  # noqa: B018 (made on first use; not what is measured)
    return graph


@pytest.mark.parametrize("name", NETWORKS)
def test_tracking(measure: Callable[..., None], graph: ek.Graph, name: str) -> None:
    """Forward, and gradients of all weights and inputs: a training step but for the optimizer."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(graph.num_nodes, 3, generator=generator)
    attr = torch.randn(graph.num_edges, 4, generator=generator)
    ours, published = NETWORKS[name]
    names, shapes, weights = [], [], []
    for key, weight in ours.state_dict().items():
        names.append(key)
        shapes.append(weight.shape)
        weights.append(weight.flatten())
    interaction = name.startswith("Interaction")

    # All weights in one vector: their gradient is compared as a whole, as a single bias has no scale of its own.
    def run(model: nn.Module, edges: Any, x: Tensor, attr: Tensor, flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        state = {key: part.view(shape) for key, part, shape in zip(names, parts, shapes, strict=True)}
        return functional_call(model, state, (x, edges, attr) if interaction else (x, edges))

    inputs = [x, attr, torch.cat(weights)] if interaction else [x, torch.cat(weights)]

    def call(model: nn.Module, edges: Any, inputs: tuple[Tensor, ...]) -> Tensor:
        return run(model, edges, *inputs) if interaction else run(model, edges, inputs[0], attr, inputs[1])

    rows = graph.edge_index if interaction else graph.edge_index.flip(0)
    implementations = {
        "equikernels": lambda graph, *inputs: call(ours, graph, inputs),
        "index_add_": lambda graph, *inputs: call(published, rows, inputs),
    }
    measure(name, implementations, inputs)
