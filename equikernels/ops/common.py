"""Argument handling shared by all ops: autocast, graphs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from .. import _triton
from ..checks import FLOATING, REAL, check_tensor, fail
from ..graph import CSR, Graph

LOW_PRECISION = (torch.bfloat16, torch.float16)

# A graph in an op's schema: Tensor graph (its table), SymInt num_edges, int kind.
GraphArguments = tuple[Tensor, int, int]


def promote(op: str, argument: str, t: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Under autocast, raises a low-precision tensor to ``dtype``: coordinates and sums are never kept in 16 bits."""
    if not isinstance(t, Tensor):
        fail(op, argument, "a tensor", type(t).__name__, TypeError)
    if t.dtype in LOW_PRECISION and torch.is_autocast_enabled(t.device.type):
        return t.to(dtype)
    return t


def given(op: str, argument: str, t: Tensor, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """:func:`promote` and :func:`check_tensor`, of a tensor beside another: sooner, where nothing is wrong."""
    if isinstance(t, Tensor) and t.dtype == like.dtype and t.device == like.device and t.shape == shape:
        return t
    t = promote(op, argument, t)
    check_tensor(op, argument, t, shape, like=like)
    return t


def stored_as(t: Tensor) -> tuple[torch.dtype, ...]:
    """The dtypes of features on the device of ``t``: also 16 bits if GPU kernels sum them in float32."""
    return FLOATING if t.device.type == "cuda" or _triton.INTERPRETED else REAL


def as_computed(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """16-bit tensors as float32, in which they are added."""
    return [t.float() if t is not None and t.dtype in LOW_PRECISION else t for t in tensors]


def without_autocast(device: str) -> AbstractContextManager[object]:
    """Disables autocast, because sums over particles must not use 16 bits; no-op without autocast, since torch.export
    would nest a graph."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def tf32_for(dtype: torch.dtype) -> bool:
    """Whether PyTorch's settings allow GPUs to round factors of this dtype to TF32."""
    return dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"


def allows_tf32(t: Tensor) -> bool:
    """The same of these numbers, where they are."""
    return t.is_cuda and tf32_for(t.dtype)


def check_graph(op: str, graph: Graph, like: Tensor) -> None:
    """The graph must have one node per row of ``like`` and live on its device."""
    if not isinstance(graph, Graph):
        fail(op, "graph", "an equikernels.Graph", type(graph).__name__, TypeError)
    if graph.num_nodes != like.shape[0]:
        fail(op, "graph", f"{like.shape[0]} nodes", graph.num_nodes)
    if graph.device != like.device:
        fail(op, "graph", f"device {like.device}", graph.device)


def as_graph(op: str, edges: Graph | Tensor, num_nodes: int) -> Graph:
    """A layer's or a network's edges: a Graph, or PyG's edge_index (row 0 senders, row 1 receivers)."""
    if isinstance(edges, Graph):
        return edges
    if not isinstance(edges, Tensor):
        # Other code passes edges as a pair of index tensors whose first may be the receivers.
        fail(op, "graph", "a Graph, or an edge_index [2, E] of (sender, receiver)", type(edges).__name__, TypeError)
    return Graph.from_edge_index(edges, num_nodes, validate=not torch.compiler.is_compiling())


def through_dispatcher() -> bool:
    """Whether calls of ops have to be seen by the dispatcher, above autograd: a graph is traced, or torch.func
    transforms."""
    return torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None


class HasEdges(Protocol):
    """A ``torch_geometric.data.Data`` or ``Batch``."""

    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor | None


def of_data(
    op: str, x: Tensor | HasEdges, graph: Graph | Tensor | None, edge_attr: Tensor | None = None
) -> tuple[Tensor, Graph | Tensor, Tensor | None]:
    """(x, graph, edge_attr) of a network's arguments, given as a batch or in parts."""
    if not isinstance(x, Tensor) and hasattr(x, "edge_index"):
        if graph is not None or edge_attr is not None:
            fail(op, "graph", "None with a batch", type(graph).__name__)
        return x.x, x.edge_index, x.edge_attr
    if not isinstance(x, Tensor) or graph is None:
        kind = type(x).__name__ if graph is not None else "no graph"
        fail(op, "x", "a tensor and a graph, or a batch with x and edge_index", kind, TypeError)
    return x, graph, edge_attr


def check_edges(op: str, argument: str, t: Tensor, graph: Graph) -> None:
    """``t`` must have one row per edge."""
    if torch.compiler.is_compiling():
        torch._check(t.shape[0] == graph.num_edges)  # export may not know it: checked at run time
    elif t.shape[0] != graph.num_edges:
        fail(op, argument, f"{graph.num_edges} rows, one per edge", t.shape[0])


def graph_arguments(graph: Graph, need_edges: bool = True) -> GraphArguments:
    """Without per-edge tensors an op on a complete graph does not need the number of edges: 0 replaces it, and nothing
    is copied from the device."""
    known = graph._num_edges is not None or need_edges or not graph.is_complete
    num_edges = graph.num_edges if known else 0
    return graph._indices, num_edges, graph._kind


def graph_from(table: Tensor, num_edges: int, kind: int, num_nodes: int) -> Graph:
    """The graph of an op's arguments."""
    known = kind == CSR or not isinstance(num_edges, int) or num_edges > 0  # a symbolic number is not evaluated
    return Graph._new(num_nodes, num_edges if known else None, kind, table)
