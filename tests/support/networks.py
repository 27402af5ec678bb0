"""Small networks of every kind, and their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.models import resnext

from .golden import jets
from .pelican import small

SPURIONS = {"stabilizer": "so2", "method": "spurions"}


def events() -> dict[str, Any]:
    p4, ptr = jets(5, 4, 1)
    return {"p4": p4.float(), "ptr": ptr}


def _tagger() -> tuple[Any, ...]:
    p = events()
    return p["p4"], torch.randn(len(p["p4"]), 2), p["ptr"]


def _hits() -> tuple[Tensor, ek.Graph]:
    return torch.randn(7, 3), ek.Graph.from_edge_index(torch.randint(0, 7, (2, 20)), 7)


def _points() -> tuple[Tensor, Tensor, ek.Graph]:
    x, graph = _hits()
    return torch.randn(7, 5), x, graph


def _fields() -> tuple[Any, ...]:
    s, x, graph = _points()
    return s, torch.randn(7, 1, 3), x, graph


def _free() -> tuple[Any, ...]:
    inputs = _tagger()
    return *inputs, torch.randn(len(inputs[0]), 3)


def _labelled() -> tuple[Any, ...]:
    p4, scalars, ptr = _tagger()
    return p4, scalars[:, :1], ptr


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    "LorentzNet": (lambda: ek.models.LorentzNet(2, 8, n_layers=2, dropout=0.1), _tagger),
    "LorentzNet, not equivariant": (lambda: ek.models.LorentzNet(2, 8, n_layers=2, equivariant=False), _tagger),
    "VecNet": (lambda: ek.models.VecNet(2, 8, 4, 3, n_layers=2), _free),
    "LGN": (lambda: ek.models.LGN((1, 2, 1), n_basis=2), _labelled),
    "EGNN": (lambda: ek.models.EGNN(5, 8, 3, n_layers=2, attention=True), _points),
    "EGNNVelocity": (
        lambda: ek.models.EGNNVelocity(5, 0, 8, n_layers=2),
        lambda: (*_points(), torch.randn(7, 3)),
    ),
    "RadialField": (
        lambda: ek.models.RadialField(8, n_layers=2),
        lambda: (*_hits(), torch.randn(7, 3)),
    ),
    "RadialField, plain": (lambda: ek.models.RadialField(8, n_layers=2, velocity=False), _hits),
    "SchNet": (lambda: ek.models.SchNet(5, 8, 3, n_layers=2, n_gaussians=6, reach=4.0), _points),
    "TFN": (lambda: ek.models.TFN((5, 1), 4, (2, 1), n_layers=2), _fields),
    "GNN": (lambda: ek.models.GNN(3, 8, n_layers=2), _hits),
    "EuclidNet": (lambda: ek.models.EuclidNet(8), _hits),
    "EuclidNet, paper": (lambda: ek.models.EuclidNet(8, variant="paper"), _hits),
    "EuclidNetSO3": (lambda: ek.models.EuclidNetSO3(), _hits),
    "InteractionNetwork": (lambda: ek.models.InteractionNetwork(8), lambda: (*_hits(), torch.randn(20, 4))),
    "VecNetTracking": (lambda: ek.models.VecNetTracking(8, 4, 3), lambda: (*_hits(), torch.randn(7, 3))),
    "PELICANNano": (lambda: ek.models.PELICANNano(2, batchnorm="b"), lambda: tuple(events().values())),
    "PELICANClassifier": (
        lambda: ek.models.PELICANClassifier(**small(**SPURIONS, config="sMxn", batchnorm="b")),
        lambda: tuple(events().values()),
    ),
    "PELICANRegressor": (
        lambda: ek.models.PELICANRegressor(**small(**SPURIONS, config="S")),
        lambda: tuple(events().values()),
    ),
    "PELICANRegressor, se2": (
        lambda: ek.models.PELICANRegressor(**small(stabilizer="se2")),
        lambda: tuple(events().values()),
    ),
    "PELICANClassifier, strict IRC": (
        lambda: ek.models.PELICANClassifier(**small(strict_irc=True)),
        lambda: tuple(events().values()),
    ),
}


def short_resnext() -> nn.Module:
    """With one block in every stage."""
    with patch.object(resnext, "BLOCKS", (1, 1, 1, 1)):
        return ek.models.ResNeXt()


# Networks without symmetry that take any number of events.
PLAIN: dict[str, Callable[[], nn.Module]] = {
    "PFN": lambda: ek.models.PFN(3, (8, 8), (8,)),
    "EFN": lambda: ek.models.EFN((8, 8), (8,)),
    "MLP": lambda: ek.models.MLP(6, 8),
    "MLP, not aligned": lambda: ek.models.MLP(6, 8, aligned=False),
    "PCNN": lambda: ek.models.PCNN(5, 9),
    "ResNeXt": short_resnext,
}
