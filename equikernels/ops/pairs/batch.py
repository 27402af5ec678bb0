"""The pairs of a batch of events, and activations by name."""

from __future__ import annotations

import torch
from torch import Tensor

from ...checks import check_choice, check_number, fail
from ...graph import Graph

ACTIVATIONS = ("identity", "relu", "leaky_relu")

Pairs = Tensor | Graph


def negative_slope_of(op: str, activation: str, negative_slope: float, argument: str = "activation") -> float:
    """An activation as the slope it has below zero."""
    if activation == "identity":
        return 1.0
    if activation == "relu":
        return 0.0
    check_choice(op, argument, activation, ACTIVATIONS)
    return check_number(op, "negative_slope", negative_slope, 0)


def pairs_of(op: str, ptr: Pairs, like: Tensor, num_pairs: int | None, num_nodes: int | None = None) -> Graph:
    """The pairs of a batch; ``num_pairs`` rows are expected, where known.

    Under torch.compile and torch.export values cannot be looked at: the CPU kernels check them when they run.
    """
    compiling = torch.compiler.is_compiling()
    if isinstance(ptr, Graph):
        if not ptr.is_complete:
            fail(op, "ptr", "offsets or a complete graph", "a sparse graph")
        pairs = ptr.pairs
    else:
        if not isinstance(ptr, Tensor):
            fail(op, "ptr", "a tensor or a Graph", type(ptr).__name__, TypeError)
        if ptr.device != like.device:
            fail(op, "ptr", f"device {like.device}", ptr.device)
        known = num_pairs if compiling else None
        complete = Graph.complete if compiling else Graph._complete
        pairs = complete(ptr, True, num_nodes=num_nodes, num_edges=known, validate=not compiling)
    if pairs.device != like.device:
        fail(op, "ptr", f"device {like.device}", pairs.device)
    if num_pairs is None:
        return pairs
    if compiling:
        if pairs._num_edges is not None:
            return pairs
        return Graph._new(pairs.num_nodes, num_pairs, pairs._kind, pairs._indices)
    if pairs.num_edges != num_pairs:
        fail(op, "T", f"{pairs.num_edges} rows, one per pair", num_pairs)
    return pairs
