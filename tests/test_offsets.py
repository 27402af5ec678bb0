"""Tests that every function that takes ptr rejects a wrong one by name, before it reads or writes memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import equikernels as ek
from equikernels import models

# Ten particles in two events, 52 pairs.
GOOD = torch.tensor([0, 4, 10])
N = 10
P4 = torch.linspace(-3, 3, 40, dtype=torch.float64).sin().view(N, 4)
P4[:, 0] = P4[:, 1:].norm(dim=1) + 1
FEATURES = P4[:, :2].contiguous()
T = torch.linspace(-2, 2, 104, dtype=torch.float64).cos().view(52, 2)
W22, W21, W20 = (torch.linspace(-1, 1, 6 * maps, dtype=torch.float64).view(2, 3, maps) for maps in (15, 5, 2))
WIDTHS: dict[str, Any] = {"num_channels_scalar": 2, "num_channels_m": [[5]], "num_channels_2to2": [4]}
WIDTHS |= {"num_channels_out": [6], "num_channels_m_out": [5, 4]}


def network(kind: type[torch.nn.Module], *sizes: int, **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(*sizes, **options).double().eval()


LORENTZ, PADDED = (network(models.LorentzNet, 2, 8, n_layers=1, readout=r) for r in ("masked_mean", "padded_mean"))
VEC = network(models.VecNet, 2, 8, 4, 2, n_layers=1)
CLASSIFIER, SPURIONS, STRICT = (
    network(models.PELICANClassifier, **WIDTHS, **options)
    for options in ({}, {"stabilizer": "so2", "method": "spurions"}, {"strict_irc": True})
)
REGRESSOR, NANO = network(models.PELICANRegressor, **WIDTHS), network(models.PELICANNano, 2)
KINEMATIC = P4[:, [0, 1, 2, 3, 0, 1, 2]].contiguous()
PLAIN = (
    (network(models.LGN, (1, 2, 1), n_basis=2), (P4, FEATURES[:, :1])),
    (network(models.PCNN), (KINEMATIC,)),
    (network(models.PFN), (KINEMATIC[:, :3],)),
    (network(models.EFN), (KINEMATIC[:, :3],)),
    (network(models.MLP), (P4,)),
    (network(models.EFP, 3), (P4,)),
    (network(models.ParT), (KINEMATIC, P4)),
    (network(models.ParticleNet, k=2), (KINEMATIC,)),
)
LAYERS = [kind(2, 3).double() for kind in (ek.nn.Eq2to2, ek.nn.Eq2to1, ek.nn.Eq2to0)]
FROM_PARTICLES = ek.nn.Eq1to2(2, 3).double()
BY_EVENT, BY_LAYER = (ek.nn.MessageBlock([2, 3], batchnorm=kind).double() for kind in ("i", "l"))


def of_graph(ptr: Any) -> Any:
    graph = ek.Graph.complete(ptr, num_nodes=N)
    return ek.segment_reduce(torch.ones(graph.num_edges, 2), graph)


TAKE_PTR: dict[str, Callable[[Any], Any]] = {
    "with_beams": lambda p: ek.data.with_beams(P4, p),
    "four_momenta": lambda p: ek.data.four_momenta(dict(zip(("E", "px", "py", "pz"), P4.T, strict=True)), ptr=p),
    "to_awkward": lambda p: ek.data.to_awkward(P4, p),
    "to_weaver": lambda p: ek.data.to_weaver(P4, p),
    "Jets": lambda p: ek.data.Jets(P4, p, torch.zeros(2)),
    "unpack": lambda p: ek.unpack(P4, p),
    "unpack to a length": lambda p: ek.unpack(P4, p, 12),
    "unpack_list": lambda p: ek.unpack_list(P4, p),
    "unpack_nested": lambda p: ek.unpack_nested(P4, p),
    "unpack_awkward": lambda p: ek.unpack_awkward(P4, p),
    "unpack_pairs": lambda p: ek.unpack_pairs(T, p),
    "unpack_pairs to a length": lambda p: ek.unpack_pairs(T, p, 12),
    "Graph.complete": of_graph,
    "k_nearest": lambda p: ek.k_nearest(P4, 2, p),
    "k_nearest, minkowski": lambda p: ek.k_nearest(P4, 2, p, "minkowski"),
    "knn_graph": lambda p: ek.knn_graph(P4, 2, p),
    "knn_graph, delta_r": lambda p: ek.knn_graph(P4, 2, p, "delta_r"),
    "radius_graph": lambda p: ek.radius_graph(P4, 0.5, p),
    "radius_graph of few": lambda p: ek.radius_graph(P4, 0.5, p, max_num_neighbors=3),
    "rank2_reduce": lambda p: ek.rank2_reduce(T, p),
    "rank2_reduce, max": lambda p: ek.rank2_reduce(T, p, "max"),
    "rank2_reduce, weights": lambda p: ek.rank2_reduce(T, p, weight=torch.ones(N).double()),
    "rank2_broadcast": lambda p: ek.rank2_broadcast(row=FEATURES, ptr=p),
    "rank2_mix": lambda p: ek.rank2_mix(T, p, weight_identity=W20[..., 0]),
    "rank2_products": lambda p: ek.rank2_products(P4, p),
    "PairBatch": lambda p: ek.linear_2to2(T, ek.PairBatch(p), W22),
    "linear_2to2": lambda p: ek.linear_2to2(T, p, W22),
    "linear_2to1": lambda p: ek.linear_2to1(T, p, W21),
    "linear_2to0": lambda p: ek.linear_2to0(T, p, W20),
    "linear_1to2": lambda p: ek.linear_1to2(FEATURES, p, W21),
    "Eq2to2": lambda p: LAYERS[0](T, p),
    "Eq2to1": lambda p: LAYERS[1](T, p),
    "Eq2to0": lambda p: LAYERS[2](T, p),
    "Eq1to2": lambda p: FROM_PARTICLES(FEATURES, p),
    "MessageBlock by event": lambda p: BY_EVENT(T, p),
    "MessageBlock by layer": lambda p: BY_LAYER(T, p),
    "LorentzNet": lambda p: LORENTZ(P4, FEATURES, p),
    "LorentzNet, padded": lambda p: PADDED(P4, FEATURES, p),
    "VecNet": lambda p: VEC(P4, FEATURES, p, FEATURES),
    "PELICANClassifier": lambda p: CLASSIFIER(P4, p),
    "PELICANClassifier, spurions": lambda p: SPURIONS(P4, p),
    "PELICANClassifier, strict": lambda p: STRICT(P4, p),
    "PELICANRegressor": lambda p: REGRESSOR(P4, p),
    "PELICANNano": lambda p: NANO(P4, p),
    "kinematic_features": lambda p: ek.data.kinematic_features(P4, p),
    "energy_flow": lambda p: ek.data.energy_flow(P4, p),
    "jet_images": lambda p: ek.data.jet_images(P4, p, 8),
    "efps": lambda p: models.efps(P4, p, 3),
    "boosted": lambda p: ek.data.boosted(P4, p, torch.tensor([0.1, 0.2])),
    "aligned": lambda p: ek.data.aligned(P4, p),
    **{f"{type(of).__name__}": lambda p, of=of, first=first: of(*first, p) for of, first in PLAIN},
}

WRONG: dict[str, Any] = {
    "decreasing, inside": torch.tensor([0, 12, 10]),
    "decreasing, three events": torch.tensor([0, 3, 12, 10]),
    "negative": torch.tensor([0, -3, 10]),
    "not from 0": torch.tensor([1, 10]),
    "from below 0": torch.tensor([-1, 4, 10]),
    "too short": torch.tensor([0, 4, 9]),
    "too long": torch.tensor([0, 4, 11]),
    "no event": torch.tensor([0]),
    "far too long": torch.tensor([0, 4, 2**40]),
    "far out inside": torch.tensor([0, 2**40, 10]),
    "far below": torch.tensor([0, -(2**62), 10]),
    "int32": GOOD.int(),
    "real": GOOD.double(),
    "truth values": GOOD > 3,
    "empty": GOOD[:0],
    "of two dimensions": GOOD[None],
    "of none": torch.tensor(10),
    "a list": GOOD.tolist(),
    "an array": np.array([0, 4, 10]),
    "elsewhere": GOOD.to("meta"),
}


@pytest.mark.parametrize("name", TAKE_PTR)
def test_a_wrong_ptr_is_refused(name: str) -> None:
    if name.endswith("_awkward"):
        pytest.importorskip("awkward")
    TAKE_PTR[name](GOOD)
    for kind, ptr in WRONG.items():
        print(kind)  # shown if nothing is raised
        with pytest.raises((ValueError, TypeError), match=r"^[\w.]+: (ptr|T|packed|graph|label): expected .*, got "):
            TAKE_PTR[name](ptr)


def test_every_function_that_takes_ptr_is_here() -> None:
    """By their signatures: public functions of the package and its submodules, forwards of networks and layers."""
    found = set()
    for module in (ek, ek.data, ek.metrics, ek.models, ek.nn):
        for name, thing in vars(module).items():
            call = thing.forward if inspect.isclass(thing) and issubclass(thing, torch.nn.Module) else thing
            if name.startswith("_") or inspect.ismodule(thing) or not callable(thing):
                continue
            try:
                parameters = inspect.signature(call).parameters
            except (TypeError, ValueError):
                continue
            if "ptr" in parameters:
                found.add(name)
    assert found == {name.split(",")[0].split(" ")[0] for name in TAKE_PTR} - {"Graph.complete"}
