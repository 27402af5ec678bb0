"""Tests torch.export of every network with dynamic sizes: one event, one particle, none, and many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.export import TAKES_ANY_SIZE

from ..support.golden import jets
from ..support.networks import NETWORKS, PLAIN

pytestmark = pytest.mark.skipif(not TAKES_ANY_SIZE, reason="PyTorch before 2.13 asks for three events")
AUTO = torch.export.Dim.AUTO
ROWS = {0: AUTO}
COMPLETE = [ROWS, AUTO, AUTO]  # a graph's leaves: table, num_nodes, num_edges
SPARSE = [*COMPLETE, {1: AUTO}]  # and edge_index


def events(self_loops: bool, *sizes: int) -> tuple[Tensor, ek.Graph]:
    p4, ptr = jets(*sizes)
    edges = sum(n * n if self_loops else n * (n - 1) for n in sizes)
    return p4.float(), ek.Graph.complete(ptr, self_loops, num_edges=edges)


def tagger(*sizes: int) -> tuple[Any, ...]:
    p4, graph = events(False, *sizes)
    return p4, torch.randn(len(p4), 2), graph


def hits(n: int, edges: int) -> tuple[Any, ...]:
    return torch.randn(n, 3), ek.Graph.from_edge_index(torch.randint(0, n, (2, edges)), n)


def points(n: int, edges: int) -> tuple[Any, ...]:
    return torch.randn(n, 5), *hits(n, edges)


def fields(n: int, edges: int) -> tuple[Any, ...]:
    return torch.randn(n, 5), torch.randn(n, 1, 3), *hits(n, edges)


def and_rows(make: Callable[..., tuple[Any, ...]], of: int) -> Callable[..., tuple[Any, ...]]:
    """Three further numbers of each node, or (``of`` = 1) four of each edge."""

    def more(*sizes: int) -> tuple[Any, ...]:
        inputs = make(*sizes)
        return *inputs, torch.randn(sizes[1], 4) if of else torch.randn(len(inputs[0]), 3)

    return more


def labelled(*sizes: int) -> tuple[Any, ...]:
    p4, graph = events(True, *sizes)
    return p4, torch.randn(len(p4), 1), graph


PELICAN = (lambda *sizes: events(True, *sizes), (ROWS, COMPLETE))
JETS = {
    "LorentzNet": (tagger, (ROWS, ROWS, COMPLETE)),
    "LorentzNet, not equivariant": (tagger, (ROWS, ROWS, COMPLETE)),
    "VecNet": (and_rows(tagger, 0), (ROWS, ROWS, COMPLETE, ROWS)),
    "LGN": (labelled, (ROWS, ROWS, COMPLETE)),
    "PELICANNano": PELICAN,
    "PELICANClassifier": PELICAN,
    "PELICANRegressor": PELICAN,
    "PELICANRegressor, se2": PELICAN,
}
GRAPHS = {
    "EGNN": (points, (ROWS, ROWS, SPARSE)),
    "EGNNVelocity": (and_rows(points, 0), (ROWS, ROWS, SPARSE, ROWS)),
    "RadialField": (and_rows(hits, 0), (ROWS, SPARSE, ROWS)),
    "SchNet": (points, (ROWS, ROWS, SPARSE)),
    "TFN": (fields, (ROWS, ROWS, ROWS, SPARSE)),
    "GNN": (hits, (ROWS, SPARSE)),
    "EuclidNet": (hits, (ROWS, SPARSE)),
    "EuclidNet, paper": (hits, (ROWS, SPARSE)),
    "EuclidNetSO3": (hits, (ROWS, SPARSE)),
    "InteractionNetwork": (and_rows(hits, 1), (ROWS, SPARSE, ROWS)),
    "VecNetTracking": (and_rows(hits, 0), (ROWS, SPARSE, ROWS)),
}


def holds(
    model: nn.Module,
    make: Callable[..., tuple[Any, ...]],
    shapes: tuple[Any, ...],
    example: tuple[int, ...],
    sizes: Any,
) -> None:
    with torch.no_grad():
        program = torch.export.export(model, make(*example), dynamic_shapes=shapes).module()
        for size in sizes:
            inputs = make(*size)
            torch.testing.assert_close(program(*inputs), model(*inputs), rtol=1e-5, atol=1e-6, equal_nan=True)


# What they do depends on the sizes of events.
BY_SIZE = {ek.models.EFP: "EFP", ek.models.ParT: "ParT", ek.models.ParticleNet: "ParticleNet"}


def test_no_network_is_left_out() -> None:
    networks = {getattr(ek.models, name) for name in dir(ek.models) if name[0].isupper()}
    tried = {type(NETWORKS[name][0]()) for name in (*JETS, *GRAPHS)} | {type(make()) for make in PLAIN.values()}
    assert networks - set(BY_SIZE) == tried


@pytest.mark.parametrize("name", PLAIN)
def test_networks_without_symmetry(name: str) -> None:
    def make(*sizes: int) -> tuple[Any, ...]:
        if name == "ResNeXt":
            return (torch.rand(len(sizes), 1, 32, 32),)
        p4, graph = events(False, *sizes)
        width = {"PFN": 3, "EFN": 3, "PCNN": 5}.get(name)
        return (p4, graph) if width is None else (torch.randn(len(p4), width), graph)

    shapes = (ROWS,) if name == "ResNeXt" else (ROWS, COMPLETE)
    sizes = [(3, 6, 2), (9,), (2,), (1,), (1, 1), (9, 0), (0,), (1, 0, 3)]
    holds(PLAIN[name]().eval(), make, shapes, (5, 4), sizes)


def test_networks_that_work_by_size_are_refused() -> None:
    p4, graph = events(False, 5, 4)
    features = torch.randn(len(p4), 7)
    for model, inputs in (
        (ek.models.EFP(2), (p4, graph)),
        (ek.models.ParT(n_blocks=1), (features, p4, graph)),
        (ek.models.ParticleNet(), (features, graph)),
    ):
        with pytest.raises(RuntimeError, match=f"^{BY_SIZE[type(model)]}: torch.export: expected a network"):
            torch.export.export(model.eval(), inputs)


@pytest.mark.parametrize("name", JETS)
def test_jets(name: str) -> None:
    make, shapes = JETS[name]
    sizes = [(3, 6, 2), (9,), (2,), (1,), (1, 1), (9, 0), (0,), (1, 0, 3)]
    holds(NETWORKS[name][0]().eval(), make, shapes, (5, 4), sizes)


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs(name: str) -> None:
    make, shapes = GRAPHS[name]
    holds(NETWORKS[name][0]().eval(), make, shapes, (12, 50), [(20, 90), (3, 2), (2, 1), (1, 1), (7, 0), (1, 0)])


def test_a_graph_made_inside() -> None:
    """From ptr, or edges: arguments of a network without a Graph, as in C++."""

    class OfJets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = NETWORKS["LorentzNet"][0]()

        def forward(self, x: Tensor, scalars: Tensor, ptr: Tensor) -> Tensor:
            return self.model(x, scalars, ek.Graph.complete(ptr, num_nodes=x.shape[0], validate=False))

    class OfEdges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = NETWORKS["EGNN"][0]()

        def forward(self, h: Tensor, x: Tensor, edges: Tensor) -> Tensor:
            return self.model(h, x, edges)[0]

    def of_jets(*sizes: int) -> tuple[Any, ...]:
        x, scalars, graph = tagger(*sizes)
        return x, scalars, graph.ptr

    def of_edges(n: int, edges: int) -> tuple[Any, ...]:
        h, x, graph = points(n, edges)
        return h, x, graph.edge_index

    holds(OfJets().eval(), of_jets, (ROWS, ROWS, ROWS), (5, 4), [(3, 6, 2), (9,), (1,), (1, 1), (0,)])
    holds(OfEdges().eval(), of_edges, (ROWS, ROWS, {1: AUTO}), (12, 50), [(20, 90), (1, 1), (3, 0)])


def test_each_forward_is_compiled_by_itself() -> None:
    """Dynamo counts recompilations, of which it allows eight, by code object."""
    classes = {type(make()) for make, _ in NETWORKS.values()} | {ek.models.LorentzNet, ek.models.EuclidNet}
    forwards = [kind.forward for kind in classes]
    made = [ek.Graph.complete, ek.Graph.from_edge_index, ek.Graph.from_csr]
    codes = {id(f.__code__) for f in (*forwards, *(f.__func__ for f in made))}  # type: ignore[attr-defined]
    assert len(codes) == len(set(forwards)) + len(made)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        for name in ("EGNN", "EuclidNet", "InteractionNetwork"):
            make, inputs = NETWORKS[name]
            torch.compile(make().eval(), backend="eager", fullgraph=True, dynamic=True)(*inputs())


def test_decompositions_within_the_same_context() -> None:
    make, shapes = JETS["LorentzNet"]
    model = NETWORKS["LorentzNet"][0]().eval()
    with torch.no_grad(), torch.fx.experimental._config.patch(backed_size_oblivious=True):
        program = torch.export.export(model, make(5, 4), dynamic_shapes=shapes).run_decompositions({})
    inputs = make(9)
    torch.testing.assert_close(program.module()(*inputs), model(*inputs))
