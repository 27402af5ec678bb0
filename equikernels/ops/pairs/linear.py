"""PELICAN's linear layers between ranks: the aggregators followed by their linear map, without making them.

Aggregates live on particles and events. Their maps are applied there, and what comes out is broadcast to pairs
together with the two maps that live on pairs, the identity and the transpose: one pass over T to reduce it, one to mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ...checks import REAL, check_tensor, fail
from ..common import given, promote, without_autocast
from .aggregation import KINDS, Aggregates, Aggregation, Kind, PairBatch, aggregates_of
from .batch import Pairs, negative_slope_of
from .fused import fused
from .reference import activate
from .rows import affine as apply_affine
from .tables import broadcast_table, mix_table, product, spread_events

DEFAULT = Aggregation()
Coefs = Tensor | Sequence[Tensor]


def linear_2to2(
    T: Tensor,
    ptr: Pairs | PairBatch,
    coefs: Coefs,
    bias: Tensor | None = None,
    diag_bias: Tensor | None = None,
    how: Aggregation = DEFAULT,
    *,
    activation: str = "identity",
    negative_slope: float = 0.01,
    affine: Tensor | None = None,
) -> Tensor:
    r"""PELICAN's 2 -> 2 layer: a linear map of the 15 permutation-equivariant maps of a rank-2 tensor.

    .. math:: \mathrm{out}_{ij,d} = \mathrm{act}\Bigl(\sum_{c,k} W_{cdk}\, \mathrm{act}'(\mathrm{map}_k(T)_{ij,c})
              + \mathrm{bias}_d + \delta_{ij}\, \mathrm{diag\_bias}_d \Bigr)

    Two matrix products on pairs and fifteen on particles and events; no tensor of 15 C channels. PELICAN, arXiv
    2307.16506, section 3.2. The maps themselves are ``equikernels.ops.pairs.basis.aggregate_2to2``, their order
    included.

    Args:
        T: [n_pairs, C] float32 or float64 (CUDA: bfloat16 or float16 too), pairs row-major inside each event.
        ptr: as in :func:`rank2_reduce`, or a :class:`PairBatch`, which knows more of the particles.
        coefs: W [C, D, 15 + 10 (len(config) - 1)], or of those maps that ``how.maps`` names; or four factors of it,
            A [C, maps], A' [D, maps], B, B' [C, D]: W_cdk = A_ck B_cd + A'_dk B'_cd.
        bias, diag_bias: [D].
        how: how particles are aggregated, see :class:`Aggregation`.
        activation: of the output: "identity", "relu" or "leaky_relu".
        negative_slope: of leaky_relu.
        affine: (scale, shift) [2, C]: the layer acts on scale T + shift, channel by channel, which is what a batch norm
            makes of T. With one summed letter ("s", "m", "S", "M") that tensor is never made.

    Returns:
        [n_pairs, D] in the dtype of T (under autocast at least float32).

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    return _linear("2to2", T, ptr, coefs, (bias, diag_bias), how, activation, negative_slope, affine)


def linear_2to1(
    T: Tensor,
    ptr: Pairs | PairBatch,
    coefs: Coefs,
    bias: Tensor | None = None,
    how: Aggregation = DEFAULT,
    *,
    activation: str = "identity",
    negative_slope: float = 0.01,
    affine: Tensor | None = None,
) -> Tensor:
    """The 5 maps T_ii, R_i, C_i, Tr, S of a rank-2 tensor to particles, mixed by coefs [C, D, 5]: [n, D]. Further
    arguments as in :func:`linear_2to2`."""
    return _linear("2to1", T, ptr, coefs, (bias, None), how, activation, negative_slope, affine)


def linear_2to0(
    T: Tensor,
    ptr: Pairs | PairBatch,
    coefs: Coefs,
    bias: Tensor | None = None,
    how: Aggregation = DEFAULT,
    *,
    activation: str = "identity",
    negative_slope: float = 0.01,
    affine: Tensor | None = None,
) -> Tensor:
    """The 2 maps S, Tr of a rank-2 tensor to events, mixed by coefs [C, D, 2 len(config)]: [n_events, D]. Further
    arguments as in :func:`linear_2to2`."""
    return _linear("2to0", T, ptr, coefs, (bias, None), how, activation, negative_slope, affine)


def linear_1to2(
    x: Tensor,
    ptr: Pairs | PairBatch,
    coefs: Coefs,
    bias: Tensor | None = None,
    diag_bias: Tensor | None = None,
    how: Aggregation = DEFAULT,
    *,
    activation: str = "identity",
    negative_slope: float = 0.01,
) -> Tensor:
    """The 5 maps of particles x [n, C] to pairs, x_i on the diagonal, x_j, x_i, Sum on the diagonal and Sum, mixed by
    coefs [C, D, 5]: [n_pairs, D]. Further arguments as in :func:`linear_2to2`."""
    return _linear("1to2", x, ptr, coefs, (bias, diag_bias), how, activation, negative_slope, None)


class Layer(NamedTuple):
    """A layer between ranks and what it is called with, checked."""

    kind: Kind
    source: Tensor
    affine: Tensor | None
    coefs: tuple[Tensor, ...]  # one, or four factors
    bias: Tensor | None
    diag_bias: Tensor | None
    of: Aggregates
    slope: float
    inner: float

    def full_coefs(self) -> Tensor:
        """W [C, D, all maps]."""
        coefs, *factors = self.coefs
        if factors:
            coefs01, coefs10, coefs11 = factors
            first = coefs.t()[:, :, None] * coefs10
            coefs = (first + coefs01.t()[:, None, :] * coefs11).permute(1, 2, 0)
        maps = self.of.how.maps
        if maps is None:
            return coefs
        full = coefs.new_zeros(*coefs.shape[:2], self.kind.all_maps(self.of.how.config))
        return full.index_copy(2, torch.tensor([k - 1 for k in maps], device=coefs.device), coefs)

    def composed(self) -> Tensor:
        """The layer, of smaller ops."""
        layer = self
        if self.affine is not None:
            # Sums of scale T + shift follow from those of T; extrema are of a tensor that is made, and so are sums that
            # are kept in 16 bits, and the tensor that is mixed.
            if self.kind.op == "linear_2to2" or self.source.dtype not in REAL or not self.of.sums_alone:
                layer = self._replace(source=apply_affine(self.source, *self.affine.unbind()), affine=None)
            else:
                self.of.affine = self.affine
        return _COMPOSED[self.kind.op](layer)


def _2to2(layer: Layer) -> Tensor:
    T, of, inner, bias, coefs = layer.source, layer.of, layer.inner, layer.bias, layer.full_coefs()
    width = coefs.shape[1]
    zero = coefs.new_zeros(width)
    aggregates, diagonal = of.basis_2to2(T), of.diagonal(T)
    # a table is [n, 3, D]: what goes to the diagonal, to columns, to rows
    per_event: Tensor = torch.stack([zero if b is None else b for b in (layer.diag_bias, None, bias)])
    terms = []
    for k, (nodes, events) in enumerate(aggregates):
        first, end = 5 + 10 * k, 15 + 10 * k
        if k == 0:  # maps 3 to 5, of the diagonal, come with the first letter
            nodes = torch.cat([diagonal[:, None, None].expand(-1, 1, nodes.shape[2], -1), nodes], dim=1)
            first = 2
        of_nodes, of_events = coefs[:, :, first : end - 4], coefs[:, :, end - 4 : end]
        terms.append(_apply(activate(nodes, inner), of_nodes.unflatten(2, (-1, 3))))
        everywhere, diag = _apply(activate(events, inner), of_events.unflatten(2, (2, 2))).unbind(1)
        per_event = per_event + torch.stack([diag, torch.zeros_like(diag), everywhere], dim=1)
    terms.append(spread_events(per_event.reshape(-1, 3 * width), of.pairs).view(-1, 3, width))
    table = terms[0]
    for term in terms[1:]:
        table = table + term
    return mix_table(activate(T, inner), coefs[:, :, 0], coefs[:, :, 1], table, of.pairs, layer.slope)


def _2to1(layer: Layer) -> Tensor:
    bias, coefs = layer.bias, layer.full_coefs()
    nodes, events = (activate(t.unsqueeze(2), layer.inner) for t in layer.of.basis_2to1(layer.source))
    per_event = _apply(events, coefs[:, :, 3:].unflatten(2, (2, 1))).squeeze(1)
    out = _apply(nodes, coefs[:, :, :3].unflatten(2, (3, 1))).squeeze(1)
    out = out + spread_events(per_event if bias is None else per_event + bias, layer.of.pairs)
    return activate(out, layer.slope)


def _2to0(layer: Layer) -> Tensor:
    basis = activate(layer.of.basis_2to0(layer.source), layer.inner).transpose(1, 2).unsqueeze(2)
    out = _apply(basis, layer.full_coefs().unsqueeze(3)).squeeze(1)
    return activate(out if layer.bias is None else out + layer.bias, layer.slope)


def _1to2(layer: Layer) -> Tensor:
    bias, diag_bias, pairs, coefs = layer.bias, layer.diag_bias, layer.of.pairs, layer.full_coefs()
    nodes, events = (activate(t, layer.inner) for t in layer.of.basis_1to2(layer.source))
    on_diagonal, everywhere = (product(events[:, k], coefs[:, :, 3 + k]) for k in range(2))
    per_event = torch.stack(
        [
            on_diagonal if diag_bias is None else on_diagonal + diag_bias,
            torch.zeros_like(everywhere),
            everywhere if bias is None else everywhere + bias,
        ],
        dim=1,
    )
    table = torch.stack([product(nodes[:, k], coefs[:, :, k]) for k in range(3)], dim=1)
    width = coefs.shape[1]
    table = table + spread_events(per_event.reshape(-1, 3 * width), pairs).view(-1, 3, width)
    return activate(broadcast_table(table, pairs), layer.slope)


_COMPOSED = {"linear_2to2": _2to2, "linear_2to1": _2to1, "linear_2to0": _2to0, "linear_1to2": _1to2}


def _apply(values: Tensor, coefs: Tensor) -> Tensor:
    """[m, Q, D] = sum over p, c of values [m, P, Q or 1, C] and coefs [C, D, P, Q]."""
    width_in, width, sides, slots = coefs.shape
    if values.shape[2] == 1:
        matrix = coefs.permute(2, 0, 3, 1).reshape(sides * width_in, slots * width)
        return product(values.reshape(-1, sides * width_in), matrix).view(-1, slots, width)
    matrices = coefs.permute(3, 2, 0, 1).reshape(slots, sides * width_in, width)
    return torch.stack([product(values[:, :, q].flatten(1), matrices[q]) for q in range(slots)], dim=1)


def _linear(
    ranks: str,
    source: Tensor,
    ptr: Pairs | PairBatch,
    coefs: Coefs,
    biases: tuple[Tensor | None, Tensor | None],
    how: Aggregation,
    activation: str,
    negative_slope: float,
    affine: Tensor | None,
) -> Tensor:
    kind = KINDS[ranks]
    op = kind.op
    source = promote(op, kind.source, source)
    of = aggregates_of(op, kind, source, ptr, how)
    weights, width = _check_coefs(op, kind, coefs, source, how)
    bias, diag_bias = biases
    if bias is not None:
        bias = given(op, "bias", bias, (width,), source)
    if diag_bias is not None:
        diag_bias = given(op, "diag_bias", diag_bias, (width,), source)
    slope = negative_slope_of(op, activation, negative_slope)
    inner = negative_slope_of(op, how.activation, negative_slope, "aggregate_activation")
    if affine is not None:
        affine = given(op, "affine", affine, (2, source.shape[1]), source)
    layer = Layer(kind, source, affine, weights, bias, diag_bias, of, slope, inner)
    out = fused(layer)
    if out is not None:
        return out
    with without_autocast(source.device.type):
        return layer.composed()


def _check_coefs(op: str, kind: Kind, coefs: Coefs, like: Tensor, how: Aggregation) -> tuple[tuple[Tensor, ...], int]:
    """Coefficients or their four factors, and the number of channels they make."""
    channels, maps = like.shape[1], kind.all_maps(how.config)
    if how.maps is not None:
        kept = list(how.maps)
        if not kept or sorted(set(kept)) != kept or kept[0] < 1 or kept[-1] > maps:
            fail(op, "maps", f"rising numbers from 1 to {maps}", how.maps)
        maps = len(kept)
    if isinstance(coefs, Tensor):
        coefs = promote(op, "coefs", coefs)
        check_tensor(op, "coefs", coefs, [channels, "D", maps], like=like)
        if 0 in coefs.shape[:2]:
            fail(op, "coefs", "at least one channel in and out", list(coefs.shape))
        return (coefs,), coefs.shape[1]
    factors = tuple(promote(op, f"coefs[{k}]", t) for k, t in enumerate(coefs))
    if len(factors) != 4:
        fail(op, "coefs", "a tensor or four factors", f"{len(factors)} tensors")
    check_tensor(op, "coefs[1]", factors[1], ["D", maps], like=like)
    width = factors[1].shape[0]
    for k, shape in ((0, [channels, maps]), (2, [channels, width]), (3, [channels, width])):
        check_tensor(op, f"coefs[{k}]", factors[k], shape, like=like)
    if 0 in (channels, width):
        fail(op, "coefs", "at least one channel in and out", [channels, width])
    return factors, width
