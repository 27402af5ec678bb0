"""The list of sample inputs for every generic check of every op, on every backend.

A case names its op and gives: float64 inputs that may be differentiated, the graph, the options, and how inputs and
output transform under the symmetry group of the metric. To cover a new op, add cases here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import equikernels as ek

from . import mlp_cases, pair_cases

Inputs = dict[str, Tensor]
DEVICE = os.environ.get("EQUIKERNELS_TEST_DEVICE", "cpu")  # `make gpu-test` sets cuda


def _sparse() -> ek.Graph:
    # Unsorted and asymmetric, with duplicate edges, a self-loop, and isolated nodes 6 (receives none, sends none),
    # 0 (receives none) and 5 (sends none).
    sender = torch.tensor([4, 0, 2, 2, 1, 3, 3, 0, 4, 1, 2, 0])
    receiver = torch.tensor([5, 1, 3, 3, 4, 2, 3, 5, 1, 5, 1, 4])
    return ek.Graph.from_edge_index(torch.stack([sender, receiver]), 7)


def _random_sparse() -> ek.Graph:
    generator = torch.Generator().manual_seed(5)
    return ek.Graph.from_edge_index(torch.randint(0, 40, (2, 700), generator=generator), 40)


GRAPHS: dict[str, Callable[[], ek.Graph]] = {
    "complete": lambda: ek.Graph.complete(torch.tensor([0, 3, 3, 4, 9])),  # with an empty event and a lone particle
    "self_loops": lambda: ek.Graph.complete(torch.tensor([0, 3, 3, 4, 9]), self_loops=True),
    "large_event": lambda: ek.Graph.complete(torch.tensor([0, 37, 39])),  # rows longer than any SIMD block
    "sparse": _sparse,
    "random_sparse": _random_sparse,
    "csr": lambda: ek.Graph.from_csr(torch.tensor([0, 2, 2, 5, 6]), torch.tensor([1, 3, 0, 1, 3, 2])),
    "no_edges": lambda: ek.Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 3),
    "no_nodes": lambda: ek.Graph.complete(torch.tensor([0, 0, 0])),
    "no_events": lambda: ek.Graph.complete(torch.tensor([0])),
    "one_particle": lambda: ek.Graph.complete(torch.tensor([0, 1])),
}
SMALL = ("complete", "self_loops", "sparse", "csr", "no_edges", "one_particle")  # for finite differences
TYPICAL = ("complete", "sparse")  # for checks that need one complete and one CSR graph
LARGE = ("large_event", "random_sparse")


@dataclass(frozen=True)
class Case:
    op: str  # name in equikernels
    id: str
    graph_name: str
    make: Callable[[torch.Generator, ek.Graph], Inputs]
    options: dict[str, Any] = field(default_factory=dict)
    # input or "out" -> "vector" (last dimension transforms under the metric's group); the rest are invariant
    vectors: tuple[str, ...] = ()
    equivariant: bool = True
    smooth: bool = True  # finite differences make sense at these inputs
    per_edge: tuple[str, ...] = ()  # inputs (or "out") with one row per edge; the others have one row per node,
    weights: tuple[str, ...] = ()  # except these, which belong to neither
    call: Callable[[Inputs, ek.Graph, dict[str, Any]], Tensor] | None = None  # where calling the op takes more
    complete_only: bool = False  # the op knows events, not edges
    folded: tuple[str, ...] = ()  # multiplied with each other first: an infinity there may make more NaN
    kernel: bool = True  # on the CPU, or the reference runs there

    def __str__(self) -> str:
        return f"{self.op}-{self.id}-{self.graph_name}"

    def graph(self) -> ek.Graph:
        return GRAPHS[self.graph_name]().to(DEVICE)

    def inputs(self, dtype: torch.dtype = torch.float64, graph: ek.Graph | None = None, seed: int = 0) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        made = self.make(generator, self.graph() if graph is None else graph)
        return {name: t.to(DEVICE, dtype) for name, t in made.items()}

    def run(self, inputs: Inputs, graph: ek.Graph) -> Tensor:
        if self.call is not None:
            return self.call(inputs, graph, self.options)
        return getattr(ek, self.op)(**inputs, graph=graph, **self.options)

    def uses(self, activation: str) -> bool:
        layers = self.options.get("layers", ())
        return activation in (self.options.get("activation"), *(layer.activation for layer in layers))

    @property
    def measures(self) -> bool:
        """Whether statistics of a batch norm are measured, which takes more than one edge or row."""
        layers = self.options.get("layers", ())
        return self.options.get("of_batch", False) or any("batch" in layer.norm for layer in layers)

    @property
    def metric(self) -> str:
        geometry = self.options.get("geometry")
        return self.options.get("metric", "minkowski") if geometry is None else geometry.metric


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def four_vectors(n: int, generator: torch.Generator, dim: int = 4) -> Tensor:
    """Massive particles of a few GeV, energy first."""
    p = normal(n, dim - 1, generator=generator)
    return torch.cat([(1 + (p * p).sum(-1, keepdim=True)).sqrt(), p], dim=-1)


def _invariants() -> list[Case]:
    def make(dim: int) -> Callable[[torch.Generator, ek.Graph], Inputs]:
        return lambda generator, graph: {"x": four_vectors(graph.num_nodes, generator, dim)}

    common: dict[str, Any] = {"op": "pairwise_invariants", "vectors": ("x",), "per_edge": ("out",)}
    cases = [Case(id="minkowski", graph_name=name, make=make(4), **common) for name in GRAPHS]
    for name in TYPICAL:
        cases += [
            Case(id="no_psi", graph_name=name, make=make(4), options={"psi": False}, **common),
            Case(id="euclidean_3d", graph_name=name, make=make(3), options={"metric": "euclidean"}, **common),
            Case(id="euclidean_2d", graph_name=name, make=make(2), options={"metric": "euclidean"}, **common),
        ]
    for dim in (5, 8):
        cases.append(Case(id=f"minkowski_{dim}d", graph_name="sparse", make=make(dim), **common))
    signature = {"metric": [1.0, 1.0, -1.0, -1.0, 0.5]}
    cases.append(
        Case(id="signature", graph_name="complete", make=make(5), options=signature, equivariant=False, **common)
    )
    return cases


def _products() -> list[Case]:
    def case(id: str, name: str, dim: int, **options: Any) -> Case:
        return Case(
            "rank2_products",
            id,
            name,
            lambda generator, graph: {"x": four_vectors(graph.num_nodes, generator, dim)},
            options,
            ("x",),
            call=lambda inputs, graph, options: ek.rank2_products(inputs["x"], graph, **options),
            complete_only=True,
        )

    names = ("complete", "self_loops", "large_event", "no_nodes", "no_events", "one_particle")
    return [case("minkowski", name, 4) for name in names] + [case("euclidean", "complete", 3, metric="euclidean")]


def _coordinates() -> list[Case]:
    def make(dim: int, column: bool = False) -> Callable[[torch.Generator, ek.Graph], Inputs]:
        def inputs(generator: torch.Generator, graph: ek.Graph) -> Inputs:
            weight = normal(graph.num_edges, *([1] if column else []), generator=generator)
            return {"x": four_vectors(graph.num_nodes, generator, dim), "weight": weight}

        return inputs

    free: dict[str, Any] = {"clamp": None}
    common: dict[str, Any] = {"op": "coordinate_update", "vectors": ("x", "out"), "per_edge": ("weight",)}
    cases = [Case(id="mean", graph_name=name, make=make(4), options=free, **common) for name in GRAPHS]
    for name in (*TYPICAL, *LARGE):
        # a clamp of components is not equivariant
        bound = {"c": -0.3, "clamp": 0.7}
        cases += [
            Case(id="sum", graph_name=name, make=make(4), options={**free, "c": 0.1, "reduce": "sum"}, **common),
            Case(id="sender", graph_name=name, make=make(4), options={**free, "direction": "sender"}, **common),
            Case(id="clamp", graph_name=name, make=make(4), options=bound, equivariant=False, **common),
        ]
    for name in TYPICAL:
        bound = {"clamp": 0.7, "direction": "sender", "reduce": "sum"}
        cases += [
            Case(id="column", graph_name=name, make=make(4, column=True), options=free, **common),
            Case(id="clamp_sender_3d", graph_name=name, make=make(3), options=bound, equivariant=False, **common),
            Case(id="mean_2d", graph_name=name, make=make(2), options=free, **common),
        ]
    for dim in (5, 8):
        bound = {"clamp": 0.7}
        case = Case(id=f"clamp_{dim}d", graph_name="sparse", make=make(dim), options=bound, equivariant=False, **common)
        cases.append(case)
    return cases


def _segment() -> list[Case]:
    def edges(*channels: int) -> Callable[[torch.Generator, ek.Graph], Inputs]:
        return lambda generator, graph: {"values": normal(graph.num_edges, *channels, generator=generator)}

    def nodes(channels: int, weight: tuple[int, ...] | None = None) -> Callable[[torch.Generator, ek.Graph], Inputs]:
        def inputs(generator: torch.Generator, graph: ek.Graph) -> Inputs:
            made = {"node_values": normal(graph.num_nodes, channels, generator=generator)}
            if weight is not None:
                made["weight"] = normal(graph.num_edges, *weight, generator=generator)
            return made

        return inputs

    reduce: dict[str, Any] = {"op": "segment_reduce", "per_edge": ("values",)}
    gather: dict[str, Any] = {"op": "gather_segment_reduce", "per_edge": ("weight",)}
    softmax: dict[str, Any] = {"op": "segment_softmax", "per_edge": ("values", "out")}
    cases = []
    for name in GRAPHS:
        cases += [
            Case(id="sum", graph_name=name, make=edges(3), **reduce),
            Case(id="weighted", graph_name=name, make=nodes(5, ()), **gather),
            Case(id="softmax", graph_name=name, make=edges(3), **softmax),
        ]
    for name in (*TYPICAL, *LARGE, "no_edges", "one_particle"):
        cases += [Case(id=r, graph_name=name, make=edges(3), options={"reduce": r}, **reduce) for r in ("mean", "max")]
        cases += [
            Case(id=r, graph_name=name, make=nodes(3, (3,)), options={"reduce": r}, **gather)
            for r in ("mean", "max", "min")
        ]
    for name in (*TYPICAL, "random_sparse"):
        cases += [
            Case(id="wide_min", graph_name=name, make=edges(37), options={"reduce": "min"}, **reduce),
            Case(id="one_column", graph_name=name, make=edges(), **reduce),
            Case(id="plain", graph_name=name, make=nodes(19), **gather),
            Case(id="plain_max", graph_name=name, make=nodes(8), options={"reduce": "max"}, **gather),
            Case(id="column", graph_name=name, make=nodes(3, (1,)), **gather),
            Case(id="channels", graph_name=name, make=nodes(17, (17,)), **gather),
            Case(id="wide", graph_name=name, make=edges(21), **softmax),
            Case(id="one_column", graph_name=name, make=edges(), **softmax),
        ]
    return cases


def _encode() -> list[Case]:
    def make(channels: int) -> Callable[[torch.Generator, ek.Graph], Inputs]:
        def inputs(generator: torch.Generator, graph: ek.Graph) -> Inputs:
            # invariants of both signs over many orders of magnitude
            z = normal(graph.num_nodes, channels, generator=generator)
            return {
                "z": z * (3 * normal(graph.num_nodes, channels, generator=generator)).exp(),
                "t": torch.linspace(0.003, 1.2, channels).double(),
            }

        return inputs

    def call(inputs: Inputs, graph: ek.Graph, options: dict[str, Any]) -> Tensor:
        return ek.encode_invariants(**inputs, **options)

    return [
        Case("encode_invariants", id, name, make(channels), options, call=call, weights=("t",))
        for name in ("complete", "large_event", "no_nodes", "one_particle")
        for id, channels, options in (("odd", 3, {}), ("wide", 19, {}), ("angles", 18, {"angles": True}))
    ]


CASES: list[Case] = [
    *_invariants(),
    *_products(),
    *_coordinates(),
    *_segment(),
    *mlp_cases.edge_cases(Case, tuple(GRAPHS), SMALL),
    *mlp_cases.row_cases(Case),
    *_encode(),
    *pair_cases.pair_cases(Case),
]
OPS = sorted({case.op for case in CASES})


def select(*graph_names: str, **conditions: Any) -> list[Case]:
    """Cases on some graphs (all when none is named) whose attributes have the given values."""
    return [
        case
        for case in CASES
        if (not graph_names or case.graph_name in graph_names)
        and all(getattr(case, key) == value for key, value in conditions.items())
    ]
