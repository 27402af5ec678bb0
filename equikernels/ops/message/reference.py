"""What message_passing means: the published formula, edge by edge."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ...graph import Graph
from ..coordinates.reference import clamped
from ..invariants.reference import pairwise_invariants
from ..message_passing.direction import DIFFERENCE, NORMED_HELD, SENDER
from .spec import MessageOptions, MessageTensors


def activate(z: Tensor, name: str, slope: float) -> Tensor:
    if name == "identity":
        return z
    if name == "leaky_relu":
        return torch.nn.functional.leaky_relu(z, slope)
    if name == "gelu_tanh":
        return torch.nn.functional.gelu(z, approximate="tanh")
    return getattr(torch if name in ("tanh", "sigmoid") else torch.nn.functional, name)(z)


def aggregate(values: Tensor, graph: Graph, mean: bool) -> Tensor:
    total = values.new_zeros(graph.num_nodes, values.shape[1]).index_add(0, graph.receiver, values)
    return total / graph.in_degree().clamp(min=1)[:, None] if mean else total


class DirectionOptions(Protocol):
    """Of message_passing, or of edge_network."""

    @property
    def metric(self) -> list[float]: ...
    @property
    def direction(self) -> int: ...
    @property
    def norm_inside(self) -> float: ...
    @property
    def norm_offset(self) -> float: ...


def displacement(x: Tensor, graph: Graph, options: DirectionOptions) -> Tensor:
    """What the coordinate update's weight multiplies, [E, D]."""
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
    """A layer of the edge network; its operands are rounded, its sums are not."""
    if bfloat16:
        m, weight = (v.to(torch.bfloat16).to(v.dtype) for v in (m, weight))
    return torch.nn.functional.linear(m, weight, bias)


def message_passing(
    tensors: MessageTensors, graph: Graph, options: MessageOptions
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Returns messages [n, H'], coordinates [n, D] or None, and the messages of every edge [E, H']."""
    if not options.bfloat16:
        return _evaluate(tensors, graph, options)
    exact = _evaluate(tensors, graph, options._replace(bfloat16=False))
    with torch.no_grad():
        rounded = _evaluate(tensors, graph, options)
    messages, coordinates, edges = (
        e if e is None or r is None else _with_derivative_of(e, r) for e, r in zip(exact, rounded, strict=True)
    )
    assert messages is not None
    assert edges is not None
    return messages, coordinates, edges


def _with_derivative_of(exact: Tensor, rounded: Tensor) -> Tensor:
    return rounded.detach() + (exact - exact.detach()).nan_to_num(0.0)  # inf - inf is no reason for a NaN


def _evaluate(t: MessageTensors, graph: Graph, options: MessageOptions) -> tuple[Tensor, Tensor | None, Tensor]:
    z = t.receiver[graph.receiver] + t.sender[graph.sender]
    if t.invariant_weight is not None:
        assert t.x is not None
        s = pairwise_invariants(t.x, graph, options.metric, options.psi)
        columns = [k for k, wanted in enumerate((options.interval, options.product)) if wanted]
        z = z + s[:, columns].to(z.dtype) @ t.invariant_weight.T
    if t.edge_attr is not None and t.edge_weight is not None:
        z = z + t.edge_attr @ t.edge_weight.T
    m = activate(z, options.activation, options.slope)
    for weight, bias in ((t.weight2, t.bias2), (t.weight3, t.bias3)):
        if weight is not None:
            m = activate(linear(m, weight, bias, options.bfloat16), options.activation, options.slope)
    if t.gate_weight is not None:
        gate = m @ t.gate_weight
        m = m * torch.sigmoid(gate if t.gate_bias is None else gate + t.gate_bias)[:, None]
    coordinates = None
    if t.head_weight is not None and t.head_out is not None:
        assert t.x is not None
        hidden = linear(m, t.head_weight, t.head_bias, options.bfloat16)
        weight = activate(hidden, options.activation, options.slope) @ t.head_out
        if options.head_tanh:
            weight = torch.tanh(weight)
        step = weight.to(t.x.dtype)[:, None] * displacement(t.x, graph, options)
        coordinates = aggregate(clamped(step, options.clamp), graph, options.mean_coordinates)
    return aggregate(m, graph, options.mean_messages), coordinates, m
