"""BatchNorm over the batches of all processes, on CPUs too."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..ops.message_passing.edge_mlp import update_running
from ..ops.message_passing.synchronised import over_processes
from .pelican import PairBatchNorm


class SyncBatchNorm(nn.BatchNorm1d):
    """nn.BatchNorm1d whose statistics in training are those of all processes of torch.distributed's default group.

    torch.nn.SyncBatchNorm is for GPUs alone. State-dict keys are the same; the fused ops measure it inside.
    """

    synchronised = True
    process_group = None
    equikernels_own = nn.BatchNorm1d  # fused ops read its parameters

    def forward(self, input: Tensor) -> Tensor:
        """As nn.BatchNorm1d on [n, C] or [n, C, L]."""
        if not (self.training and torch.distributed.is_initialized()):
            return super().forward(input)
        if input.dim() > 2:  # every position is a row
            rows = input.movedim(1, -1)
            return self(rows.flatten(0, -2)).view(rows.shape).movedim(-1, 1)
        rows = input.double()
        count = torch.full((), float(len(rows)), dtype=torch.float64, device=input.device)
        mean = rows.mean(0) if len(rows) else rows.sum(0)
        variance = (rows - mean).square().mean(0) if len(rows) else rows.sum(0)
        total, mean, variance = over_processes(self, count, mean, variance)
        update_running(self, mean.detach(), (variance * total / (total - 1).clamp(min=1)).detach(), int(total))
        # F.batch_norm takes no statistics that have a gradient
        normed = (input - mean.to(input.dtype)) * (variance + self.eps).rsqrt().to(input.dtype)
        return normed if self.weight is None else torch.addcmul(self.bias, normed, self.weight)

    @classmethod
    def convert(cls, module: nn.Module) -> nn.Module:
        """Makes every nn.BatchNorm1d and nn.BatchNorm2d inside a module one of these, in place; they hold the same
        tensors.

        PELICAN's norms over pairs stay what they are, and measure over all processes too. Other classes are left alone.
        """
        for child in module.modules():
            if type(child) is nn.BatchNorm1d:
                child.__class__ = cls
            elif type(child) is nn.BatchNorm2d:
                child.__class__ = SyncBatchNorm2d  # type: ignore[assignment]
            elif isinstance(child, PairBatchNorm):
                child.synchronised = True
        return module


class SyncBatchNorm2d(SyncBatchNorm):
    """The same of nn.BatchNorm2d, on [n, C, H, W]."""

    equikernels_own = nn.BatchNorm2d  # type: ignore[assignment]

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):  # 2: its positions as rows
            raise ValueError(f"SyncBatchNorm2d: input: expected 4 dimensions, got {input.dim()}")
