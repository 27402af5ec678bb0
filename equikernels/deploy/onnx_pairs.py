"""The formulas of the rank-2 ops in ONNX: PELICAN's maps as sums of pairs at particles.

Tables [n, 3, C] of what goes to the diagonal, to columns and to rows are kept at particles, as in the ops.
"""

from __future__ import annotations

from ..graph import COMPLETE_WITH_SELF_LOOPS
from ..ops.pairs.fused import LayerOptions
from ..ops.pairs.reference import RUNNING, RowsOptions
from .onnx_body import Body, Value
from .onnx_edges import Pairs
from .onnx_formulas import FORMULAS, Arguments, Unsupported, linear


def rectified(b: Body, z: Value, slope: float) -> Value:
    if slope == 1:
        return z
    return b.Relu(z) if slope == 0 else b.LeakyRelu(z, alpha=slope)


def _pairs(b: Body, a: Arguments) -> Pairs:
    if a["kind"] != COMPLETE_WITH_SELF_LOOPS:
        raise Unsupported("pairs of a graph without self-loops")
    return Pairs(b, a["graph"], a["kind"])


def _diagonal(b: Body, pairs: Pairs, T: Value) -> Value:
    """[n, C] of T [n_pairs, C]."""
    return b.Gather(T, pairs.diagonal(), axis=0)


def _columns(pairs: Pairs, T: Value) -> Value:
    return pairs.sums_by(T, pairs.sent())


def _table(b: Body, sides: list[Value]) -> Value:
    """[n, 3, C] of diagonal, columns, rows."""
    return b.Concat(*(b.wider(side, 1) for side in sides), axis=1)


def _spread(b: Body, pairs: Pairs, diag: Value, col: Value, row: Value) -> Value:
    """[n_pairs, C] of values at particles."""
    z = b.Add(pairs.receivers(row), pairs.senders(col))
    return b.ScatterND(z, b.wider(pairs.diagonal(), 1), diag, reduction="add")


def _sides(b: Body, table: Value) -> list[Value]:
    """Diagonal, columns and rows [n, C] of a table [n, 3, C]."""
    return [b.column(table, k, 1) for k in range(3)]


def rank2_products(b: Body, a: Arguments) -> list[Value]:
    """In double, as the kernel has them."""
    pairs = Pairs(b, a["graph"], a["kind"])
    wide = b.double(a["x"])
    weighted = b.Mul(wide, b.double(b.constant(a["metric"])))
    return [b.float(b.total(b.Mul(pairs.receivers(weighted), pairs.senders(wide)), 1, keep=True))]


def rank2_sum(b: Body, a: Arguments) -> list[Value]:
    if a["arg"] or a["weight"]:
        raise Unsupported("weighted sums over pairs")
    pairs, T = _pairs(b, a), a["tensor"]
    return [_table(b, [_diagonal(b, pairs, T), _columns(pairs, T), pairs.sums(T)])]


def rank2_extremum(b: Body, a: Arguments) -> list[Value]:
    pairs, T = _pairs(b, a), a["tensor"]
    sides = [pairs.extrema_by(T, table, bool(a["largest"])) for table in (pairs.sent(), pairs.received)]
    return [_table(b, [_diagonal(b, pairs, T), *sides])]


def rank2_broadcast(b: Body, a: Arguments) -> list[Value]:
    if a["arg"] or a["weight"]:
        raise Unsupported("weighted tables")
    return [_spread(b, _pairs(b, a), *_sides(b, a["table"]))]


def rank2_mix(b: Body, a: Arguments) -> list[Value]:
    pairs, T = _pairs(b, a), a["tensor"]
    terms = []
    if a["identity"]:
        terms.append(b.MatMul(T, a["identity"]))
    if a["transpose"]:
        terms.append(b.MatMul(b.Gather(T, pairs.transposed(), axis=0), a["transpose"]))
    if a["table"]:
        terms.append(_spread(b, pairs, *_sides(b, a["table"])))
    z = terms[0]
    for term in terms[1:]:
        z = b.Add(z, term)
    return [rectified(b, z, a["slope"])]


class _Layer:
    """The tensors of a linear layer between ranks, and what all of them compute."""

    def __init__(self, b: Body, a: Arguments, maps: int) -> None:
        source, affine, *coefs, bias, diag_bias, alpha, nobj = a["tensors"]
        self.body, self.options = b, LayerOptions.decoded(list(a["options"]), list(a["numbers"]))
        self.pairs = Pairs(b, a["graph"], a["kind"])
        self.bias, self.diag_bias = bias, diag_bias
        self.width = a.width(source, 1)
        self.T = source
        self.affine = [b.column(affine, k, 0) for k in range(2)] if affine else None
        own = b.float(self.pairs.lengths) if nobj is None else nobj
        self.nobj = b.wider(b.Max(own, b.constant(1.0)), 1)  # [B, 1]
        self.count = b.wider(b.float(self.pairs.lengths), 1)
        self.coefs = self._coefs(coefs, maps)  # [C, D, maps]
        self.factors = None
        if alpha:
            k = {15: 10, 2: 2, 5: 5}[maps]
            log = b.wider(b.Log(b.Div(self.nobj, b.constant(self.options.nbar))), 2)
            self.factors = b.Exp(b.Mul(b.turned(b.Reshape(alpha, b.ints(self.width, k))), log))  # [B, k, C]

    def _coefs(self, coefs: list[Value | None], maps: int) -> Value:
        b, places = self.body, self.options.places
        full, coefs01, coefs10, coefs11 = coefs
        assert full is not None
        if coefs01 and coefs10 and coefs11:
            first = b.Mul(b.wider(full, 1), b.wider(coefs10, 2))  # [C, D, maps]
            full = b.Add(first, b.Mul(b.wider(coefs01, 0), b.wider(coefs11, 2)))
        if not places:
            return full
        at = [places.index(k) if k in places else len(places) for k in range(maps)]
        padded = b.Pad(full, b.ints(0, 0, 0, 0, 0, 1))
        return b.Gather(padded, b.ints(*at), axis=2)

    def per(self, values: Value, times: int = 1) -> Value:
        """Over the number of particles, once or twice: values [B, C]."""
        b = self.body
        if not self.options.mean:
            return b.Mul(values, b.constant(self.options.nbar**-times))
        return values if times == 0 else self.per(b.Div(values, self.nobj), times - 1)

    def per_particle(self, values: Value) -> Value:
        """The same of values [n, C], once."""
        b = self.body
        if not self.options.mean:
            return b.Mul(values, b.constant(1.0 / self.options.nbar))
        return b.Div(values, self.pairs.spread(self.nobj))

    def of_events(self, diagonal: Value, rows: Value) -> tuple[Value, Value]:
        """Trace and total [B, C], of raw sums at particles."""
        b = self.body
        trace, total = self.pairs.of_events(diagonal), self.pairs.of_events(rows)
        if self.affine:
            scale, shift = self.affine
            n = self.count
            trace = b.Add(b.Mul(trace, scale), b.Mul(n, shift))
            total = b.Add(b.Mul(total, scale), b.Mul(b.Mul(n, n), shift))
        return self.per(trace), self.per(total, 2)

    def map(self, values: Value, k: int) -> Value:
        """Values times the coefficients of map k."""
        return self.body.MatMul(values, self.body.column(self.coefs, k, 2))

    def times(self, values: Value, k: int, of_particles: bool = False) -> Value:
        """Values of events, or of particles, times factor k of the event."""
        if self.factors is None:
            return values
        factor = self.body.column(self.factors, k, 1)
        return self.body.Mul(values, self.pairs.spread(factor) if of_particles else factor)


def linear_2to2(b: Body, a: Arguments) -> list[Value]:
    """Maps in the order of the op: T_ij, T_ji; T_ii on the diagonal, at columns, at rows; C_i and R_i likewise; trace
    and total everywhere and on the diagonal."""
    layer = _Layer(b, a, 15)
    pairs, T = layer.pairs, layer.T
    diagonal, cols, rows = _diagonal(b, pairs, T), _columns(pairs, T), pairs.sums(T)
    trace, total = layer.of_events(diagonal, rows)
    if layer.affine:
        scale, shift = layer.affine
        each = b.Mul(pairs.spread(layer.count), shift)
        diagonal = b.Add(b.Mul(diagonal, scale), shift)
        cols, rows = (b.Add(b.Mul(side, scale), each) for side in (cols, rows))
        T = b.Add(b.Mul(T, scale), shift)
    at = [layer.map(diagonal, 2 + slot) for slot in range(3)]  # at the diagonal, columns, rows: [n, D]
    for side, values in enumerate((cols, rows)):
        values = layer.per_particle(values)
        for slot in range(3):
            k = 3 * side + slot
            at[slot] = b.Add(at[slot], layer.map(layer.times(values, k, True), 5 + k))
    for k, values in enumerate((trace, total)):
        for slot in range(2):
            term = layer.map(layer.times(values, 6 + 2 * k + slot), 11 + 2 * k + slot)
            place = 0 if slot else 2
            at[place] = b.Add(at[place], pairs.spread(term))
    if layer.bias:
        at[2] = b.Add(at[2], layer.bias)
    if layer.diag_bias:
        at[0] = b.Add(at[0], layer.diag_bias)
    z = b.Add(layer.map(T, 0), layer.map(b.Gather(T, pairs.transposed(), axis=0), 1))
    z = b.Add(z, _spread(b, pairs, *at))
    return [rectified(b, z, layer.options.slope)]


def linear_2to0(b: Body, a: Arguments) -> list[Value]:
    layer = _Layer(b, a, 2)
    trace, total = layer.of_events(_diagonal(b, layer.pairs, layer.T), layer.pairs.sums(layer.T))
    terms = []
    for k, values in enumerate((total, trace)):
        terms.append(layer.map(rectified(b, layer.times(values, k), layer.options.inner_slope), k))
    z = b.Add(*terms)
    if layer.bias:
        z = b.Add(z, b.Reshape(layer.bias, b.ints(1, -1)))
    return [rectified(b, z, layer.options.slope)]


def linear_1to2(b: Body, a: Arguments) -> list[Value]:
    """Maps in the order of the op: x on the diagonal, at columns, at rows; its sum on the diagonal and everywhere."""
    layer = _Layer(b, a, 5)
    pairs, x = layer.pairs, layer.T
    at = [layer.map(layer.times(x, slot, True), slot) for slot in range(3)]
    total = layer.per(pairs.of_events(x))
    for k, slot in ((3, 0), (4, 2)):
        at[slot] = b.Add(at[slot], pairs.spread(layer.map(layer.times(total, k), k)))
    if layer.bias:
        at[2] = b.Add(at[2], layer.bias)
    if layer.diag_bias:
        at[0] = b.Add(at[0], layer.diag_bias)
    return [rectified(b, _spread(b, pairs, *at), layer.options.slope)]


def rows_network(b: Body, a: Arguments) -> list[Value]:
    """A layer on pairs, and a norm of given statistics as scale and shift."""
    options = RowsOptions.decoded(list(a["options"]), list(a["numbers"]))
    x, weight, bias, gamma, beta, mean, variance = a["tensors"]
    outputs = [] if weight is None else [rectified(b, linear(b, x, weight, bias), options.slope)]
    if options.norm == RUNNING:
        scale = b.Reciprocal(b.Sqrt(b.Add(variance, b.constant(options.eps))))
        scale = b.Mul(scale, gamma) if gamma else scale
        shift = b.Neg(b.Mul(mean, scale))
        shift = b.Add(beta, shift) if beta else shift
        outputs.append(b.Concat(b.wider(scale, 0), b.wider(shift, 0), axis=0))
    elif options.norm:
        raise Unsupported("the norm of a batch's own statistics")
    return outputs


def row_affine(b: Body, a: Arguments) -> list[Value]:
    return [b.Add(b.Mul(a["x"], a["scale"]), a["shift"])]


def rows_product(b: Body, a: Arguments) -> list[Value]:
    return [b.MatMul(a["x"], a["weight"])]


FORMULAS.update(
    {
        formula.__name__: formula
        for formula in (
            rank2_products, rank2_sum, rank2_extremum, rank2_broadcast, rank2_mix, linear_2to2, linear_2to0,
            linear_1to2, rows_network, row_affine, rows_product,
        )
    }
)  # fmt: skip
