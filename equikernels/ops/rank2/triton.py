"""The rank-2 family on Triton: implementations of the dispatcher's ops, and how their kernels are launched.

Launches depend on shapes alone: nothing is read back, and a CUDA graph can hold them. Numbers of particles, pairs and
events are ordinary arguments; channels, which a network has few of, are compiled into the kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_kernels as kernels

ROWS = 64  # of a product's tile
DEPTH = 16  # channels or rows that one step of a product takes
MOST_COLUMNS = 128  # of a product's tile
TILE = 2048  # numbers of a tile that is not a product's


def cover(width: int) -> tuple[int, int]:
    """Two blocks, powers of two and the second perhaps empty, that hold ``width`` channels with little to spare; of
    more than MOST_COLUMNS each program takes so many."""
    if width > MOST_COLUMNS:
        return MOST_COLUMNS, 0
    first = max(DEPTH, 1 << width.bit_length() - 1)
    if width <= first:
        return first, 0
    second = max(DEPTH, triton.next_power_of_2(width - first))
    return (2 * first, 0) if second == first else (first, second)


def block(width: int) -> int:
    """One block of channels: the fewest that are computed in vain, where a further block costs as much as 8."""
    sizes = (128, 64, 32, 16)
    return min(sizes, key=lambda size: triton.cdiv(width, size) * (size + 8))


def columns(channels: int) -> int:
    """Channels of a tile that is not a product's."""
    return min(64, triton.next_power_of_2(channels))


def halvings(events: int) -> int:
    """Steps of a search through the events."""
    return max(events - 1, 0).bit_length()


def span(rows: int) -> int:
    """Rows of one program's share of a sum over rows: 256 at least, and at most 512 shares."""
    return max(256, triton.cdiv(triton.cdiv(rows, 512), DEPTH) * DEPTH)


def _accumulator(t: Tensor) -> tl.dtype:
    return tl.float64 if t.dtype == torch.float64 else tl.float32


def _precision() -> str:
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def _guard(t: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(t.device) if t.is_cuda else nullcontext()


def _events(graph: Tensor) -> int:
    return graph.shape[0] // 2 - 1


def _search(graph: Tensor | None) -> dict[str, int]:
    events = 0 if graph is None else _events(graph)
    return {"events": events, "halvings": halvings(events)}


def _product(
    x: Tensor,
    activated: Tensor | None,
    identity: Tensor | None,
    transpose: Tensor | None,
    table: Tensor | None,
    graph: Tensor | None,
    slope: float,
) -> Tensor:
    """act(x_ij W + x_ji V + table), or that of gradients x that come through act."""
    given = [w for w in (identity, transpose) if w is not None]
    if len(given) == 2 and given[0].stride() != given[1].stride():
        given = [w.contiguous() for w in given]
        identity, transpose = given
    x = x.contiguous()
    (rows, channels), width = x.shape, given[0].shape[1]
    result = x.new_empty(rows, width)
    if rows * width == 0:
        return result
    first, second = cover(width)
    with _guard(x):
        kernels.product_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(width, first + second))](
            x,
            None if activated is None else activated.contiguous(),
            identity,
            transpose,
            *given[0].stride(),
            None if table is None else table.contiguous(),
            graph if table is not None or transpose is not None else None,
            result,
            rows,
            **_search(graph),
            IN=channels,
            WIDTH=width,
            SLOPE=slope,
            ACC=_accumulator(x),
            PRECISION=_precision(),
            BLOCK=ROWS,
            K=DEPTH,
            FIRST=first,
            SECOND=second,
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
    """sum of x_ij^T grad_ij and sum of x_ji^T grad_ij; empty where not asked for."""
    x, grad = x.contiguous(), grad.contiguous()
    (rows, channels), width = x.shape, grad.shape[1]
    results = [x.new_empty((channels, width) if wanted else (0,)) for wanted in (identity, transpose)]
    size, both = channels * width, identity and transpose
    total = 2 * size if both else size
    share, (first, second), column = span(rows), cover(2 * channels if both else channels), block(width)
    programs = triton.cdiv(rows, share)
    partials = x.new_empty((programs, total), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    if total == 0:
        return results[0], results[1]
    with _guard(x):
        if programs > 0:
            tiles = triton.cdiv(2 * channels if both else channels, first + second), triton.cdiv(width, column)
            kernels.outer_kernel[(programs, *tiles)](
                x,
                grad,
                None if activated is None else activated.contiguous(),
                graph if transpose else None,
                partials,
                rows,
                share,
                **_search(graph),
                IN=channels,
                WIDTH=width,
                IDENTITY=identity,
                TRANSPOSE=transpose,
                SLOPE=slope,
                ACC=_accumulator(x),
                PRECISION=_precision(),
                BLOCK=DEPTH,
                FIRST=first,
                SECOND=second,
                COLUMNS=column,
            )
        kernels.add_up_kernel[(triton.cdiv(total, 64),)](
            partials,
            results[0] if identity else results[1],
            results[1] if both else None,
            programs,
            SIZE=size,
            TOTAL=total,
            BLOCK=32,
            AT=64,
        )
    return results[0], results[1]


def _sides(weight: Tensor | None) -> tuple[Tensor | None, int, int, int]:
    if weight is None:
        return None, 0, 0, 0
    return weight, weight.stride(0), weight.stride(1), weight.stride(2)


def _sum(
    x: Tensor, activated: Tensor | None, weight: Tensor | None, arg: Tensor | None, graph: Tensor, n: int, slope: float
) -> Tensor:
    x, channels = x.contiguous(), x.shape[1]
    result = x.new_empty(n, 3, channels)
    if result.numel() == 0:
        return result
    with _guard(x):
        kernels.sum_kernel[(n, triton.cdiv(channels, columns(channels)))](
            x,
            None if activated is None else activated.contiguous(),
            *_sides(weight),
            None if arg is None else arg.contiguous(),
            graph,
            result,
            **_search(graph),
            CHANNELS=channels,
            SLOPE=slope,
            ACC=_accumulator(x),
            BLOCK=TILE // columns(channels) // 2,
            COLUMNS=columns(channels),
        )
    return result


def rank2_sum(
    tensor: Tensor,
    weight: Tensor | None,
    arg: Tensor | None,
    graph: Tensor,
    num_edges: int,
    kind: int,
    num_nodes: int,
) -> Tensor:
    return _sum(tensor, None, weight, arg, graph, num_nodes, 1.0)


def rank2_broadcast(
    table: Tensor, weight: Tensor | None, arg: Tensor | None, graph: Tensor, num_edges: int, kind: int
) -> Tensor:
    table, channels = table.contiguous(), table.shape[2]
    result = table.new_empty(num_edges, channels)
    if result.numel() == 0:
        return result
    rows, width = TILE // columns(channels), columns(channels)
    with _guard(table):
        kernels.broadcast_kernel[(triton.cdiv(num_edges, rows), triton.cdiv(channels, width))](
            table,
            *_sides(weight),
            None if arg is None else arg.contiguous(),
            graph,
            result,
            num_edges,
            **_search(graph),
            CHANNELS=channels,
            BLOCK=rows,
            COLUMNS=width,
        )
    return result


def rank2_extremum(
    tensor: Tensor, graph: Tensor, num_edges: int, kind: int, num_nodes: int, largest: bool
) -> tuple[Tensor, Tensor]:
    tensor, channels = tensor.contiguous(), tensor.shape[1]
    result = tensor.new_empty(num_nodes, 3, channels)
    arg = tensor.new_empty(num_nodes, 2, channels, dtype=torch.int32)
    if result.numel() == 0:
        return result, arg
    with _guard(tensor):
        kernels.extremum_kernel[(num_nodes, triton.cdiv(channels, columns(channels)))](
            tensor,
            graph,
            result,
            arg,
            **_search(graph),
            CHANNELS=channels,
            LARGEST=largest,
            BLOCK=TILE // columns(channels) // 2,
            COLUMNS=columns(channels),
        )
    return result, arg


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
        of_table = _sum(grad, activated, None, None, graph, num_nodes, slope)
    return of_tensor, of_identity, of_transpose, of_table


def rows_product(x: Tensor, weight: Tensor) -> Tensor:
    return _product(x, None, weight, None, None, None, 1.0)


def rows_outer(x: Tensor, grad: Tensor) -> Tensor:
    return _outer(x, grad, None, None, 1.0, True, False)[0]


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        rank2_sum,
        rank2_broadcast,
        rank2_extremum,
        rank2_mix,
        rank2_mix_backward,
        rows_product,
        rows_outer,
    )
}
