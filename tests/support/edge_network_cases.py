"""Sample inputs of edge_network, for the list in cases.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels.ops.edge_network.spec import ACTIVATIONS, NORM

Inputs = dict[str, Tensor]
# What the coordinate update multiplies: name, direction, further options.
DIRECTIONS: tuple[tuple[str, str | ek.Normed, dict[str, Any]], ...] = (
    ("sender", "sender", {"clamp": 0.5}),
    ("norm_plus_one", "norm_plus_one", {}),
    ("normed", ek.Normed(0.3, 0.5), {"invariants": "interval"}),
    ("normed_held", ek.Normed(inside=0.1, held=True), {}),
)
TYPICAL = ("complete", "sparse")
LARGE = ("large_event", "random_sparse")


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def network_inputs(
    widths: tuple[int, ...],
    attr: int = 0,
    invariants: int = 0,
    ends: tuple[str, ...] = ("receiver", "sender"),
    points: bool = False,
    read: int = 0,
    of_nodes: bool = False,
) -> Callable[[torch.Generator, ek.Graph], Inputs]:
    """``read``: features of an end that the first layer reads; 0: tables are added to what it gives. ``of_nodes``:
    edge_attr has a row for each node, as where there is no graph."""

    def make(generator: torch.Generator, graph: ek.Graph) -> Inputs:
        inputs = {end: normal(graph.num_nodes, read or widths[0], generator=generator) for end in ends}
        if points or invariants:
            inputs["x"] = normal(graph.num_nodes, 3, generator=generator)
        if attr:
            inputs["edge_attr"] = normal(graph.num_nodes if of_nodes else graph.num_edges, attr, generator=generator)
        parts, width = [], attr + invariants + read * len(ends)
        for out in widths:
            parts += [normal(out * width, generator=generator) / max(width, 1) ** 0.5, normal(out, generator=generator)]
            width = out
        return {**inputs, "weights": torch.cat(parts)}

    return make


def call(inputs: Inputs, graph: ek.Graph, options: dict[str, Any]) -> Tensor:
    """``wanted`` of the outputs; "all" of them, with a row for each node."""
    given = dict(inputs)
    options = dict(options)
    wanted, rows = options.pop("wanted"), options.pop("rows", False)
    steps = tuple(ACTIVATIONS.index(name) + NORM * norm for name, norm in options.pop("steps"))
    columns = {"none": 0, "both": 2}.get(options.get("invariants", "none"), 1)
    inputs = ("receiver", "sender", "edge_attr") if options.get("ends") == "inputs" else ("edge_attr",)
    columns += sum(given[name].shape[1] for name in inputs if name in given)
    network = ek.EdgeNetwork(given.pop("weights"), columns, options.pop("widths"), steps)
    out = ek.edge_network(network, None if rows else graph, **given, **options)
    if wanted != "all":
        return getattr(out, wanted)
    assert out.edges is not None
    assert out.messages is not None
    assert out.coordinates is not None
    received = out.edges.new_zeros(graph.num_nodes, out.edges.shape[1]).index_add(0, graph.receiver, out.edges)
    return torch.cat([out.messages, out.coordinates, received], dim=1)


def cases(case: Callable[..., Any], graphs: tuple[str, ...]) -> list[Any]:
    """``case`` is the class of cases."""
    silu, plain, sigmoid = ("silu", True), ("identity", False), ("sigmoid", True)

    def make(id: str, graph: str, widths: tuple[int, ...], steps: Any, options: dict[str, Any], **rest: Any) -> Any:
        changes = {name: rest.pop(name) for name in ("per_edge", "vectors", "equivariant", "smooth") if name in rest}
        options = {"wanted": "all", "widths": widths, "steps": steps, "metric": "euclidean", **options}
        fields: dict[str, Any] = {"per_edge": ("edge_attr",), "weights": ("weights",), **changes}
        inputs = network_inputs(widths, **rest)
        return case(op="edge_network", id=id, graph_name=graph, make=inputs, options=options, call=call, **fields)

    def euclid(id: str, graph: str, h: int, **options: Any) -> Any:
        steps = (silu, plain, silu, sigmoid, silu, plain)
        rest: dict[str, Any] = {"vectors": ("x",), "equivariant": False, "read": options.pop("read", 0)}
        where = {"invariants": "both", "edges_at": 1, "messages_at": 3, "coordinates": True, **options}
        if rest["read"]:
            where["ends"] = "inputs"
        return make(id, graph, (h, h, h, h, h, 1), steps, where, attr=h, invariants=2, **rest)

    listed = []
    for name in graphs:
        listed += [
            euclid("euclidnet", name, 3),
            euclid("reading", name, 3, read=2),
            make(
                "interaction",
                name,
                (5, 4),
                (("relu", False), plain),
                {"edges_at": 1, "wanted": "edges", "ends": "inputs"},
                attr=4,
                read=3,
                per_edge=("edge_attr", "out"),
            ),
        ]
    for name in (*TYPICAL, *LARGE):
        listed += [
            euclid("clamped", name, 5, clamp=0.4) if name != "large_event" else euclid("wide", name, 40),
            make(
                "messages",
                name,
                (17, 33, 9),
                (("gelu", False), ("tanh", True), ("leaky_relu", True)),
                {"messages_at": 2, "wanted": "messages", "negative_slope": 0.2, "invariants": "product"},
                invariants=1,
                ends=("sender",),
                vectors=("x",),
            ),
            make(
                "coordinates",
                name,
                (8, 1),
                (silu, ("tanh", False)),
                {"coordinates": True, "wanted": "coordinates", "metric": "euclidean"},
                ends=("receiver",),
                points=True,
                attr=2,
                vectors=("x", "out"),
            ),
            *(
                make(
                    f"direction {id}",
                    name,
                    (5, 1),
                    (silu, ("tanh", False)),
                    {"coordinates": True, "wanted": "coordinates", "direction": direction, **more},
                    points=True,
                    attr=2,
                    vectors=("x", "out"),
                    equivariant="clamp" not in more,
                    smooth=id in ("normed", "sender"),
                    invariants=int("invariants" in more),
                )
                for id, direction, more in DIRECTIONS
            ),
            make(
                "activations",
                name,
                (9, 17, 5, 8, 33, 4),
                (
                    *((act, False) for act in ("elu", "softplus", "mish")),
                    ("hardswish", True),
                    ("gelu_tanh", True),
                    silu,
                ),
                {"messages_at": 4, "edges_at": 5, "wanted": "messages"},
                attr=2,
            ),
            make(
                "rows",
                name,
                (6, 2),
                (silu, ("sigmoid", False)),
                {"edges_at": 1, "wanted": "edges", "rows": True},
                attr=7,
                ends=(),
                per_edge=("edge_attr", "out"),
            ),
            make(
                "rows of two tables",
                name,
                (6, 2),
                (silu, plain),
                {"edges_at": 1, "wanted": "edges", "rows": True, "ends": "inputs"},
                attr=7,
                ends=("receiver",),
                read=3,
                of_nodes=True,
                per_edge=(),
            ),
            make(
                "tables",
                name,
                (20, 3),
                (("relu", False), plain),
                {"edges_at": 1, "wanted": "edges"},
                attr=2,
                ends=("sender",),
                per_edge=("edge_attr", "out"),
            ),
            make(
                "reading wide",
                name,
                (9, 2),
                (silu, plain),
                {"messages_at": 1, "wanted": "messages", "ends": "inputs", "invariants": "interval"},
                attr=5,
                invariants=1,
                read=21,
                vectors=("x",),
            ),
        ]
    return listed
