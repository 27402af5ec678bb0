"""The formulas of the ops on edges and rows in ONNX, for runtimes without the kernels.

The first layer of a network on edges is split: its products with the features of both ends are taken at nodes, as the
kernels do, so that an edge adds two rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..ops.message_passing.direction import DIFFERENCE, SENDER
from ..ops.message_passing.edge_mlp import PARTS
from ..ops.message_passing.options import GIVEN, LAYER, MEASURED, EdgeOptions, LayerOptions
from ..ops.message_passing.reference import FIRST as FIRST_OF_EDGES
from ..ops.message_passing.reference import OF_LAYER
from ..ops.message_passing.rows import FIRST as FIRST_OF_ROWS
from ..ops.message_passing.rows import TABLES, RowOptions
from .onnx_body import Body, Value
from .onnx_edges import Edges, Pairs, Sparse, edges_of
from .onnx_nodes import Configuration

Shape = tuple[int | None, ...]


class Unsupported(ValueError):
    """An op, or an option of it, without an ONNX formula."""


class Arguments:
    """An op's arguments by the names of its schema: tensors as values of the body, the rest as numbers.

    Attributes:
        inputs: the names of the node's inputs.
        shapes: of the tensors, by value.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.inputs: list[Value] = []
        self.shapes: dict[Value, Shape] = {}
        self._by_name: dict[str, Any] = {}
        schema = getattr(torch.ops.equikernels, configuration.op).default._schema
        for argument, (name, value) in zip(schema.arguments, configuration.arguments, strict=True):
            kind = str(argument.type)
            if "Tensor" not in kind:
                self._by_name[name] = value
            elif "List" in kind:
                self._by_name[name] = [self._input(shape) for shape in value]
            else:
                self._by_name[name] = self._input(value)
        if any(name == "dynamic" for name, _ in configuration.attributes):
            self._input((None,))

    def _input(self, shape: Shape | None) -> Value | None:
        if shape is None:
            return None
        name = f"input_{len(self.inputs)}"
        self.inputs.append(name)
        self.shapes[name] = shape
        return name

    def __getitem__(self, name: str) -> Any:
        return self._by_name[name]

    def width(self, value: Value, axis: int) -> int:
        """A length that is known when the file is made."""
        size = self.shapes[value][axis]
        if size is None:
            raise Unsupported(f"a tensor of unknown width in axis {axis}")
        return size

    def edges(self, body: Body, nodes: Value) -> Edges:
        """The graph's edges, over as many nodes as ``nodes`` has rows."""
        return edges_of(body, self["graph"], self["kind"], body.size(nodes, 0))


class Layer(NamedTuple):
    """The tensors of a layer as values, None where absent."""

    weight: Value
    bias: Value | None
    norm_weight: Value | None
    norm_bias: Value | None
    mean: Value | None
    variance: Value | None


def layers_of(tensors: Sequence[Value | None], first: int) -> list[Layer]:
    return [Layer(*tensors[k : k + OF_LAYER]) for k in range(first, len(tensors), OF_LAYER)]  # type: ignore[arg-type]


# Activations that are operators of the standard.
OPERATORS = {
    "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "elu": "Elu", "softplus": "Softplus", "mish": "Mish",
    "hardswish": "HardSwish",
}  # fmt: skip


def activate(b: Body, z: Value, name: str, slope: float) -> Value:
    if name == "identity":
        return z
    if name == "silu":
        return b.Mul(z, b.Sigmoid(z))
    if name == "leaky_relu":
        return b.LeakyRelu(z, alpha=slope)
    if name == "gelu":
        inner = b.Add(b.Erf(b.Div(z, b.constant(2**0.5))), b.constant(1.0))
        return b.Mul(b.Mul(z, b.constant(0.5)), inner)
    if name == "gelu_tanh":
        cube = b.Mul(b.Mul(b.Mul(z, z), z), b.constant(0.044715))
        inner = b.Add(b.Tanh(b.Mul(b.Add(z, cube), b.constant(0.7978845608028654))), b.constant(1.0))
        return b.Mul(b.Mul(z, b.constant(0.5)), inner)
    return getattr(b, OPERATORS[name])(z)


def folded(b: Body, layer: Layer, options: LayerOptions) -> Layer:
    """The layer with its norm of given statistics in its weight and bias, which the runtime computes once."""
    if options.norm == MEASURED:
        raise Unsupported("a batch norm of the batch's own statistics")
    if options.norm != GIVEN:
        return layer
    scale = b.Reciprocal(b.Sqrt(b.Add(layer.variance, b.constant(options.eps))))
    if layer.norm_weight:
        scale = b.Mul(scale, layer.norm_weight)
    centre = layer.mean if layer.bias is None else b.Sub(layer.mean, layer.bias)
    shift = b.Neg(b.Mul(centre, scale))
    if layer.norm_bias:
        shift = b.Add(shift, layer.norm_bias)
    return layer._replace(weight=b.Mul(layer.weight, b.wider(scale, 1)), bias=shift)


def after(b: Body, z: Value, layer: Layer, options: LayerOptions, width: int) -> Value:
    """What follows a linear map and its bias: a layer norm, the activation."""
    if options.norm == LAYER:
        ones, zeros = b.constant([1.0] * width), b.constant([0.0] * width)
        scale, shift = layer.norm_weight or ones, layer.norm_bias or zeros
        z = b.LayerNormalization(z, scale, shift, axis=-1, epsilon=options.eps)
    return activate(b, z, options.activation, options.slope)


def linear(b: Body, h: Value, weight: Value, bias: Value | None) -> Value:
    z = b.MatMul(h, b.turned(weight))
    return z if bias is None else b.Add(z, bias)


def squashed(b: Body, z: Value) -> Value:
    """psi: sign(z) ln(1 + |z|)."""
    return b.Mul(b.Sign(z), b.Log(b.Add(b.Abs(z), b.CastLike(b.constant(1.0), z))))


def invariants(b: Body, x: Value, edges: Edges, metric: Sequence[float], psi: bool, columns: Sequence[int]) -> Value:
    """The interval and the product of both ends, in double as the kernels have them; float [..., len(columns)]."""
    wide = b.double(x)
    x_i, x_j = edges.receivers(wide), edges.senders(wide)
    eta = b.double(b.constant(metric))
    found = []
    for k in columns:
        pair = (b.Sub(x_i, x_j), b.Sub(x_i, x_j)) if k == 0 else (x_i, x_j)
        found.append(b.total(b.Mul(b.Mul(*pair), eta), 1, keep=True))
    z = b.Concat(*found, axis=-1)
    return b.float(squashed(b, z) if psi else z)


def message_passing(b: Body, a: Arguments) -> list[Value]:
    options = EdgeOptions.decoded(list(a["options"]), list(a["numbers"]))
    if options.bfloat16:
        raise Unsupported('precision="medium"')
    tensors = a["tensors"]
    h, x, attributes, gate_weight, gate_bias = tensors[:FIRST_OF_EDGES]
    edges = a.edges(b, h or x)
    layers = [folded(b, *of) for of in zip(layers_of(tensors, FIRST_OF_EDGES), options.layers, strict=True)]
    first = layers[0]
    z, column = None, 0
    for part in (PARTS[k] for k in options.order):
        if part in ("receiver", "sender"):
            width = a.width(h, 1)
            columns = b.columns(first.weight, column, column + width)
            table = linear(b, h, columns, first.bias if part == "receiver" else None)
            term = edges.receivers(table) if part == "receiver" else edges.senders(table)
        elif part == "edge_attr":
            width = a.width(attributes, 1)
            term = linear(b, attributes, b.columns(first.weight, column, column + width), None)
        else:
            width = len(options.columns())
            if width == 0:
                continue
            s = invariants(b, x, edges, options.metric, options.psi, options.columns())
            term = linear(b, s, b.columns(first.weight, column, column + width), None)
        z = term if z is None else b.Add(z, term)
        column += width
    assert z is not None
    if first.bias and not options.has("receiver"):
        z = b.Add(z, first.bias)
    return _from_first(b, a, options, edges, layers, z, x, gate_weight, gate_bias)


def _from_first(
    b: Body, a: Arguments, options: EdgeOptions, edges: Edges, layers: list[Layer], m: Value, x: Value | None,
    gate_weight: Value | None, gate_bias: Value | None,
) -> list[Value]:  # fmt: skip
    """The outputs that are asked for, from the first layer's sums."""
    tensors = layers_of(a["tensors"], FIRST_OF_EDGES)
    messages = of_edges = None
    for k, (layer, of_layer) in enumerate(zip(layers, options.layers, strict=True)):
        z = m if k == 0 else linear(b, m, layer.weight, layer.bias)
        m = after(b, z, layer, of_layer, a.width(tensors[k].weight, 0))
        if k == options.messages_at and gate_weight:
            m = b.Mul(m, b.Sigmoid(linear(b, m, gate_weight, gate_bias)))
        if k == options.edges_at:
            of_edges = m
        if k == options.messages_at and options.messages:
            messages = edges.sums(m, options.messages == 2)
    outputs = [messages]
    if options.coordinates:
        assert x is not None
        step = b.Mul(m, _displacement(b, x, edges, options))
        if options.clamp is not None:
            step = b.Clip(step, b.constant(-options.clamp), b.constant(options.clamp))
        outputs.append(edges.sums(step, options.coordinates == 2))
    outputs.append(of_edges)
    return [value for value in outputs if value is not None]


def _displacement(b: Body, x: Value, edges: Edges, options: EdgeOptions) -> Value:
    x_j = edges.senders(x)
    if options.direction == SENDER:
        return x_j
    d = b.Sub(edges.receivers(x), x_j)
    if options.direction == DIFFERENCE:
        return d
    square = b.total(b.Mul(b.Mul(d, d), b.constant(options.metric)), 1, keep=True)
    norm = b.Sqrt(b.Add(square, b.constant(options.norm_inside)))
    return b.Div(d, b.Add(norm, b.constant(options.norm_offset)))


def row_mlp(b: Body, a: Arguments) -> list[Value]:
    options = RowOptions.decoded(list(a["options"]), list(a["numbers"]))
    tensors = a["tensors"]
    given = [t for t in tensors[:TABLES] if t]
    h = given[0] if len(given) == 1 else b.Concat(*given, axis=1)
    plain = layers_of(tensors, FIRST_OF_ROWS)
    for layer, of_layer in zip(plain, options.layers, strict=True):
        use = folded(b, layer, of_layer)
        h = after(b, linear(b, h, use.weight, use.bias), use, of_layer, a.width(layer.weight, 0))
    residual = tensors[TABLES]
    return [b.Add(residual, h) if residual else h]


def pairwise_invariants(b: Body, a: Arguments) -> list[Value]:
    x = a["x"]
    edges = a.edges(b, x)
    return [invariants(b, x, edges, a["metric"], a["psi"], (0, 1))]


def coordinates(b: Body, a: Arguments) -> list[Value]:
    x = a["x"]
    edges = a.edges(b, x)
    x_j = edges.senders(x)
    d = b.Sub(edges.receivers(x), x_j) if a["difference"] else x_j
    step = b.Mul(b.wider(a["weight"], 1), d)
    if a["clamp"] is not None:
        step = b.Clip(step, b.constant(-a["clamp"]), b.constant(a["clamp"]))
    return [b.Add(x, b.Mul(b.constant(a["c"]), edges.sums(step, bool(a["mean"]))))]


def encode(b: Body, a: Arguments) -> list[Value]:
    """In double: ONNX has neither log1p nor expm1."""
    z, t = b.double(a["z"]), b.double(a["t"])
    zero, one, minus = (b.constant(number, np.float64) for number in (0.0, 1.0, -1.0))
    log = b.Log(b.Add(b.Abs(z), b.constant(1e-5, np.float64) if a["angles"] else one))
    power = b.Div(b.Sub(b.Exp(b.Mul(t, log)), one), t)
    return [b.float(power if a["angles"] else b.Mul(b.Where(b.Less(z, zero), minus, one), power))]


def segment_sum(b: Body, a: Arguments) -> list[Value]:
    """Sums at receivers of rows of edges (rows 0) or of senders (1); with weights."""
    if a["arg"] or a["rows"] not in (0, 1):
        raise Unsupported("a sum over senders, or of chosen edges")
    edges = _edges_of_segments(b, a)
    values = a["source"] if a["rows"] == 0 else edges.senders(a["source"])
    if a["weight"]:
        weight = a["weight"] if len(a.shapes[a["weight"]]) == 2 else b.wider(a["weight"], 1)
        values = b.Mul(values, weight)
    return [edges.sums(values, bool(a["mean"]))]


def _edges_of_segments(b: Body, a: Arguments) -> Edges:
    """Receivers may be more than the rows of any input: their number is an argument."""
    if a["kind"] != 0:
        return Pairs(b, a["graph"], a["kind"])
    if a["num_nodes"] is not None:
        return Sparse(b, a["graph"], b.ints(a["num_nodes"]))
    # the last of the dynamic integers: see Configuration
    return Sparse(b, a["graph"], b.columns(a.inputs[-1], _place(a, "num_nodes"), _place(a, "num_nodes") + 1, 0))


def _place(a: Arguments, name: str) -> int:
    """Where a dynamic integer stands in the last input."""
    unknown = [n for n in ("num_edges", "num_nodes") if a[n] is None]
    return unknown.index(name)


def segment_extremum(b: Body, a: Arguments) -> list[Value]:
    if a["weight"] or a["rows"] != 0:
        raise Unsupported("an extremum over senders")
    edges = _edges_of_segments(b, a)
    return [edges.extrema_by(a["source"], edges.received, bool(a["largest"]))]


def gather_to_edges(b: Body, a: Arguments) -> list[Value]:
    if a["arg"]:
        raise Unsupported("chosen edges")
    return [a.edges(b, a["source"]).receivers(a["source"])]


Formula = Callable[[Body, Arguments], list[Value]]
FORMULAS: dict[str, Formula] = {
    "message_passing": message_passing,
    "row_mlp": row_mlp,
    "invariants": pairwise_invariants,
    "coordinates": coordinates,
    "encode": encode,
    "segment_sum": segment_sum,
    "segment_extremum": segment_extremum,
    "gather_to_edges": gather_to_edges,
}
