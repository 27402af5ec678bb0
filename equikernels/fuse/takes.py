"""What fused blocks take of a call; other calls are left to the block's own forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import REAL
from ..metric import MAX_DIM
from ..ops.common import LOW_PRECISION
from .recipe import expect, plain_tensor


def takes_nodes(h: Any, x: Any, layer: nn.Module, width: int, dim: int | None = None) -> None:
    """Node features [n, width] in the dtype of the weights, and coordinates [n, dim] in it or in float64."""
    expect(plain_tensor(h, width) and plain_tensor(x, dim, h.shape[0]), "features or coordinates of another shape")
    expect(2 <= x.shape[1] <= MAX_DIM, f"coordinates of {x.shape[1]} dimensions")
    takes_dtype(h, layer)
    expect(x.dtype in (h.dtype, torch.float64) or cast(x), f"coordinates of {x.dtype} beside features of {h.dtype}")
    expect(x.device == h.device)


def takes_dtype(t: Tensor, layer: nn.Module) -> None:
    """A tensor in the dtype of the weights, which has a kernel; or in 16 bits, where autocast made it."""
    weights = getattr(getattr(layer, "weight", None), "dtype", None)  # of a replica too, whose weights are attributes
    known = weights in (None, t.dtype) and t.dtype in REAL
    expect(known or (cast(t) and weights in (None, *REAL)), f"features of {t.dtype} beside weights of {weights}")


def cast(t: Tensor) -> bool:
    """Whether autocast may have lowered this tensor's precision."""
    return t.dtype in LOW_PRECISION and torch.is_autocast_enabled(t.device.type)


def ends_of(edges: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """The two rows of an edge list, as published code unpacks it: index tensors [E], int64."""
    expect(isinstance(edges, Tensor | list | tuple) and len(edges) == 2, "edges that are no pair of index tensors")
    first, second = edges
    for end in (first, second):
        expect(isinstance(end, Tensor) and end.dim() == 1 and end.dtype == torch.int64, "edges that are not int64")
        expect(end.device == like.device)
    expect(first.shape == second.shape)
    return first, second


def takes_rank2(x: Tensor, weight: Tensor, width: int) -> None:
    """A padded tensor of this width, in the dtype of the weights or as autocast made it."""
    expect(x.shape[-1] == width and (x.dtype == weight.dtype or cast(x)), f"input of {x.dtype}")
    expect(weight.dtype in REAL and x.device == weight.device, f"weights of {weight.dtype}")


def takes_nobj(module: Any, nobj: Any, events: int) -> bool:
    """Whether a layer does not look at the multiplicity, or there is one number for each event."""
    if nobj is None or set(module.config) == {"s"}:
        return True
    return isinstance(nobj, Tensor) and nobj.numel() == events and nobj.shape[:1] == (events,)


def can_pack(x: Any, mask: Any) -> bool:
    """Whether there is a mask with a value per row; finding its rows needs its values."""
    if not isinstance(x, Tensor) or not (x.dtype in REAL or cast(x)):
        return False
    bools = isinstance(mask, Tensor) and mask.dtype == torch.bool
    return bools and mask.shape == (*x.shape[:-1], 1) and not torch.compiler.is_compiling()
