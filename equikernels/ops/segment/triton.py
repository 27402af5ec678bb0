"""Segment sums, extrema, gather_to_edges and edge_dot on Triton: implementations of the dispatcher's ops.

Arguments are those of the ops' schemas, checked by the public ops; launches depend on shapes alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ...graph import CSR
from .. import triton_launch as to
from .triton_kernels import edge_dot_kernel, extremum_kernel, gather_to_edges_kernel, sum_kernel


def _sizes(graph: Tensor, num_edges: int, kind: int, num_nodes: int) -> tuple[int, ...]:
    return num_nodes, num_edges, *((0, 0) if kind == CSR else to.events_of(graph))


def _tile(channels: int) -> dict[str, Any]:
    wide = to.columns(channels)
    return {"CHANNELS": channels, "BLOCK": to.TILE // 2 // wide, "COLUMNS": wide}


def _grid(nodes: int, channels: int) -> tuple[int, int]:
    return nodes, triton.cdiv(channels, to.columns(channels))


def segment_sum(
    source: Tensor,
    weight: Tensor | None,
    arg: Tensor | None,
    graph: Tensor,
    num_edges: int,
    kind: int,
    num_nodes: int,
    rows: int,
    mean: bool,
) -> Tensor:
    source, channels = source.contiguous(), source.shape[1]
    result = source.new_empty(num_nodes, channels)
    if result.numel() > 0:
        to.launch(
            sum_kernel,
            _grid(num_nodes, channels),
            *(source, to.dense(weight), to.dense(arg), graph, result, *_sizes(graph, num_edges, kind, num_nodes)),
            KIND=kind,
            ROWS=rows,
            MEAN=mean,
            PER_CHANNEL=weight is not None and weight.dim() == 2,
            ACC=to.accumulator(source),
            **_tile(channels),
        )
    return result


def segment_extremum(
    source: Tensor,
    weight: Tensor | None,
    graph: Tensor,
    num_edges: int,
    kind: int,
    num_nodes: int,
    rows: int,
    largest: bool,
) -> tuple[Tensor, Tensor]:
    source, channels = source.contiguous(), source.shape[1]
    result = source.new_empty(num_nodes, channels)
    arg = source.new_empty(num_nodes, channels, dtype=torch.int64)
    if result.numel() > 0:
        to.launch(
            extremum_kernel,
            _grid(num_nodes, channels),
            *(source, to.dense(weight), graph, result, arg, *_sizes(graph, num_edges, kind, num_nodes)),
            KIND=kind,
            ROWS=rows,
            LARGEST=largest,
            PER_CHANNEL=weight is not None and weight.dim() == 2,
            ACC=to.accumulator(source),
            **_tile(channels),
        )
    return result, arg


def gather_to_edges(source: Tensor, arg: Tensor | None, graph: Tensor, num_edges: int, kind: int) -> Tensor:
    source, (nodes, channels) = source.contiguous(), source.shape
    result = source.new_empty(num_edges, channels)
    if result.numel() > 0:
        to.launch(
            gather_to_edges_kernel,
            _grid(nodes, channels),
            *(source, to.dense(arg), graph, result, *_sizes(graph, num_edges, kind, nodes)),
            KIND=kind,
            **_tile(channels),
        )
    return result


def edge_dot(
    receivers: Tensor,
    senders: Tensor,
    arg: Tensor | None,
    graph: Tensor,
    num_edges: int,
    kind: int,
    per_channel: bool,
) -> Tensor:
    receivers, senders, (nodes, channels) = receivers.contiguous(), senders.contiguous(), receivers.shape
    result = receivers.new_empty((num_edges, channels) if per_channel else (num_edges,))
    if channels == 0:
        return result.zero_()
    if result.numel() > 0:
        to.launch(
            edge_dot_kernel,
            (nodes,),
            *(receivers, senders, to.dense(arg), graph, result, *_sizes(graph, num_edges, kind, nodes)),
            KIND=kind,
            PER_CHANNEL=per_channel,
            ACC=to.accumulator(receivers),
            **_tile(channels),
        )
    return result
