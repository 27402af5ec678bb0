"""The arguments of the edge network op: a chain of layers whose weights are one vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...checks import check_integer, check_tensor, fail
from ..message.spec import ACTIVATIONS

NORM = 16  # added to an activation's number: LayerNorm comes before it
NORM_EPS = 1e-5
MOST_LAYERS, MOST_CHANNELS = 32, 512  # as kMostLayers and kMostChannels in csrc/edge_network/edge_network.h


class EdgeLayer(NamedTuple):
    """y = activation(norm(W x + b)); norm is LayerNorm without affine, eps 1e-5.

    Attributes:
        weight: W [out, in], as nn.Linear holds it.
        bias: b [out] or None.
        activation: a name, as :func:`message_passing` lists them.
        norm: normalise before the activation.
    """

    weight: Tensor
    bias: Tensor | None = None
    activation: str = "identity"
    norm: bool = False


class EdgeNetwork(NamedTuple):
    """A chain of layers. Made once, it serves any number of calls: shared weights then have one gradient vector.

    Attributes:
        weights: all weights and biases, layer by layer, [P].
        inputs: columns of the first layer's weight.
        widths: outputs of each layer.
        steps: what follows each layer: its activation's number, plus NORM with LayerNorm.
    """

    weights: Tensor
    inputs: int
    widths: tuple[int, ...]
    steps: tuple[int, ...]

    @classmethod
    def of(cls, layers: Sequence[EdgeLayer]) -> EdgeNetwork:
        """Joins layers.

        Raises:
            ValueError, TypeError: layers that do not fit each other; the message names the layer.
        """
        op = "EdgeNetwork"
        if not 1 <= len(layers) <= MOST_LAYERS:
            fail(op, "layers", f"1 to {MOST_LAYERS}", len(layers))
        first = layers[0].weight
        width: int | str = "in"
        parts = []
        for k, layer in enumerate(layers):
            check_tensor(op, f"layers[{k}] weight", layer.weight, ["out", width], like=first)
            if layer.activation not in ACTIVATIONS:
                fail(op, f"layers[{k}] activation", "one of " + ", ".join(ACTIVATIONS), repr(layer.activation))
            width = layer.weight.shape[0]
            if not 1 <= width <= MOST_CHANNELS:
                fail(op, f"layers[{k}] weight", f"1 to {MOST_CHANNELS} rows", width)
            bias = layer.weight.new_zeros(width) if layer.bias is None else layer.bias
            check_tensor(op, f"layers[{k}] bias", bias, [width], like=first)
            parts += [layer.weight.reshape(-1), bias]
        steps = tuple(ACTIVATIONS.index(layer.activation) + NORM * layer.norm for layer in layers)
        widths = tuple(layer.weight.shape[0] for layer in layers)
        return cls(torch.cat(parts), first.shape[1], widths, steps)


def check_network(op: str, network: EdgeNetwork) -> EdgeNetwork:
    """One that was put together by hand is checked as :meth:`EdgeNetwork.of` checks layers; with plain integers."""
    if not isinstance(network, EdgeNetwork):
        fail(op, "network", "an EdgeNetwork", type(network).__name__, TypeError)
    layers = len(network.widths)
    check_tensor(op, "network", network.weights, ["P"])
    if not 1 <= layers <= MOST_LAYERS or len(network.steps) != layers:
        fail(op, "network", f"1 to {MOST_LAYERS} layers, a step for each", f"{layers} and {len(network.steps)} steps")
    inputs = check_integer(op, "network.inputs", network.inputs, "a number >= 0", 0)
    widths = _numbers(op, "network.widths", network.widths, 1, MOST_CHANNELS)
    steps = _numbers(op, "network.steps", network.steps, 0, NORM + len(ACTIVATIONS) - 1)
    if max(step % NORM for step in steps) >= len(ACTIVATIONS):
        fail(op, "network.steps", f"activations below {len(ACTIVATIONS)}, plus {NORM} with LayerNorm", steps)
    size = sum((columns + 1) * width for columns, width in zip((inputs, *widths), widths, strict=False))
    if network.weights.shape[0] != size:
        fail(op, "network.weights", f"{size} numbers, for its layers", network.weights.shape[0])
    return EdgeNetwork(network.weights, inputs, widths, steps)


def _numbers(op: str, argument: str, values: Sequence[int], low: int, high: int) -> tuple[int, ...]:
    expected = f"numbers from {low} to {high}"
    found = tuple(check_integer(op, argument, v, expected, low) for v in values)
    if max(found) > high:
        fail(op, argument, expected, max(found))
    return found


class EdgeTensors(NamedTuple):
    """What is differentiated, in the order of the schema."""

    receiver: Tensor | None
    sender: Tensor | None
    x: Tensor | None
    edge_attr: Tensor | None
    weights: Tensor


class EdgeOptions(NamedTuple):
    """The rest, in the order of the schema."""

    ends_as_inputs: bool  # receiver and sender are columns of the first layer, not added to what it gives
    metric: list[float]
    interval: bool
    product: bool
    psi: bool
    widths: list[int]
    steps: list[int]
    slope: float
    edges_at: int  # the layer whose output is returned by edge; -1: none
    messages_at: int  # the layer whose output is summed at the receivers; -1: none
    coordinates: bool
    direction: int
    norm_inside: float
    norm_offset: float
    clamp: float | None

    def invariants(self) -> int:  # no property: the compiler of torch 2.10 does not see those of named tuples
        return self.interval + self.product


class EdgeOutput(NamedTuple):
    """What was asked for; the rest is None."""

    edges: Tensor | None
    messages: Tensor | None
    coordinates: Tensor | None


ENDS = ("added", "inputs")


def first_inputs(t: EdgeTensors, options: EdgeOptions) -> int:
    """Columns of the first layer's weight."""
    tables = [t.receiver, t.sender] if options.ends_as_inputs else []
    return options.invariants() + sum(v.shape[1] for v in (*tables, t.edge_attr) if v is not None)


CUDA_SHARED = 99 * 1024  # bytes, as kMostChainShared in csrc/edge_network/chain.h


def cuda_limit(t: EdgeTensors, options: EdgeOptions) -> str | None:
    """Why the CUDA kernels cannot do a call, or None where they can. The backward pass has all layers of 32 edges in
    shared memory; the numbers are those of ``ChainRoom``, in chain.h."""
    size = t.weights.element_size()
    inputs = first_inputs(t, options)
    points = len(options.metric) * 8 // size  # float64
    kept = sum(options.widths) + sum(step >= NORM for step in options.steps)
    columns = inputs + kept + 2 * max(1, inputs, points, *options.widths)
    needed = 2704 + columns * (32 * size + 16)
    if needed <= CUDA_SHARED:
        return None
    return (
        f"layers of {sum(options.widths)} channels in all need {needed} bytes of shared memory: at most {CUDA_SHARED}"
    )
