"""Activation checkpointing around ops and networks: the same gradients, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

import equikernels as ek
from equikernels import models

from ..support.cases import CASES, Case, four_vectors
from ..support.hits import hits
from ..support.tools import cotangent_for, value_and_grads


def keep_ours(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    ours = getattr(op, "namespace", "") == "equikernels"
    return CheckpointPolicy.MUST_SAVE if ours else CheckpointPolicy.PREFER_RECOMPUTE


def recompute_ours(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    product = op in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
    return CheckpointPolicy.MUST_SAVE if product else CheckpointPolicy.PREFER_RECOMPUTE


WAYS: dict[str, Callable[..., Any]] = {
    "all": partial(checkpoint, use_reentrant=False),
    "ops kept": partial(
        checkpoint, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, keep_ours)
    ),
    "products kept": partial(
        checkpoint, use_reentrant=False, context_fn=partial(create_selective_checkpoint_contexts, recompute_ours)
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_ops(case: Case, way: str) -> None:
    graph, inputs = case.graph(), case.inputs(torch.float32)
    names = list(inputs)

    def run(*tensors: Tensor) -> Tensor:
        # twice, so that saved tensors of both calls exist
        given = dict(zip(names, tensors, strict=True))
        return case.run({n: t * 0.5 for n, t in given.items()}, graph) + case.run(given, graph)

    cotangent = cotangent_for(run(*inputs.values()))
    plain = value_and_grads(lambda i: run(*i.values()), inputs, cotangent)
    again = value_and_grads(lambda i: WAYS[way](run, *i.values()), inputs, cotangent)
    for a, b in zip(plain, again, strict=True):
        assert a.shape == b.shape
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def network(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    p = hits(12, 40)
    x, edge_attr = p.x.float(), p.edge_attr.float()
    p4 = four_vectors(9, torch.Generator().manual_seed(0)).float()
    ptr = torch.tensor([0, 4, 9])
    pelican: dict[str, Any] = {
        "num_channels_scalar": 3, "num_channels_m": [[5]] * 2, "num_channels_2to2": [4, 4],
        "num_channels_out": [5], "num_channels_m_out": [5, 4],
    }  # fmt: skip
    made: dict[str, Callable[[], tuple[nn.Module, tuple[Any, ...]]]] = {
        "LorentzNet": lambda: (models.LorentzNet(2, 8, n_layers=2), (p4, p4[:, :2], ptr)),
        "EGNN": lambda: (models.EGNN(3, 8, 8, 4, n_layers=2, attention=True), (x, x, p.graph, edge_attr)),
        "EGNNVelocity": lambda: (models.EGNNVelocity(3, 4, 8, n_layers=2), (x, x, p.graph, x.sin(), edge_attr)),
        "RadialField": lambda: (models.RadialField(8, 4, n_layers=2), (x, p.graph, x.sin(), edge_attr)),
        "EuclidNet": lambda: (models.EuclidNet(4, n_layers=2, n_graph_iters=2), (x, p.graph)),
        "EuclidNet of the paper": lambda: (models.EuclidNet(4, n_layers=2, variant="paper"), (x, p.graph)),
        "EuclidNetSO3": lambda: (models.EuclidNetSO3(4, 2), (x, p.graph)),
        "InteractionNetwork": lambda: (models.InteractionNetwork(8), (x, p.graph, edge_attr)),
        "PELICANRegressor": lambda: (models.PELICANRegressor(**pelican), (p4, ptr)),
        "Eq1to2": lambda: (ek.nn.Eq1to2(4, 3, config="M"), (p4, ptr)),
        "PELICANClassifier": lambda: (models.PELICANClassifier(**pelican), (p4, ptr)),
        "VecNet": lambda: (models.VecNet(2, 8, 4, n_layers=2), (p4, p4[:, :2], ptr)),
        "VecNetTracking": lambda: (models.VecNetTracking(4, n_layers=2, n_graph_iters=2), (x, p.graph)),
        "PELICANNano": lambda: (models.PELICANNano(4), (p4, ptr)),
    }
    return made[name]()


NETWORKS = (
    "LorentzNet", "EGNN", "EGNNVelocity", "RadialField", "EuclidNet", "EuclidNet of the paper", "EuclidNetSO3",
    "InteractionNetwork", "PELICANClassifier", "PELICANRegressor", "PELICANNano", "Eq1to2", "VecNet", "VecNetTracking",
)  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_networks(name: str, way: str) -> None:
    model, arguments = network(name)
    model.train()
    found = []
    for run in (lambda *a: model(*a), partial(WAYS[way], model)):
        torch.manual_seed(1)  # of dropout
        out = run(*arguments)
        total = sum(t.double().square().sum() for t in (out if isinstance(out, tuple) else (out,)))
        found.append(torch.autograd.grad(total, list(model.parameters()), allow_unused=True, materialize_grads=True))
    assert any(g.any() for g in found[0])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_second_derivatives() -> None:
    """The backward of a backward also keeps tensors."""
    graph = ek.Graph.complete(torch.tensor([0, 3, 5]))
    x = four_vectors(5, torch.Generator().manual_seed(0)).requires_grad_()
    layer = ek.nn.LGEB(4, 4, 4).double().eval()

    def force(x: Tensor) -> Tensor:
        energy = layer(x, x, graph)[0].sin().sum()
        return torch.autograd.grad(energy, x, create_graph=True)[0]

    expected = torch.autograd.grad(force(x).square().sum(), x)[0]
    found = torch.autograd.grad(checkpoint(force, x, use_reentrant=False).square().sum(), x)[0]
    assert torch.equal(found, expected)
