"""Statistics of a SyncBatchNorm: over the edges or rows of all processes of its group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ...checks import fail
from .edge_mlp import EdgeMLP, is_measured, update_running


def is_synchronised(norm: Any) -> bool:
    """Whether a norm's module measures over all processes, and there are others."""
    wanted = isinstance(norm, nn.SyncBatchNorm) or getattr(norm, "synchronised", False)
    return wanted and torch.distributed.is_initialized()


def synchronise(op: str, mlp: EdgeMLP, rows: int, statistics: Callable[[EdgeMLP], Tensor]) -> EdgeMLP:
    """The network with the first layer's statistics given, taken over all processes; keeps the running averages.

    Args:
        op: message_passing or row_mlp.
        mlp: a network whose first layer has a measured SyncBatchNorm.
        rows: how many edges or rows this process has.
        statistics: mean and variance [2, C] of a network's measured norm on this process, differentiable.

    Raises:
        ValueError: a SyncBatchNorm behind the first layer, or fewer than two edges or rows in all.
    """
    for k, layer in enumerate(mlp.layers[1:], 1):
        if layer.norm is not None and is_measured(layer.norm) and is_synchronised(layer.norm.module):
            fail(op, f"layers[{k}] norm", "a SyncBatchNorm behind the first linear layer alone", k)
    first = mlp.layers[0]
    norm = first.norm
    assert norm is not None
    mean, variance = statistics(EdgeMLP((first,), 1, None, mlp.order)).unbind()
    count = torch.full((), float(rows), dtype=torch.float64, device=mean.device)
    total, mean, variance = over_processes(norm.module, count, mean, variance)
    if mean.device.type == "cpu" and total == 1:
        fail("BatchNorm", op, "more than one edge or row when training", 1)
    unbiased = variance * total / (total - 1).clamp(min=1)
    known = int(total) if total.device.type == "cpu" else None
    update_running(norm.module, mean.detach(), unbiased.detach(), known)
    dtype = first.weight.dtype
    given = norm._replace(mean=mean.to(dtype), variance=variance.to(dtype))
    return EdgeMLP((first._replace(norm=given), *mlp.layers[1:]), mlp.depth, mlp.gate, mlp.order)


def over_processes(norm: Any, count: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and biased variance over all processes, from those of each."""
    from torch.distributed.nn.functional import all_reduce

    group = norm.process_group or torch.distributed.group.WORLD
    everywhere = all_reduce(torch.cat([count[None], count * mean]), group=group)
    total, total_mean = everywhere[0], everywhere[1:] / everywhere[0].clamp(min=1)
    square = count * (variance + (mean - total_mean).square())
    return total.detach(), total_mean, all_reduce(square, group=group) / total.detach().clamp(min=1)
