"""Layers with one summed aggregation as one op each: linear_2to2 sums over pairs, maps particles and events and mixes;
linear_2to0 sums over pairs and maps events; linear_1to2, on CPUs, maps particles and events and broadcasts."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...backend import COMPOSED, KERNELS, use_shortcut
from ...graph import Graph
from ..fused_op import Call, FusedOp, Spec, Tensors
from .aggregation import KINDS, Aggregates, Aggregation, PairBatch

if TYPE_CHECKING:
    from .linear import Layer


class LayerOptions(NamedTuple):
    """Everything beside tensors, in the order of csrc's LayerInputs."""

    num_nodes: int
    num_events: int
    mean: bool
    places: list[int]
    nbar: float
    inner_slope: float
    slope: float

    def encoded(self) -> tuple[list[int], list[float]]:
        return [self.num_nodes, self.num_events, int(self.mean), *self.places], [
            self.nbar,
            self.inner_slope,
            self.slope,
        ]

    @classmethod
    def decoded(cls, ints: list[int], numbers: list[float]) -> LayerOptions:
        return cls(ints[0], ints[1], bool(ints[2]), ints[3:], *numbers)

    def nodes(self, tensors: Tensors) -> int:
        return self.num_nodes


def fused(layer: Layer) -> Tensor | None:
    """The layer by its op, or None where it has none, on these tensors or with these options."""
    of, op = layer.of, layer.kind.op
    how, nobj = of.how, of.batch.nobj
    if op not in FUSED or len(how.config) != 1 or not of.sums_alone or of.batch.weight is not None:
        return None
    if op != "linear_2to0" and layer.inner != 1:
        return None
    if nobj is not None:
        if nobj.requires_grad:
            return None
        nobj = nobj.to(layer.source.dtype)
    coefs = layer.coefs if len(layer.coefs) > 1 else (*layer.coefs, None, None, None)
    alpha = how.alphas[0] if how.alphas else None
    tensors: Tensors = [layer.source, layer.affine, *coefs, layer.bias, layer.diag_bias, alpha]
    if not use_shortcut(op, *[t for t in tensors if t is not None]):
        return None
    places = [] if how.maps is None else [k - 1 for k in how.maps]
    sizes = of.pairs.num_nodes, of.pairs._indices.shape[0] // 2 - 1
    options = LayerOptions(*sizes, how.config in "mM", places, how.nbar, layer.inner, layer.slope)
    return FUSED[op]([*tensors, nobj], of.pairs, Call(options, None, *options.encoded(), True), True)[0]


def _reference(ranks: str, tensors: Tensors, pairs: Graph | None, options: LayerOptions) -> list[Tensor]:
    from .linear import Layer

    source, affine, *coefs, bias, diag_bias, alpha, nobj = tensors
    assert source is not None
    assert pairs is not None
    alphas = () if alpha is None else (alpha,)
    letter = "m" if options.mean else "s"
    how = Aggregation(
        letter.upper() if alphas else letter, options.nbar, alphas, [k + 1 for k in options.places] or None
    )
    of = Aggregates(pairs, PairBatch(pairs, nobj=nobj), how, source)
    factors = tuple(t for t in coefs if t is not None)
    slopes = options.slope, options.inner_slope
    layer = Layer(KINDS[ranks], source, affine, factors, bias, diag_bias, of, *slopes)
    return [layer.composed(), source.new_empty(0)]


def _shapes(ranks: str, tensors: Tensors, num_pairs: Any, options: LayerOptions) -> list[Tensor]:
    T, _, coefs, coefs01 = tensors[:4]
    assert T is not None
    assert coefs is not None
    width, events = coefs.shape[1] if coefs01 is None else coefs01.shape[0], options.num_events
    if ranks == "1to2":
        return [T.new_empty(num_pairs, width), T.new_empty(0)]
    if ranks == "2to2":
        return [T.new_empty(T.shape[0], width), T.new_empty(options.num_nodes, 3, T.shape[1])]
    wide = torch.promote_types(T.dtype, torch.float32)  # 16 bits are too few for the sum of an event's pairs
    return [T.new_empty(events, width), T.new_empty(2, events, T.shape[1], dtype=wide)]


FUSED = {
    KINDS[ranks].op: FusedOp(
        Spec(
            KINDS[ranks].op,
            LayerOptions,
            partial(_reference, ranks),
            partial(_shapes, ranks),
            differentiable=1,
            saved=(0, 1),
        )
    )
    for ranks in ("2to2", "2to0", "1to2")
}
for _op in FUSED:
    KERNELS[_op] = ("cpu",) if _op == "linear_1to2" else ("cpu", "cuda")
    COMPOSED.add(_op)
