"""Weights and inputs by formula, and stored outputs of published code."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn


def fill(key: str, like: Tensor) -> Tensor:
    """The value of one entry of a state dict: float64, from its key (as published, without prefixes) and shape."""
    if not like.is_floating_point():
        return torch.zeros_like(like)
    phase = 2 * math.pi * (crc32(key.encode()) % 1000) / 1000
    s = torch.sin(phase + 0.7 * torch.arange(like.numel(), dtype=torch.float64)).reshape(like.shape)
    if key.endswith("running_var"):
        return 1 + 0.5 * s * s
    if like.dim() <= 1:
        return 0.3 * s + (1 if key.endswith("weight") else 0)
    return s / math.sqrt(like.numel() / like.shape[0])


def filled(module: nn.Module) -> nn.Module:
    """The module in float64 with all parameters and buffers filled."""
    module.double().load_state_dict({key: fill(key, value) for key, value in module.state_dict().items()})
    return module


def jets(*sizes: int) -> tuple[Tensor, Tensor]:
    """(p4 [n, 4] float64, ptr): massive particles (E, px, py, pz)."""
    b = torch.repeat_interleave(torch.tensor(sizes)).double()
    i = torch.cat([torch.arange(n) for n in sizes]).double()
    px = 10 * torch.sin(1.3 * i + 0.5 * b + 0.1)
    py = 8 * torch.cos(0.9 * i - 0.3 * b)
    pz = 15 * torch.sin(0.4 * i + 0.2 * b + 1)
    m = 0.1 * (1 + i % 3)
    energy = torch.sqrt(px * px + py * py + pz * pz + m * m)
    return torch.stack([energy, px, py, pz], dim=1), torch.tensor([0, *sizes]).cumsum(0)


def stored(name: str) -> dict[str, Any]:
    """Inputs, weights, outputs and gradients of a published implementation, from published_outputs/."""
    return torch.load(Path(__file__).parent / "published_outputs" / f"{name}.pt", weights_only=True)
