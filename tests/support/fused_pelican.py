"""Batches for published PELICAN layers, and what such a layer gives beside its fused copy."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.fuse import pairs
from equikernels.fuse.swap import is_fused
from equikernels.published.pelican import Net2to2

SIZES = (3, 1, 5)
NODES = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))


def edges(self_loops: bool = True, shuffled: bool = True) -> Tensor:
    """[2, E] (i, j)."""
    ptr = torch.tensor([0, *SIZES]).cumsum(0)
    rows = ek.Graph.complete(ptr, self_loops).edge_index.flip(0)
    order = torch.randperm(rows.shape[1], generator=torch.Generator().manual_seed(4))
    return rows[:, order] if shuffled else rows.contiguous()


def stack(batchnorm: str | None = "b", masked: bool = True, **options: Any) -> Net2to2:
    return Net2to2([[4, 3], [5, 4]], [5, 4], batchnorm, masked, **options)


def padded_batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x [3, 5, 5, 4] (its padding not zero), real [3, 5], mask of pairs, nobj [3, 1]."""
    generator = torch.Generator().manual_seed(2)
    real = torch.tensor([[1, 1, 1, 0, 1], [0, 1, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    x = torch.randn(3, 5, 5, 4, generator=generator, dtype=torch.float64).to(dtype)
    return x, real, (real[:, :, None] & real[:, None, :])[..., None], real.sum(-1, keepdim=True)


def outcome(module: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> tuple[list[str], list[Tensor]]:
    """Names and values: the result, the gradients of x and of all parameters, the buffers afterwards."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    out = module(x, *args, **kwargs)
    generator = torch.Generator().manual_seed(7)
    out.backward(torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype))
    named = {"result": out.detach(), "x": x.grad}
    named |= {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in module.named_parameters()}
    named |= {n: b.detach().clone() for n, b in module.named_buffers()}
    return list(named), list(named.values())


def assert_the_same(module: nn.Module, x: Tensor, *args: Any, tolerance: float = 1e-11, **kwargs: Any) -> nn.Module:
    """Fuses a copy and compares, in eval and in training. Errors in units of the largest gradient."""
    fused = copy.deepcopy(module)
    parameters, keys = dict(fused.named_parameters()), list(fused.state_dict())
    assert ek.fuse_(fused) is fused
    assert is_fused(fused)
    assert list(fused.state_dict()) == keys
    assert all(fused.get_parameter(n) is p for n, p in parameters.items())
    for training in (False, True):
        names, theirs = outcome(module.train(training), x, *args, **kwargs)
        _, ours = outcome(fused.train(training), x, *args, **kwargs)
        scale = max(t.abs().max().item() for t in theirs[1:])
        for name, a, b in zip(names, ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}")
    return fused


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    made: list[Any] = []
    make = getattr(pairs, name)

    def watched(*args: Any) -> Any:
        made.append(make(*args))
        return made[-1]

    monkeypatch.setattr(pairs, name, watched)
    return made
