"""What message_passing means: the published formula, edge by edge."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...graph import Graph
from ..coordinates.reference import clamped
from ..invariants.reference import pairwise_invariants
from .direction import DIFFERENCE, NORMED_HELD, SENDER
from .edge_mlp import PARTS
from .options import GIVEN, LAYER, MEASURED, EdgeOptions, LayerOptions

OF_LAYER = 6  # tensors: weight, bias, and those of the norm: weight, bias, mean, variance
FIRST = 5  # tensors before them: h, x, edge_attr, the gate's weight and bias


def activate(z: Tensor, name: str, slope: float) -> Tensor:
    if name == "identity":
        return z
    if name == "leaky_relu":
        return F.leaky_relu(z, slope)
    if name == "gelu_tanh":
        return F.gelu(z, approximate="tanh")
    return getattr(torch if name in ("tanh", "sigmoid") else F, name)(z)


def aggregate(values: Tensor, graph: Graph, mean: bool) -> Tensor:
    total = values.new_zeros(graph.num_nodes, values.shape[1]).index_add(0, graph.receiver, values)
    return total / graph.in_degree().clamp(min=1)[:, None] if mean else total


def displacement(x: Tensor, graph: Graph, options: EdgeOptions) -> Tensor:
    """The vector d_ij that the head's output multiplies, [E, D]."""
    x_i, x_j = x[graph.receiver], x[graph.sender]
    if options.direction == SENDER:
        return x_j
    d = x_i - x_j
    if options.direction == DIFFERENCE:
        return d
    eta = torch.tensor(options.metric, dtype=x.dtype, device=x.device)
    square = (d * d * eta).sum(-1, keepdim=True) + options.norm_inside
    if options.direction == NORMED_HELD:
        return d / (square.sqrt().detach() + options.norm_offset)
    # Where it is 0 the root has no derivative; it is taken as 0.
    norm = torch.where(square == 0, 0.0, torch.where(square == 0, 1, square).sqrt())
    return d / (norm + options.norm_offset)


def linear(m: Tensor, weight: Tensor, bias: Tensor | None, bfloat16: bool) -> Tensor:
    """A layer; its operands are rounded, its sums are not."""
    if bfloat16:
        m, weight = (v.to(torch.bfloat16).to(v.dtype) for v in (m, weight))
    return F.linear(m, weight, bias)


def statistics(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over rows, float64; 0 over none."""
    z = z.double()
    count = max(z.shape[0], 1)
    mean = z.sum(0) / count
    return mean, (z - mean).square().sum(0) / count


def layer(h: Tensor, tensors: list[Tensor | None], options: LayerOptions, bfloat16: bool = False) -> tuple[Tensor, ...]:
    """(output, mean, variance): the last two of a measured batch norm, else empty."""
    weight, bias, norm_weight, norm_bias, mean, variance = tensors
    assert weight is not None
    z = linear(h, weight, bias, bfloat16)
    nothing = z.new_empty(0, dtype=torch.float64)
    measured = nothing, nothing
    if options.norm == LAYER:
        z = F.layer_norm(z, (z.shape[1],), norm_weight, norm_bias, options.eps)
    elif options.norm in (MEASURED, GIVEN):
        if options.norm == MEASURED:
            measured = mean, variance = statistics(z)
        assert mean is not None
        assert variance is not None
        scale = (variance.double() + options.eps).rsqrt()
        scale = scale if norm_weight is None else scale * norm_weight
        shift = -mean * scale if norm_bias is None else norm_bias - mean * scale
        z = torch.addcmul(shift.to(z.dtype), z, scale.to(z.dtype))
    return activate(z, options.activation, options.slope), *measured


def message_passing(tensors: list[Tensor | None], graph: Graph | None, options: EdgeOptions) -> list[Tensor]:
    """[messages, coordinates, edges, statistics], empty where not asked for."""
    assert graph is not None
    if not options.bfloat16:
        return _evaluate(tensors, graph, options)
    exact = _evaluate(tensors, graph, options._replace(bfloat16=False))
    with torch.no_grad():
        rounded = _evaluate(tensors, graph, options)
    return [_with_derivative_of(e, r) for e, r in zip(exact, rounded, strict=True)]


def _with_derivative_of(exact: Tensor, rounded: Tensor) -> Tensor:
    return rounded.detach() + (exact - exact.detach()).nan_to_num(0.0)  # inf - inf is no reason for a NaN


def _evaluate(tensors: list[Tensor | None], graph: Graph, options: EdgeOptions) -> list[Tensor]:
    h, x, edge_attr, gate_weight, gate_bias = tensors[:FIRST]
    of_layer = [tensors[k : k + OF_LAYER] for k in range(FIRST, len(tensors), OF_LAYER)]
    like = of_layer[0][0]
    assert like is not None
    inputs = []
    for part in (PARTS[k] for k in options.order):
        if part in ("receiver", "sender"):
            assert h is not None
            inputs.append(h[getattr(graph, part)])
        elif part == "edge_attr":
            assert edge_attr is not None
            inputs.append(edge_attr)
        elif options.columns():
            assert x is not None
            s = pairwise_invariants(x, graph, list(options.metric), options.psi)
            inputs.append(s[:, options.columns()].to(like.dtype))
    m = torch.cat(inputs, dim=1) if inputs else like.new_empty(graph.num_edges, 0)
    messages = coordinates = edges = like.new_empty(0)
    measured = []
    for k, layer_options in enumerate(options.layers):
        # the inputs of the first layer are not rounded
        m, mean, variance = layer(m, of_layer[k], layer_options, options.bfloat16 and 0 < k < _last_product(options))
        if layer_options.norm == MEASURED:
            measured.append(torch.stack([mean, variance]))
        if k == options.messages_at and gate_weight is not None:
            m = m * torch.sigmoid(F.linear(m, gate_weight, gate_bias))
        if k == options.edges_at:
            edges = m
        if k == options.messages_at and options.messages:
            messages = aggregate(m, graph, options.messages == 2)
    if options.coordinates:
        assert x is not None
        step = m.to(x.dtype) * displacement(x, graph, options)
        coordinates = aggregate(clamped(step, options.clamp), graph, options.coordinates == 2)
    return [messages, coordinates, edges, torch.cat(measured, dim=1) if measured else like.new_empty(0)]


def _last_product(options: EdgeOptions) -> int:
    """The layer whose weight, of one output, is not rounded: a head's last."""
    return len(options.layers) - (len(options.layers) > options.messages_at + 1)
