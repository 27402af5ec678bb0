"""A training step of every network gives the same bits on any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import models

THREADS = (1, 2, 3)
PELICAN: dict[str, Any] = {
    "num_channels_scalar": 3,
    "num_channels_m": [[11]] * 2,
    "num_channels_2to2": [7, 7],
    "num_channels_out": [11],
    "num_channels_m_out": [11, 7],
    "batchnorm": "b",
    "average_nobj": 49,
}


def tagging(count: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    jets = ek.data.load_sample_jets()[:count]
    x, ptr, is_beam = ek.data.with_beams(jets.p4, jets.ptr)
    return x, ek.data.top_tagging_scalars(x, is_beam), ptr


def jets(count: int = 6) -> tuple[Tensor, Tensor]:
    some = ek.data.load_sample_jets()[:count]
    return some.p4, some.ptr


def hits() -> Any:
    return ek.data.load_sample_hit_graphs()[0]


def points(*widths: int) -> tuple[Any, ...]:
    """(features of each width, graph) of random points in space."""
    generator = torch.Generator().manual_seed(1)
    edges = torch.randint(0, 2000, (2, 6000), generator=generator)
    tables = [torch.randn(2000, width, generator=generator) for width in widths]
    return *tables, ek.Graph.from_edge_index(edges, 2000)


def with_velocity(h: Tensor, x: Tensor, graph: ek.Graph) -> tuple[Any, ...]:
    return h, x, graph, x.flip(0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "LorentzNet": (lambda: models.LorentzNet(2, 36, n_layers=3), tagging),
    "LorentzNet padded": (lambda: models.LorentzNet(2, 16, n_layers=2, readout="padded_mean"), tagging),
    "LorentzNet not equivariant": (lambda: models.LorentzNet(2, 36, n_layers=2, equivariant=False), tagging),
    "VecNet": (lambda: models.VecNet(2, 16, n_free=4), tagging),
    "PELICANClassifier": (lambda: models.PELICANClassifier(**PELICAN), jets),
    "PELICANClassifier spurions": (
        lambda: models.PELICANClassifier(**PELICAN, stabilizer="so2", method="spurions"),
        jets,
    ),
    "PELICANRegressor": (lambda: models.PELICANRegressor(**PELICAN), jets),
    "PELICANNano": (lambda: models.PELICANNano(3, batchnorm="b", dropout=False), jets),
    "EGNN": (lambda: models.EGNN(5, 24, 4, n_layers=2), lambda: points(5, 3)),
    "EGNNVelocity": (lambda: models.EGNNVelocity(5, 0, 24, n_layers=2), lambda: with_velocity(*points(5, 3))),
    "RadialField": (lambda: models.RadialField(16), lambda: with_velocity(*points(5, 3))[1:]),
    "SchNet": (lambda: models.SchNet(5, 24, 4, n_layers=2, n_gaussians=20, reach=5.0), lambda: points(5, 3)),
    "GNN": (lambda: models.GNN(3, 24, n_layers=2), lambda: points(3)),
    "EuclidNet": (lambda: models.EuclidNet(8), lambda: (hits().x, hits().graph)),
    "EuclidNet wide": (lambda: models.EuclidNet(40, n_graph_iters=2), lambda: (hits().x, hits().graph)),
    "EuclidNet paper": (lambda: models.EuclidNet(8, variant="paper"), lambda: (hits().x, hits().graph)),
    "EuclidNetSO3": (lambda: models.EuclidNetSO3(8), lambda: (hits().x, hits().graph)),
    "VecNetTracking": (lambda: models.VecNetTracking(8, 4), lambda: (hits().x, hits().graph)),
    "InteractionNetwork": (
        lambda: models.InteractionNetwork(40),
        lambda: (hits().x, hits().graph, hits().edge_attr),
    ),
}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_has_the_same_bits(name: str) -> None:
    make, batch = NETWORKS[name]
    steps = []
    for count in THREADS:
        torch.set_num_threads(count)
        torch.manual_seed(0)
        model = make()
        out = model(*batch())
        out = out[0] if isinstance(out, tuple) else out
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        (out * weight).sum().backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        steps.append({"output": out.detach(), **grads, **dict(model.named_buffers())})
    for other in steps[1:]:
        assert [key for key, value in steps[0].items() if not torch.equal(value, other[key])] == []


@pytest.mark.usefixtures("poisoned")
def test_scoring_in_deterministic_mode_has_the_same_bits() -> None:
    scores = []
    for count in THREADS:
        torch.set_num_threads(count)
        torch.manual_seed(0)
        model = models.LorentzNet(2, 36, n_layers=3).eval()
        with torch.inference_mode():
            scores.append(model(*tagging()))
    assert all(torch.equal(score, scores[0]) for score in scores)


@pytest.mark.usefixtures("poisoned")
def test_training_on_one_jet_has_the_same_bits_in_deterministic_mode() -> None:
    steps = []
    for count in THREADS:
        torch.set_num_threads(count)
        torch.manual_seed(0)
        model = models.LorentzNet(2, 36, n_layers=3)
        model(*tagging(1)).square().sum().backward()
        steps.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for step in steps[1:] for a, b in zip(step, steps[0], strict=True))
