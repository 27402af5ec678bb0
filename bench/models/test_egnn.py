from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

import equikernels as ek
from equikernels import baselines, models

SIZES = {"in_node_nf": 16, "hidden_nf": 64, "out_node_nf": 16, "n_layers": 4, "attention": True}


def test_egnn(measure: Callable[..., None], graph: ek.Graph) -> None:
    """Forward, and gradients of all weights and inputs: a training step but for the optimizer."""
    generator = torch.Generator().manual_seed(0)
    h, x = (torch.randn(graph.num_nodes, width, generator=generator) for width in (16, 3))
    torch.manual_seed(0)
    ours, published = models.EGNN(**SIZES), baselines.EGNN(**SIZES)
    names, shapes, weights = [], [], []
    for name, weight in ours.state_dict().items():
        names.append(name)
        shapes.append(weight.shape)
        weights.append(weight.flatten())

    # All weights in one vector: their gradient is compared as a whole, as a single bias has no scale of its own.
    def run(model: torch.nn.Module, edges: Any, h: Tensor, x: Tensor, flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        state = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        h, x = functional_call(model, state, (h, x, edges))
        return torch.cat([h, x], dim=1)

    implementations = {
        "equikernels": lambda graph, *inputs: run(ours, graph, *inputs),
        "index_add_": lambda graph, *inputs: run(published, (graph.receiver, graph.sender), *inputs),
    }
    measure("EGNN, H 64, 4 layers, attention", implementations, [h, x, torch.cat(weights)])
