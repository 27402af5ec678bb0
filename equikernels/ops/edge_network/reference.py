"""What edge_network means: the published formula, edge by edge."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ...graph import Graph
from ..coordinates.reference import clamped
from ..invariants.reference import pairwise_invariants
from ..message.reference import activate, aggregate, displacement
from .spec import ACTIVATIONS, NORM, NORM_EPS, EdgeOptions, EdgeOutput, EdgeTensors


def edge_network(t: EdgeTensors, graph: Graph | None, options: EdgeOptions) -> EdgeOutput:
    """Without a graph the rows of receiver and edge_attr are walked."""
    outputs = _chain(t, graph, options)
    edges = outputs[options.edges_at] if options.edges_at >= 0 else None
    messages = coordinates = None
    if options.messages_at >= 0:
        assert graph is not None
        messages = aggregate(outputs[options.messages_at], graph, mean=False)
    if options.coordinates:
        assert graph is not None
        assert t.x is not None
        step = outputs[-1].to(t.x.dtype) * displacement(t.x, graph, options)
        coordinates = aggregate(clamped(step, options.clamp), graph, mean=False)
    return EdgeOutput(edges, messages, coordinates)


def _chain(t: EdgeTensors, graph: Graph | None, options: EdgeOptions) -> list[Tensor]:
    """Outputs of all layers."""
    inputs = []
    if options.invariants():
        assert graph is not None
        assert t.x is not None
        s = pairwise_invariants(t.x, graph, options.metric, options.psi)
        columns = [k for k, wanted in enumerate((options.interval, options.product)) if wanted]
        inputs.append(s[:, columns].to(t.weights.dtype))
    receiver, sender = t.receiver, t.sender
    if graph is not None:
        receiver = None if receiver is None else receiver[graph.receiver]
        sender = None if sender is None else sender[graph.sender]
    ends = [v for v in (receiver, sender) if v is not None]
    if options.ends_as_inputs:
        inputs += ends
    if t.edge_attr is not None:
        inputs.append(t.edge_attr)
    rows = graph.num_edges if graph is not None else inputs[0].shape[0]
    h = torch.cat(inputs, dim=1) if inputs else t.weights.new_empty(rows, 0)
    outputs = []
    used = 0
    for k, (width, step) in enumerate(zip(options.widths, options.steps, strict=True)):
        weight = t.weights[used : used + width * h.shape[1]].view(width, h.shape[1])
        used += weight.numel()
        z = F.linear(h, weight, t.weights[used : used + width])
        used += width
        if k == 0 and not options.ends_as_inputs:
            for end in ends:
                z = z + end
        if step >= NORM:
            z = F.layer_norm(z, (width,), eps=NORM_EPS)
        h = activate(z, ACTIVATIONS[step % NORM], options.slope)
        outputs.append(h)
    return outputs
