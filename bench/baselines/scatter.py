"""The package torch_scatter, if installed. It is distributed as source and built against the installed torch."""

from __future__ import annotations

from torch import Tensor

try:
    import torch_scatter

    missing = None
except (ImportError, OSError) as error:  # OSError: built against another torch
    missing = f"torch_scatter left out: {error}; to build it: pip install --no-build-isolation --no-deps torch_scatter"


def coordinate_update(x: Tensor, weight: Tensor, i: Tensor, j: Tensor) -> Tensor:
    shift = ((x.index_select(0, i) - x.index_select(0, j)) * weight).clamp(-100, 100)
    return x + torch_scatter.scatter(shift, i, dim=0, dim_size=len(x), reduce="mean")


def segment_sum(values: Tensor, i: Tensor, n: int) -> Tensor:
    return torch_scatter.scatter(values, i, dim=0, dim_size=n, reduce="sum")


def segment_max(values: Tensor, i: Tensor, n: int) -> Tensor:
    return torch_scatter.scatter(values, i, dim=0, dim_size=n, reduce="max")


def segment_softmax(values: Tensor, i: Tensor, n: int) -> Tensor:
    return torch_scatter.scatter_softmax(values, i, dim=0, dim_size=n)


def gather_segment_sum(nodes: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return torch_scatter.scatter(nodes.index_select(0, j), i, dim=0, dim_size=len(nodes), reduce="sum")
