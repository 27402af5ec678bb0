"""The rank-2 family on Triton: implementations of the dispatcher's ops, and how their kernels are launched.

Launches depend on shapes alone: nothing is read back, and a CUDA graph can hold them. Numbers of particles, pairs and
events are ordinary arguments; channels, which a network has few of, are compiled into the kernels. Arguments are
those of the ops' schemas, checked by the public ops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .. import triton_launch as to
from ..triton_common import dot_precision
from . import reference
from .triton_products import add_up_kernel, moments_kernel, outer_kernel, product_kernel

DEPTH = 16  # what one step of a product takes: channels, or rows of an outer product
MOST_SHARES = 512  # of an outer product's rows; each is summed by itself

Tile = dict[str, Any]


def cover(width: int, most: int) -> tuple[int, int]:
    """Two blocks, powers of two and the second perhaps empty, that hold ``width`` channels with little to spare; of
    more than ``most`` each program takes so many."""
    if width > most:
        return most, 0
    first = max(DEPTH, 1 << width.bit_length() - 1)
    if width <= first:
        return first, 0
    second = max(DEPTH, triton.next_power_of_2(width - first))
    return (2 * first, 0) if second == first else (first, second)


def block(width: int, most: int) -> int:
    """One block of channels: the fewest computed in vain, where a further block costs as much as 8 channels."""
    sizes = [size for size in (128, 64, 32, 16) if size <= most]
    return min(sizes, key=lambda size: triton.cdiv(width, size) * (size + 8))


def share(rows: int) -> int:
    """Rows of one program's share of an outer product: 128 at least."""
    return max(128, triton.cdiv(triton.cdiv(rows, MOST_SHARES), DEPTH) * DEPTH)


def product_tile(width: int, dtype: torch.dtype) -> Tile:
    """How a product is cut. IEEE float32 and float64 live in registers, what tensor cores take streams through shared
    memory; what the compiler makes of it is held to no spills by the tests."""
    double, precision = dtype == torch.float64, dot_precision(dtype)
    first, second = cover(width, 64 if double else 128)
    return {
        "ACC": tl.float64 if double else tl.float32,
        "PRECISION": precision,
        "BLOCK": 32 if double else 64,
        "K": DEPTH,
        "FIRST": first,
        "SECOND": second,
        "num_warps": 8 if first + second > 80 else 4,
        "num_stages": 3 if _on_tensor_cores(dtype) else 1,
    }


def outer_tile(channels: int, width: int, dtype: torch.dtype) -> Tile:
    double, precision = dtype == torch.float64, dot_precision(dtype)
    most = 64 if double else 128
    first, second = cover(channels, most)
    wide = block(width, most)
    return {
        "ACC": tl.float64 if double else tl.float32,
        "PRECISION": precision,
        "BLOCK": 2 * DEPTH if _on_tensor_cores(dtype) else DEPTH,
        "FIRST": first,
        "SECOND": second,
        "COLUMNS": wide,
        "num_warps": 8 if double or first + second > 80 or wide > 64 else 4,
        "num_stages": 3 if _on_tensor_cores(dtype) else 1,
    }


def _on_tensor_cores(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16) or dot_precision(dtype) == "tf32"


def _product(
    x: Tensor,
    activated: Tensor | None,
    identity: Tensor | None,
    transpose: Tensor | None,
    table: Tensor | None,
    graph: Tensor | None,
    slope: float,
    bias: Tensor | None = None,
) -> Tensor:
    """act(x_ij W + x_ji V + table + bias), or without act that of gradients x that come through it."""
    given = [w for w in (identity, transpose) if w is not None]
    if len(given) == 2 and given[0].stride() != given[1].stride():
        given = [w.contiguous() for w in given]
        identity, transpose = given
    x, table = x.contiguous(), to.dense(table)
    (rows, channels), width = x.shape, given[0].shape[1]
    result = x.new_empty(rows, width)
    if rows * width == 0:
        return result
    tile = product_tile(width, x.dtype)
    graph = graph if table is not None or transpose is not None else None
    to.launch(
        product_kernel,
        (triton.cdiv(rows, tile["BLOCK"]), triton.cdiv(width, tile["FIRST"] + tile["SECOND"])),
        *(x, to.dense(activated), identity, transpose, *given[0].stride(), to.dense(bias), table, graph, result),
        *(rows, *to.events_of(graph)),
        IN=channels,
        WIDTH=width,
        SLOPE=slope,
        **tile,
    )
    return result


def _outer(
    x: Tensor,
    grad: Tensor,
    activated: Tensor | None,
    graph: Tensor | None,
    slope: float,
    identity: bool,
    transpose: bool,
) -> tuple[Tensor, Tensor]:
    """Sums of x_ij^T grad_ij and of x_ji^T grad_ij; empty where not asked for."""
    x, grad = x.contiguous(), grad.contiguous()
    (rows, channels), width = x.shape, grad.shape[1]
    results = [x.new_empty((channels, width) if wanted else (0,)) for wanted in (identity, transpose)]
    size, both = channels * width, identity and transpose
    stacked = 2 * channels if both else channels
    if size == 0:
        return results[0], results[1]
    rows_each = share(rows)
    shares = triton.cdiv(rows, rows_each)
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    partials = x.new_empty((shares, stacked, width), dtype=wide)
    if shares > 0:
        tile = outer_tile(stacked, width, x.dtype)
        graph = graph if transpose else None
        to.launch(
            outer_kernel,
            (shares, triton.cdiv(stacked, tile["FIRST"] + tile["SECOND"]), triton.cdiv(width, tile["COLUMNS"])),
            *(x, grad, to.dense(activated), graph, partials, rows, rows_each, *to.events_of(graph)),
            IN=channels,
            WIDTH=width,
            IDENTITY=identity,
            TRANSPOSE=transpose,
            SLOPE=slope,
            **tile,
        )
    _add_up(partials, results[0] if identity else results[1], results[1] if both else None)
    return results[0], results[1]


def _add_up(partials: Tensor, first: Tensor, second: Tensor | None) -> None:
    """Sums of shares, in order, into one tensor or, of both halves, two."""
    shares, total = partials.shape[0], first.numel() * (1 if second is None else 2)
    to.launch(
        add_up_kernel,
        (triton.cdiv(total, 64),),
        *(partials, first, second, shares),
        SIZE=first.numel(),
        TOTAL=total,
        BLOCK=32,
        AT=64,
    )


def rank2_mix(
    tensor: Tensor,
    identity: Tensor | None,
    transpose: Tensor | None,
    table: Tensor | None,
    graph: Tensor,
    num_edges: int,
    kind: int,
    num_nodes: int,
    slope: float,
) -> Tensor:
    return _product(tensor, None, identity, transpose, table, graph, slope)


def rank2_mix_backward(
    grad: Tensor,
    activated: Tensor | None,
    tensor: Tensor,
    identity: Tensor | None,
    transpose: Tensor | None,
    _: Tensor | None,
    graph: Tensor,
    num_edges: int,
    kind: int,
    num_nodes: int,
    slope: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad, slope = grad.contiguous(), 1.0 if activated is None else slope
    of_tensor, of_identity, of_transpose, of_table = (tensor.new_empty(0) for _ in range(4))
    if wanted[0]:
        turned = [None if w is None else w.t() for w in (identity, transpose)]
        of_tensor = _product(grad, activated, turned[0], turned[1], None, graph, slope)
    if wanted[1]:
        sides = identity is not None, transpose is not None
        of_identity, of_transpose = _outer(tensor, grad, activated, graph, slope, *sides)
    if wanted[2]:
        inner = reference.through(grad, activated, slope)
        of_table = torch.ops.equikernels.rank2_sum(inner, None, None, graph, num_edges, kind, num_nodes)
    return of_tensor, of_identity, of_transpose, of_table


def rows_product(x: Tensor, weight: Tensor) -> Tensor:
    return _product(x, None, weight, None, None, None, 1.0)


def rows_outer(x: Tensor, grad: Tensor) -> Tensor:
    return _outer(x, grad, None, None, 1.0, True, False)[0]


def rows_network(tensors: list[Tensor | None], *rest: Any) -> list[Tensor]:
    x, weight, bias, *of_norm = tensors
    options = reference.RowsOptions.decoded(*rest[-2:])
    assert x is not None
    out = x if weight is None else _product(x, None, weight.t(), None, None, None, options.slope, bias)
    moments = _moments(out) if options.norm == reference.BATCH else out.new_empty(0, dtype=torch.float64)
    affine, running = reference.norm_of(moments, out, of_norm, options)
    return [x.new_empty(0) if weight is None else out, affine, moments, running]


def _moments(x: Tensor) -> Tensor:
    """Mean and biased variance of each channel, float64 [2, C]; 0 over no rows."""
    rows, channels = x.shape
    sums = x.new_zeros(2, channels, dtype=torch.float64)
    if rows * channels == 0:
        return sums
    # about the first row, where it is finite: what is then summed is as small as the spread
    about = x[0].double().nan_to_num(0.0, 0.0, 0.0)
    rows_each, wide = share(rows), to.columns(channels)
    shares = triton.cdiv(rows, rows_each)
    partials = sums.new_empty(shares, 2, channels)
    to.launch(
        moments_kernel,
        (shares, triton.cdiv(channels, wide)),
        *(x.contiguous(), about, partials, rows, rows_each),
        CHANNELS=channels,
        BLOCK=to.TILE // 2 // wide,
        COLUMNS=wide,
    )
    _add_up(partials, sums, None)
    mean, square = sums / rows
    return torch.stack([about + mean, (square - mean * mean).clamp(min=0)])


def rows_network_backward(
    grads: list[Tensor | None], tensors: list[Tensor | None], saved: list[Tensor], *rest: Any
) -> list[Tensor]:
    (grad, to_affine), (x, weight, _, *of_norm), (out, moments) = grads, tensors, saved
    options, wanted = reference.RowsOptions.decoded(*rest[-3:-1]), rest[-1]
    assert x is not None
    out = x if weight is None else out
    g = torch.zeros_like(out) if grad is None else grad
    gamma, _, mean, variance = of_norm
    to_norm: Sequence[Tensor | None] = [None] * 4
    if to_affine is not None:
        batch = options.norm == reference.BATCH
        mean, variance = moments.unbind() if batch else (mean, variance)
        assert mean is not None
        assert variance is not None
        to_norm = _, _, to_mean, to_variance = reference.through_norm(to_affine, mean, variance, gamma, options.eps)
        if batch:  # d mean = d out / rows, d variance = 2 (out - mean) d out / rows
            per_mean, per_variance = to_mean / out.shape[0], to_variance / out.shape[0]
            g = g + (per_mean - 2 * per_variance * mean).to(x.dtype) + (2 * per_variance).to(x.dtype) * out
    g = reference.through(g, out, options.slope)
    results = []
    if wanted[0]:
        results.append(g if weight is None else _product(g, None, weight, None, None, None, 1.0))
    if wanted[1]:
        results.append(_outer(g, x, None, None, 1.0, True, False)[0])
    if wanted[2]:
        results.append(g.sum(0))
    for want, parameter, found in zip(wanted[3:], of_norm, to_norm, strict=True):
        if parameter is not None and want:
            results.append(torch.zeros_like(parameter) if found is None else found.to(parameter.dtype))
    return results
