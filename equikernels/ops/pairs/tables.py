"""rank2_reduce, rank2_broadcast, rank2_mix: what every map between rank-2 tensors and particles is made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import _triton
from ...backend import KERNELS, PARTS, WITH_PARTS, use_kernel
from ...checks import check_choice, check_tensor, fail
from ...graph import Graph
from ..autograd import call
from ..common import given, graph_arguments, promote, stored_as
from . import autograd as autograd
from . import reference
from .batch import Pairs, negative_slope_of, pairs_of

REDUCE, BROADCAST, MIX = "rank2_reduce", "rank2_broadcast", "rank2_mix"
KERNELS[REDUCE] = KERNELS[BROADCAST] = KERNELS[MIX] = ("cpu", "cuda")
PARTS.update((REDUCE, BROADCAST))
WITH_PARTS.add(MIX)
_triton.provide(MIX, "equikernels.ops.pairs.triton", ("rank2_mix", "rank2_mix_backward", "rows_product", "rows_outer"))
REDUCTIONS = ("sum", "mean", "max", "min")


def rank2_reduce(
    T: Tensor, ptr: Pairs, reduce: str = "sum", weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Rows, columns and diagonal of a rank-2 tensor, in one pass.

    .. math:: R_i = \mathrm{agg}_j\, w_j T_{ij}, \quad C_j = \mathrm{agg}_i\, w_i T_{ij}, \quad D_i = T_{ii}

    PELICAN, arXiv 2307.16506, section 3.2; the weights are those of its IRC-safe variant.

    Args:
        T: [n_pairs, C] float32 or float64: pairs (i, j) row-major inside each event, n_pairs = sum of n_b^2. On CUDA
            also bfloat16 or float16, which are added in float32 and rounded once.
        ptr: int64 [n_events + 1], event b owns particles ptr[b] .. ptr[b + 1] - 1; or ``Graph.complete(ptr)``, which
            is checked and read once, where a tensor is at every call (on CUDA that waits for the device).
        reduce: "sum", "mean" (over the particles of the event), "max" or "min". The gradient of max and min goes to
            one entry: of equals, the first; a NaN counts as the extremum.
        weight: [n], for sum and mean. The mean divides by the number of particles, not by the sum of the weights.

    Returns:
        rows, cols, diag: [n, C] each, in the dtype of T (under autocast at least float32).

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    T = check_rank2(REDUCE, T)
    check_choice(REDUCE, "reduce", reduce, REDUCTIONS)
    pairs = pairs_of(REDUCE, ptr, T, T.shape[0], None if weight is None else weight.shape[0])
    weight = check_weight(REDUCE, weight, pairs, T)
    if weight is not None and reduce in ("max", "min"):
        fail(REDUCE, "weight", f"none with reduce={reduce!r}", "a tensor")
    diag, cols, rows = reduce_table(T, pairs, "sum" if reduce == "mean" else reduce, weight).unbind(1)
    if reduce == "mean":
        count = pairs.in_degree().to(torch.promote_types(T.dtype, torch.float32)).unsqueeze(1)
        rows, cols = (rows / count).to(T.dtype), (cols / count).to(T.dtype)
    return rows, cols, diag


def rank2_broadcast(
    row: Tensor | None = None,
    col: Tensor | None = None,
    diag: Tensor | None = None,
    event: Tensor | None = None,
    *,
    ptr: Pairs,
) -> Tensor:
    r"""A rank-2 tensor from particles and events: the adjoint of :func:`rank2_reduce`.

    .. math:: T_{ij} = \mathrm{row}_i + \mathrm{col}_j + \delta_{ij}\, \mathrm{diag}_i + \mathrm{event}_b

    Args:
        row, col, diag: [n, C] float32 or float64 (CUDA: bfloat16 or float16 too); any may be left out, not all.
        event: [n_events, C].
        ptr: as in :func:`rank2_reduce`; with a graph that knows its ``num_edges`` nothing is read back.

    Returns:
        [n_pairs, C], pairs row-major inside each event.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device; the message names the argument.
    """
    parts = check_parts(BROADCAST, {"row": row, "col": col, "diag": diag, "event": event}, None)
    first = next((t for t in parts.values() if t is not None), None)
    if first is None:
        fail(BROADCAST, "row", "a tensor here or in col, diag or event", "None")
    assert first is not None
    nodes = next((t.shape[0] for name, t in parts.items() if t is not None and name != "event"), None)
    pairs = pairs_of(BROADCAST, ptr, first, None, nodes)
    table = make_table(BROADCAST, pairs, first, first.shape[1], **parts)
    assert table is not None
    return broadcast_table(table, pairs)


def rank2_mix(
    T: Tensor,
    ptr: Pairs,
    weight_identity: Tensor | None = None,
    weight_transpose: Tensor | None = None,
    row: Tensor | None = None,
    col: Tensor | None = None,
    diag: Tensor | None = None,
    event: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str = "identity",
    negative_slope: float = 0.01,
) -> Tensor:
    r"""A linear map of pairs and their transposes, with everything that is broadcast to pairs, in one pass.

    .. math:: \mathrm{out}_{ij} = \mathrm{act}(T_{ij} W_1 + T_{ji} W_2 + \mathrm{row}_i + \mathrm{col}_j
              + \delta_{ij}\, \mathrm{diag}_i + \mathrm{event}_b + \mathrm{bias})

    Nothing of size n_pairs is made but the output, and in backward the gradient of T.

    Args:
        T: [n_pairs, C] float32 or float64 (CUDA: bfloat16 or float16 too, added in float32), pairs row-major inside
            each event.
        ptr: as in :func:`rank2_reduce`.
        weight_identity, weight_transpose: W_1 and W_2 [C, D], at least one of them.
        row, col, diag: [n, D].
        event: [n_events, D].
        bias: [D].
        activation: "identity", "relu" or "leaky_relu".
        negative_slope: of leaky_relu, > 0.

    Returns:
        [n_pairs, D] in the dtype of T (under autocast at least float32).

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or option; the message names the argument.
    """
    T = check_rank2(MIX, T)
    weights = []
    for name, w in (("weight_identity", weight_identity), ("weight_transpose", weight_transpose)):
        if w is not None:
            w = promote(MIX, name, w)
            check_tensor(MIX, name, w, [T.shape[1], "D"], like=T)
        weights.append(w)
    present = [w for w in weights if w is not None]
    if not present:
        fail(MIX, "weight_identity", "a tensor here or in weight_transpose", "None")
    if present[0].shape != present[-1].shape:
        fail(MIX, "weight_transpose", f"shape {list(present[0].shape)}", list(present[-1].shape))
    width = present[0].shape[1]
    slope = negative_slope_of(MIX, activation, negative_slope)
    parts = check_parts(MIX, {"row": row, "col": col, "diag": diag, "event": event}, T)
    nodes = next((t.shape[0] for name, t in parts.items() if t is not None and name != "event"), None)
    pairs = pairs_of(MIX, ptr, T, T.shape[0], nodes)
    table = make_table(MIX, pairs, T, width, **parts, bias=bias)
    return mix_table(T, weights[0], weights[1], table, pairs, slope)


def reduce_table(T: Tensor, pairs: Graph, reduce: str, weight: Tensor | None) -> Tensor:
    """diag, cols and rows, [n, 3, C]; reduce is "sum", "max" or "min"."""
    if not use_kernel(REDUCE, T, *([] if weight is None else [weight])):
        return reference.rank2_reduce(T, pairs, reduce, weight)
    arguments = *graph_arguments(pairs), pairs.num_nodes
    if reduce != "sum":
        return call("rank2_extremum", T, *arguments, reduce == "max")[0]
    if weight is not None:
        weight = weight[:, None, None].expand(-1, 2, T.shape[1])
    return call("rank2_sum", T, weight, None, *arguments)


def broadcast_table(table: Tensor, pairs: Graph) -> Tensor:
    if not use_kernel(BROADCAST, table):
        return reference.rank2_broadcast(table, pairs)
    return call("rank2_broadcast", table, None, None, *graph_arguments(pairs))


def mix_table(
    T: Tensor,
    identity: Tensor | None,
    transpose: Tensor | None,
    table: Tensor | None,
    pairs: Graph,
    slope: float,
) -> Tensor:
    tensors = [t for t in (T, identity, transpose, table) if t is not None]
    if not use_kernel(MIX, *tensors):
        return reference.rank2_mix(T, identity, transpose, table, pairs, slope)
    return call("rank2_mix", T, identity, transpose, table, *graph_arguments(pairs), pairs.num_nodes, slope)


def spread_events(values: Tensor, pairs: Graph) -> Tensor:
    """[n, C] from [n_events, C]: each particle gets its event's row."""
    events = pairs.events
    if not use_kernel("segment_reduce", values):
        return values[events.receiver]
    return call("gather_to_edges", values, None, *graph_arguments(events))


def make_table(
    op: str,
    pairs: Graph,
    like: Tensor,
    width: int,
    row: Tensor | None,
    col: Tensor | None,
    diag: Tensor | None,
    event: Tensor | None,
    bias: Tensor | None = None,
) -> Tensor | None:
    """What is broadcast to pairs, as [n, 3, D]: of the diagonal, of columns, of rows."""
    nodes = {"diag": diag, "col": col, "row": row}
    for name, t in nodes.items():
        if t is not None:
            nodes[name] = given(op, name, t, (pairs.num_nodes, width), like)
    if event is not None:
        check_tensor(op, "event", event, [pairs.ptr.shape[0] - 1, width], like=like)  # type: ignore[union-attr]
        spread = spread_events(event, pairs)
        nodes["row"] = spread if row is None else row + spread
    if bias is not None:
        bias = given(op, "bias", bias, (width,), like)
        base = nodes["row"]
        nodes["row"] = bias.expand(pairs.num_nodes, width) if base is None else base + bias
    present = [t for t in nodes.values() if t is not None]
    if not present:
        return None
    if len(present) < len(nodes):
        zeros = like.new_zeros(pairs.num_nodes, width)
        present = [zeros if t is None else t for t in nodes.values()]
    return torch.stack(present, dim=1)


def check_parts(op: str, parts: dict[str, Tensor | None], like: Tensor | None) -> dict[str, Tensor | None]:
    """Raised under autocast, and alike."""
    for name, t in parts.items():
        if t is None:
            continue
        t = parts[name] = promote(op, name, t)
        shape = ["n_events" if name == "event" else "n", "C"]
        check_tensor(op, name, t, shape, stored_as(t) if like is None else None, like)
        like = t if like is None else like
    return parts


def check_rank2(op: str, T: Tensor) -> Tensor:
    T = promote(op, "T", T)
    check_tensor(op, "T", T, ["n_pairs", "C"], stored_as(T))
    return T


def check_weight(op: str, weight: Tensor | None, pairs: Graph, like: Tensor) -> Tensor | None:
    if weight is None:
        return None
    weight = promote(op, "weight", weight)
    check_tensor(op, "weight", weight, [pairs.num_nodes], like=like)
    return weight


def product(rows: Tensor, matrix: Tensor) -> Tensor:
    """rows @ matrix, on the CPU with the same sums on any number of threads."""
    if not use_kernel(MIX, rows, matrix):
        return rows @ matrix
    return call("rows_product", rows, matrix)
