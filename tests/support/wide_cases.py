"""Cases of message_passing at other widths than those in cases.py, which every form of the kernels needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .cases import Case, select
from .mlp_cases import FORMULA, WEIGHTS, Spec, call, edge_inputs, euclidnet, normal, places

WIDE = (
    Spec(200, "silu", "batch affine", bias=False),
    Spec(96, "gelu", "layer affine"),
    Spec(512, "relu", "batch affine"),
    Spec(72, "tanh", "given affine"),
    Spec(1, bias=False),
)


def case_of(id: str) -> Case:
    return next(case for case in select(op="message_passing") if case.id == id)


def everything(graph: str = "random_sparse") -> Case:
    """Wide layers, every kind of norm, a gate, a head, edge attributes and every output."""
    order = (*FORMULA, "edge_attr")
    options: dict[str, Any] = {"layers": WIDE, "depth": 3, "order": order, "edges": 1, "coordinates": "mean"}
    make = edge_inputs(*WIDE, order=order, h=40, attr=3, gate=512)
    return Case("message_passing", "everything", graph, make, options, call=call, weights=WEIGHTS)


def lorentz_case(width: int, graph: str, activation: str = "relu") -> Case:
    """LorentzNet's block."""
    case = case_of("wide")
    first, *rest, last = case.options["layers"]
    layers = *(layer._replace(width=width, activation=activation) for layer in (first, *rest)), last
    make = edge_inputs(*layers, h=16, gate=width)
    return replace(case, graph_name=graph, options={**case.options, "layers": layers}, make=make)


def euclid_case(h: int) -> Case:
    """EuclidNet's block: three channels, as in the list, can be so nearly equal that LayerNorm loses digits."""
    case, layers = case_of("euclidnet"), euclidnet(h)
    make = edge_inputs(*layers, points=places, h=h, order=case.options["order"])
    return replace(case, options={**case.options, "layers": layers}, make=make)


def deep_case() -> Case:
    """More weights than fit into a block's shared memory."""
    layers = *(Spec(64, "silu", "layer") for _ in range(7)), Spec(5)
    options = {"layers": layers}
    return replace(case_of("layer norms"), id="deep", graph_name="complete", options=options, make=edge_inputs(*layers))


def batch_norm_case(dim: int) -> Case:
    """A batch norm behind the first layer, for which the moments of invariants in ``dim`` dimensions are computed."""
    case = case_of("normed")
    layers = case.options["layers"]
    make = edge_inputs(*layers, points=lambda n, generator: normal(n, dim, generator=generator), columns=1)
    return replace(case, id=f"batch norm {dim}", make=make)
