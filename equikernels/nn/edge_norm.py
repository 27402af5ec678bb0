"""BatchNorm over edges, folded into the node tables of the fused message op."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checks import fail
from ..graph import Graph
from ..metric import Metric
from ..ops.autograd import recomputed
from ..ops.common import promote
from ..ops.message.statistics import message_deviations

SMALL = 1 << 15  # numbers in a table of nodes: up to there, what statistics keep for backward is at most 8 MB a layer


class EdgeInput(NamedTuple):
    """What z_ij = A_i + B_j + S s_ij + Q a_ij is made of; see :func:`equikernels.message_passing`."""

    receiver: Tensor
    sender: Tensor
    invariant_weight: Tensor | None = None
    edge_weight: Tensor | None = None


def fold_batch_norm(
    norm: Any,
    z: EdgeInput,
    x: Tensor | None,
    graph: Graph,
    *,
    invariants: str = "both",
    metric: Metric = "minkowski",
    psi: bool = True,
    edge_attr: Tensor | None = None,
) -> EdgeInput:
    """The tables of norm(z), ``norm`` normalising over all edges as ``nn.BatchNorm1d`` would the gathered z [E, H].

    In evaluation the running statistics are used. In training those of the batch are (one pass over nodes, in
    float64), gradients flow through them, and the running statistics are updated as PyTorch does: unbiased variance,
    momentum, counter. A ``SyncBatchNorm`` takes its statistics over all processes of its group.

    Raises:
        ValueError: one edge only, in training, as ``nn.BatchNorm1d``; nothing has been updated then.
    """
    if norm.training or norm.running_mean is None or norm.running_var is None:

        def deviations(
            receiver: Tensor, sender: Tensor, x: Tensor | None, w: Tensor | None, a: Tensor | None, q: Tensor | None
        ) -> tuple[Tensor, ...]:
            return message_deviations(receiver, sender, x, graph, w, invariants, metric, psi, a, q)

        # Some thirty float64 tables of n rows are worth less than their memory where that is large: backward makes them
        # again. There is no autocast there, which raises 16 bits.
        receiver, sender = promote("BatchNorm", "z", z.receiver), promote("BatchNorm", "z", z.sender)
        x = None if x is None else promote("BatchNorm", "x", x)
        parts = receiver, sender, x, z.invariant_weight, edge_attr, z.edge_weight
        large = not torch.compiler.is_compiling() and z.receiver.numel() > SMALL
        count, mean, square = recomputed(deviations, *parts) if large else deviations(*parts)
        count, mean, square = _over_processes(norm, count.detach(), mean, square)
        if count.device.type == "cpu" and not torch.compiler.is_compiling() and count == 1:
            fail("BatchNorm", "graph", "more than one edge when training", 1)
        variance = square / count.clamp(min=1)  # over no edges there is nothing to normalise, and nothing is learned
        if norm.training:
            _update(norm, mean.detach(), variance.detach(), count)
    else:
        mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    scale, shift = scale.to(z.receiver.dtype), shift.to(z.receiver.dtype)
    column = scale[:, None]
    return EdgeInput(
        torch.addcmul(shift, z.receiver, scale),
        z.sender * scale,
        None if z.invariant_weight is None else z.invariant_weight * column,
        None if z.edge_weight is None else z.edge_weight * column,
    )


def _over_processes(norm: Any, count: Tensor, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and squared deviations over all processes of a SyncBatchNorm, from those of each."""
    if not isinstance(norm, nn.SyncBatchNorm) or not torch.distributed.is_initialized():
        return count, mean, square
    from torch.distributed.nn.functional import all_reduce

    group = norm.process_group or torch.distributed.group.WORLD
    everywhere = all_reduce(torch.cat([count[None], count * mean]), group=group)
    total_count, total_mean = everywhere[0], everywhere[1:] / everywhere[0].clamp(min=1)
    deviation = square + count * (mean - total_mean).square()
    return total_count, total_mean, all_reduce(deviation, group=group)


@torch.no_grad()
def _update(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor, count: Tensor) -> None:
    if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    if norm.momentum is None:  # a plain average over all batches
        assert norm.num_batches_tracked is not None
        momentum = norm.num_batches_tracked.double().reciprocal()
    else:
        momentum = torch.full_like(count, norm.momentum)
    factor = torch.where(count > 0, momentum, 0.0)
    unbiased = variance * count / (count - 1).clamp(min=1)
    norm.running_mean.add_(factor * (mean - norm.running_mean))
    norm.running_var.add_(factor * (unbiased - norm.running_var))
