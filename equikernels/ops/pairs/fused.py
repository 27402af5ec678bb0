"""Layers with one summed aggregation as one op each: linear_2to2 sums over pairs, maps particles and events and mixes;
linear_2to0 sums over pairs and maps events."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ... import _native
from ...backend import COMPOSED, KERNELS, use_shortcut
from ..autograd import call, double_backward, register_autograd
from ..common import graph_arguments, graph_from
from .aggregation import KINDS, Aggregates, Aggregation, PairBatch
from .reference import through

if TYPE_CHECKING:
    from .linear import Layer

RANKS = ("2to2", "2to0")
for _ranks in RANKS:
    KERNELS[KINDS[_ranks].op] = ("cpu",)
    COMPOSED.add(KINDS[_ranks].op)


class Inputs(NamedTuple):
    """Of both ops, in the order of their schema."""

    tensor: Tensor
    affine: Tensor | None
    coefs: Tensor
    coefs01: Tensor | None
    coefs10: Tensor | None
    coefs11: Tensor | None
    bias: Tensor | None
    diag_bias: Tensor | None
    alpha: Tensor | None
    nobj: Tensor | None
    graph: Tensor
    num_edges: int
    kind: int
    num_nodes: int
    places: list[int]
    mean: bool
    nbar: float
    inner_slope: float
    slope: float


DIFFERENTIABLE = ("tensor", "affine", "coefs", "coefs01", "coefs10", "coefs11", "bias", "diag_bias", "alpha")
TENSORS = (*DIFFERENTIABLE, "nobj", "graph")
NO_TENSORS: dict[str, Any] = dict.fromkeys(TENSORS)
NOT_DIFFERENTIABLE = (None,) * (len(Inputs._fields) - len(DIFFERENTIABLE))


def fused(layer: Layer) -> Tensor | None:
    """The layer by its op, or None where it has none, on these tensors or with these options."""
    of, kind = layer.of, layer.kind
    how, nobj = of.how, of.batch.nobj
    if len(how.config) != 1 or not of.sums_alone or of.batch.weight is not None:
        return None
    if kind.op == "linear_2to2":
        if layer.inner != 1:
            return None
    elif kind.op != "linear_2to0":
        return None
    if nobj is not None:
        if nobj.requires_grad:
            return None
        nobj = nobj.to(layer.source.dtype)
    alpha = how.alphas[0] if how.alphas else None
    coefs, *factors = layer.coefs
    coefs01, coefs10, coefs11 = factors or (None, None, None)
    tensors = layer.source, layer.affine, coefs, coefs01, coefs10, coefs11, layer.bias, layer.diag_bias, alpha
    if not use_shortcut(kind.op, *[t for t in tensors if t is not None]):
        return None
    inputs = Inputs(
        *tensors,
        nobj,
        *graph_arguments(of.pairs),
        num_nodes=of.pairs.num_nodes,
        places=[] if how.maps is None else [k - 1 for k in how.maps],
        mean=how.config in "mM",
        nbar=how.nbar,
        inner_slope=layer.inner,
        slope=layer.slope,
    )
    out: Tensor = call(kind.op, *inputs)[0]
    return out


def _layer_of(ranks: str, given: Inputs) -> Layer:
    """The layer that an op was called with, up to its activation."""
    from .linear import Layer

    kind = KINDS[ranks]
    config = "m" if given.mean else "s"
    alphas = () if given.alpha is None else (given.alpha,)
    places = [k + 1 for k in given.places] or None
    how = Aggregation(config.upper() if alphas else config, given.nbar, alphas, places)
    pairs = graph_from(given.graph, given.num_edges, given.kind, given.num_nodes)
    of = Aggregates(pairs, PairBatch(pairs, nobj=given.nobj), how, given.tensor)
    factors = given.coefs, given.coefs01, given.coefs10, given.coefs11
    coefs = tuple(t for t in factors if t is not None)
    return Layer(kind, given.tensor, given.affine, coefs, given.bias, given.diag_bias, of, 1.0, given.inner_slope)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    given = Inputs(*inputs)
    out, aggregates = output
    ctx.mark_non_differentiable(aggregates)
    ctx.set_materialize_grads(False)
    ctx.options = given._replace(**NO_TENSORS)
    ctx.save_for_backward(None if given.slope == 1 else out, aggregates, *(getattr(given, name) for name in TENSORS))


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None, *, op: str) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * len(Inputs._fields)
    activated, aggregates, *tensors = ctx.saved_tensors
    given = ctx.options._replace(**dict(zip(TENSORS, tensors, strict=True)))
    needs = ctx.needs_input_grad
    grads = call(f"{op}_backward", grad, activated, aggregates, *given, needs[0])
    return *(g if need else None for g, need in zip(grads, needs, strict=False)), *NOT_DIFFERENTIABLE


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, activated, _, *given, _ = inputs
    options = Inputs(*given)
    ctx.set_materialize_grads(False)
    ctx.options = options._replace(**NO_TENSORS)
    ctx.save_for_backward(grad, activated, *(getattr(options, name) for name in TENSORS))


def _backward_backward(ctx: Any, *to_grads: Tensor | None, ranks: str) -> tuple[Any, ...]:
    grad, activated, *tensors = ctx.saved_tensors
    given: Inputs = ctx.options._replace(**dict(zip(TENSORS, tensors, strict=True)))
    present = [name for name in DIFFERENTIABLE if getattr(given, name) is not None]
    primals = [getattr(given, name) for name in present]

    def function(*primals: Tensor) -> Tensor:
        replaced: dict[str, Any] = dict(zip(present, primals, strict=True))
        return _layer_of(ranks, given._replace(**replaced)).composed()

    by_name = dict(zip(DIFFERENTIABLE, to_grads, strict=True))
    flowing = [
        g if (g := by_name[name]) is not None and g.shape == p.shape else torch.zeros_like(p)
        for name, p in zip(present, primals, strict=True)
    ]
    to_grad, *to_primals = double_backward(function, primals, [through(grad, activated, given.slope)], flowing)
    found = dict(zip(present, to_primals, strict=True))
    to_layer = [found.get(name) for name in DIFFERENTIABLE]
    return through(to_grad, activated, given.slope), None, None, *to_layer, *NOT_DIFFERENTIABLE, None


def _width(given: Inputs) -> Any:
    return given.coefs.shape[1] if given.coefs01 is None else given.coefs01.shape[0]


def _fake_2to2(*inputs: Any) -> tuple[Tensor, Tensor]:
    given = Inputs(*inputs)
    T = given.tensor
    return T.new_empty(T.shape[0], _width(given)), T.new_empty(given.num_nodes, 3, T.shape[1])


def _fake_2to0(*inputs: Any) -> tuple[Tensor, Tensor]:
    given = Inputs(*inputs)
    T, events = given.tensor, given.graph.shape[0] // 2 - 1
    return T.new_empty(events, _width(given)), T.new_empty(2, events, T.shape[1])


def _fake_backward(grad: Tensor, _: Tensor | None, __: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    *inputs, want_tensor = rest
    given = Inputs(*inputs)
    likes = {name: getattr(given, name) for name in DIFFERENTIABLE}
    if not want_tensor:
        likes["tensor"] = None
    return tuple(grad.new_empty(0 if t is None else t.shape) for t in likes.values())


def _register(ranks: str, fake: Callable[..., Any]) -> None:
    op = KINDS[ranks].op
    torch.library.register_fake(f"equikernels::{op}", fake)
    torch.library.register_fake(f"equikernels::{op}_backward", _fake_backward)
    register_autograd(op, partial(_backward, op=op), _setup)
    register_autograd(f"{op}_backward", partial(_backward_backward, ranks=ranks), _setup_backward)


if _native.cpu_reason is None:
    _register("2to2", _fake_2to2)
    _register("2to0", _fake_2to0)
