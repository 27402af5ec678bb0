"""Networks that read both ends of an edge and give a row for each edge."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..graph import Graph
from ..ops.message_passing import EdgeMLP, message_passing
from .chain import chain_itself
from .plain import obstacle, warn_once


def read_ends(
    op: str,
    modules: Any,
    nodes: Tensor,
    edge_attr: Tensor | None,
    graph: Graph,
    *,
    receiver_first: bool = False,
    sigmoid: bool = False,
) -> Tensor:
    """A chain on the columns [h_j, h_i, a_ij] of every edge, or [h_i, h_j, a_ij], and a sigmoid of it if asked for.
    Where the chain is not plain, its layers are called one by one."""
    ends = ("receiver", "sender") if receiver_first else ("sender", "receiver")
    if reason := obstacle(modules, chain_itself):
        warn_once(modules, op, reason)
        columns = [*(nodes[getattr(graph, end)] for end in ends), *(() if edge_attr is None else (edge_attr,))]
        out = modules(torch.cat(columns, dim=1))
        return torch.sigmoid(out) if sigmoid else out
    order = (*ends, *(() if edge_attr is None else ("edge_attr",)))
    mlp = EdgeMLP.of(modules, order=order, output="sigmoid" if sigmoid else None)
    edges = message_passing(mlp, graph, h=nodes, edge_attr=edge_attr, messages="none", edges=True).edges
    assert edges is not None
    return torch.sigmoid(edges) if sigmoid and mlp.layers[-1].activation != "sigmoid" else edges
