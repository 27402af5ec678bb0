"""Checks the features and events of a network, and casts features to the dtype of its weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import FLOATING, REAL, check_tensor, fail
from ..graph import Graph


def check_weights(op: str, weight: Tensor, dtypes: Sequence[torch.dtype] = REAL) -> None:
    """The weights must be of a dtype that the kernels read."""
    if weight.dtype not in dtypes:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        expected = f"dtype {names} (for products of 16 bits: torch.autocast)"
        fail(op, "weights", expected, str(weight.dtype).removeprefix("torch."), TypeError)


def cast_features(op: str, argument: str, value: Tensor, rows: int, width: int, weight: Tensor) -> Tensor:
    """``value`` [rows, width] of any floating dtype, in that of ``weight``, which multiplies it."""
    check_weights(op, weight)
    check_tensor(op, argument, value, [rows, width], FLOATING)
    return value.to(weight.dtype)


def check_features(op: str, argument: str, value: Tensor, rows: int, width: int, weight: Tensor) -> None:
    """``value`` must be [rows, width] and, outside autocast, of the dtype of ``weight``."""
    check_weights(op, weight)
    check_tensor(op, argument, value, [rows, width])
    check_dtype(op, argument, value, weight)


def check_dtype(op: str, argument: str, value: Tensor, weight: Tensor) -> None:
    """``value`` must have the dtype of ``weight``; under autocast any dtype of products."""
    check_tensor(op, argument, value)
    autocast = torch.is_autocast_enabled(value.device.type)
    check_tensor(op, argument, value, dtypes=FLOATING if autocast else [weight.dtype])


def complete_graph(op: str, ptr: Tensor | Graph, n: int) -> Graph:
    """The complete graph of the events of n particles; ``ptr`` are their offsets, or this graph."""
    graph = ptr if isinstance(ptr, Graph) else Graph.complete(ptr, num_nodes=n)
    if not graph.is_complete or graph.num_nodes != n:
        fail(op, "ptr", f"offsets of {n} particles, or a complete graph over them", graph)
    return graph
