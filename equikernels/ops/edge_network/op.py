"""edge_network: a deep network on edges, from node tables and edge memory to edge outputs and node sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import _native
from ...backend import KERNELS, use_kernel
from ...checks import REAL, check_bound, check_choice, check_integer, check_number, check_tensor, fail
from ...graph import Graph
from ...metric import Metric, signature
from ..autograd import call, double_backward, register_autograd
from ..common import check_edges, check_graph, graph_arguments, graph_from, promote
from ..message.op import INVARIANTS
from ..message_passing.direction import Normed, direction_options
from . import reference
from .spec import ENDS, EdgeNetwork, EdgeOptions, EdgeOutput, EdgeTensors, check_network, cuda_limit, first_inputs

OP = "edge_network"
KERNELS[OP] = ("cpu", "cuda")
ROWS = 3  # the kind of graph that is none


def edge_network(
    network: EdgeNetwork,
    graph: Graph | None,
    *,
    receiver: Tensor | None = None,
    sender: Tensor | None = None,
    x: Tensor | None = None,
    edge_attr: Tensor | None = None,
    ends: str = "added",
    invariants: str = "none",
    metric: Metric = "euclidean",
    psi: bool = True,
    edges_at: int | None = None,
    messages_at: int | None = None,
    coordinates: bool = False,
    direction: str | Normed = "difference",
    clamp: float | None = None,
    negative_slope: float = 0.01,
) -> EdgeOutput:
    r"""A chain of layers on every edge j -> i; what of it leaves the edge is asked for.

    .. math::
        z_{ij} &= A_i + B_j + W_0 [s_{ij}, a_{ij}] + b_0, \quad h^0_{ij} = f_0(z_{ij}) \\
        h^k_{ij} &= f_k(W_k h^{k-1}_{ij} + b_k), \quad f = \mathrm{act} \text{ or } \mathrm{act} \circ \mathrm{norm} \\
        e_{ij} &= h^{k_e}_{ij}, \quad M_i = \textstyle\sum_j h^{k_m}_{ij}, \quad
        X_i = \textstyle\sum_j \mathrm{clamp}(h^{K-1}_{ij} (x_i - x_j))

    or, with ``ends="inputs"``, :math:`z_{ij} = W_0 [s_{ij}, A_i, B_j, a_{ij}] + b_0`: the cheaper of the two where
    nodes have few features, or few edges each.

    Here :math:`s_{ij}` are the invariants of :func:`pairwise_invariants`. EuclidNet's block (arXiv 2304.05293, eqs.
    3.1-3.4) and the Interaction Network (arXiv 2103.16701) are settings of this op. Edge memory is read once and
    written once; nothing else is kept per edge, in training neither: the backward pass computes the layers again.
    (On CUDA it has, while it runs, a row of H numbers for each edge, and D in float64 where x is differentiated.)
    Second derivatives are those of the reference and take memory for all layers of all edges.

    Args:
        network: the layers, :meth:`EdgeNetwork.of`; the first one's weight has a column for each invariant, for each
            feature of the receiver and of the sender (``ends="inputs"``), and for each edge attribute, in this order.
            Up to 32 layers, each up to 512 wide; the CUDA kernels take about 500 channels in all (float64: 250), and
            leave larger networks to the reference.
        graph: the edges, over n nodes; None: the network is applied to the rows of ``edge_attr`` and, with
            ``ends="inputs"``, of ``receiver`` beside them, and ``edges_at`` is all that can be asked for.
        receiver: A [n, H], in the dtype of the weights; H is the first layer's width, or, with ``ends="inputs"``, any.
            None: nothing.
        sender: B [n, H], likewise.
        x: [n, D] coordinates, in the dtype of the weights or float64; needed for invariants and coordinates.
        edge_attr: a [E, K], in the graph's order.
        ends: what A and B are: "added" to the first layer's output, or "inputs" of it.
        invariants: "none", "both", "interval" (||x_i - x_j||^2 only) or "product".
        metric: "euclidean", "minkowski" or a signature.
        psi: pass invariants through sign(z) ln(1 + |z|).
        edges_at: number of the layer whose output e is returned.
        messages_at: number of the layer whose output is summed at the receivers.
        coordinates: return X; the last layer is then 1 wide.
        direction: what it multiplies instead of x_i - x_j, as in :func:`message_passing`.
        clamp: bound on each component of what is summed in X; None or inf: no bound.
        negative_slope: of leaky_relu.

    Returns:
        (edges [E, width], messages [n, width], coordinates [n, D] in the dtype of x), None where not asked for.

    Raises:
        ValueError, TypeError: the message names the argument.
    """
    receiver = receiver if receiver is None else promote(OP, "receiver", receiver)
    sender = sender if sender is None else promote(OP, "sender", sender)
    x = x if x is None else promote(OP, "x", x)
    edge_attr = edge_attr if edge_attr is None else promote(OP, "edge_attr", edge_attr)
    network = check_network(OP, network)
    weights = promote(OP, "network", network.weights)
    check_choice(OP, "invariants", invariants, ("none", *INVARIANTS))
    check_choice(OP, "ends", ends, ENDS)
    interval, product = INVARIANTS.get(invariants, (False, False))
    which, inside, offset = direction_options(OP, direction)
    options = EdgeOptions(
        ends == "inputs",
        [] if x is None else signature(OP, metric, x.shape[1]),
        interval,
        product,
        psi,
        list(network.widths),
        list(network.steps),
        check_number(OP, "negative_slope", negative_slope),
        _layer(network, "edges_at", edges_at),
        _layer(network, "messages_at", messages_at),
        coordinates,
        which,
        inside,
        offset,
        check_bound(OP, "clamp", clamp),
    )
    t = EdgeTensors(receiver, sender, x, edge_attr, weights)
    _check(t, graph, network, options)
    limit = cuda_limit(t, options) if weights.is_cuda else None
    if not use_kernel(OP, *[v for v in t if v is not None], cuda_limit=limit):
        return reference.edge_network(t, graph, options)
    if graph is None:
        rows = edge_attr if edge_attr is not None else receiver
        assert rows is not None
        where: tuple[Any, ...] = (weights.new_empty(0, dtype=torch.int64), rows.shape[0], ROWS)
    else:
        where = graph_arguments(graph)  # all edges at least pass through memory in CUDA's backward pass
    edges, messages, moved = call("edge_network", *t, *where, *options)
    return EdgeOutput(
        edges if edges_at is not None else None,
        messages if messages_at is not None else None,
        moved if coordinates else None,
    )


def _layer(network: EdgeNetwork, argument: str, at: int | None) -> int:
    if at is None:
        return -1
    expected = f"a layer from 0 to {len(network.widths) - 1}, or None"
    at = check_integer(OP, argument, at, expected, 0)
    return at if at < len(network.widths) else fail(OP, argument, expected, at)


def _check(t: EdgeTensors, graph: Graph | None, network: EdgeNetwork, options: EdgeOptions) -> None:
    width = network.widths[0]
    check_tensor(OP, "network", t.weights, ["P"], REAL)
    if graph is None:
        rows = ("receiver", "edge_attr") if options.ends_as_inputs else ("edge_attr",)
        given = [name for name in ("receiver", "sender", "x") if getattr(t, name) is not None and name not in rows]
        asked = [name for name in ("messages_at", "coordinates") if getattr(options, name) not in (-1, False)]
        if given or asked or all(getattr(t, name) is None for name in rows):
            expected = f"a Graph, or {' and '.join(rows)} and edges_at alone"
            fail(OP, "graph", expected, f"None with {given + asked or 'nothing'}")
    else:
        tables = [v for v in (t.receiver, t.sender, t.x) if v is not None]
        if not tables:
            fail(OP, "receiver", "a tensor: without receiver, sender and x there are no nodes", "None")
        check_graph(OP, graph, tables[0])
        if t.x is not None:
            check_tensor(OP, "x", t.x, [graph.num_nodes, "D"], (t.weights.dtype, torch.float64), like=t.weights)
    n: int | str = "n" if graph is None else graph.num_nodes
    columns_of_ends: int | str = "H" if options.ends_as_inputs else width
    for name, table in (("receiver", t.receiver), ("sender", t.sender)):
        if table is None:
            continue
        check_tensor(OP, name, table, [n, columns_of_ends], like=t.weights)
        columns_of_ends = table.shape[1]  # of the sender, too
        if columns_of_ends == 0:
            fail(OP, name, "at least one column", list(table.shape))
    if t.x is None and (options.coordinates or options.invariants()):
        fail(OP, "x", "a tensor, for invariants or coordinates", "None")
    if t.edge_attr is not None:
        check_tensor(OP, "edge_attr", t.edge_attr, ["E", "K"], like=t.weights)
        if graph is not None:
            check_edges(OP, "edge_attr", t.edge_attr, graph)
        elif t.receiver is not None and t.receiver.shape[0] != t.edge_attr.shape[0]:
            fail(OP, "edge_attr", f"{t.receiver.shape[0]} rows, as receiver", t.edge_attr.shape[0])
    columns = first_inputs(t, options)
    if network.inputs != columns:
        parts = (
            "invariants, both ends and edge attributes" if options.ends_as_inputs else "invariants and edge attributes"
        )
        fail(OP, "network", f"a first layer of {columns} columns, for {parts}", f"{network.inputs} columns")
    if options.coordinates and network.widths[-1] != 1:
        fail(OP, "network", "a last layer of width 1, for coordinates", network.widths[-1])


_TENSORS = len(EdgeTensors._fields)
_OPTIONS = len(EdgeOptions._fields)


def _split(arguments: tuple[Any, ...]) -> tuple[EdgeTensors, tuple[Any, ...], EdgeOptions]:
    tensors = EdgeTensors(*arguments[:_TENSORS])
    return tensors, arguments[_TENSORS : _TENSORS + 3], EdgeOptions(*arguments[_TENSORS + 3 : _TENSORS + 3 + _OPTIONS])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, (table, *ctx.sizes), ctx.options = _split(inputs)
    ctx.save_for_backward(*tensors, table)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    rest = (None,) * (3 + _OPTIONS)
    if all(g is None for g in grads):
        return (None,) * _TENSORS + rest
    # An output that was not asked for is empty, and tracing may still bring a (likewise empty) cotangent for it.
    cotangents = [g if g is None or g.dim() == 2 else None for g in grads]
    *tensors, table = ctx.saved_tensors
    wanted = [bool(w) for w in ctx.needs_input_grad[: _TENSORS - 1]]
    out = call("edge_network_backward", *cotangents, *tensors, table, *ctx.sizes, *ctx.options, *wanted)
    present = [t is not None and want for t, want in zip(tensors, [*wanted, True], strict=True)]
    return (*(g if p else None for g, p in zip(out, present, strict=True)), *rest)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    cotangents, rest = inputs[:3], inputs[3:]
    tensors, (table, *ctx.sizes), ctx.options = _split(rest)
    ctx.save_for_backward(*cotangents, *tensors, table)
    ctx.set_materialize_grads(False)


def _backward_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    *saved, table = ctx.saved_tensors
    cotangents, tensors = saved[:3], saved[3:]
    num_edges, kind = ctx.sizes
    nodes = next((t.shape[0] for t in tensors[:3] if t is not None), 0)
    graph = None if kind == ROWS else graph_from(table, num_edges, kind, nodes)
    present = [k for k, t in enumerate(tensors) if t is not None]
    outputs = [k for k, c in enumerate(cotangents) if c is not None]

    def function(*primals: Tensor) -> tuple[Tensor, ...]:
        filled: list[Tensor | None] = [None] * _TENSORS
        for k, p in zip(present, primals, strict=True):
            filled[k] = p
        out = reference.edge_network(EdgeTensors(*filled), graph, ctx.options)  # type: ignore[arg-type]
        return tuple(out[k] for k in outputs)  # type: ignore[misc]

    primals = [tensors[k] for k in present]
    # an absent gradient, or one that was not wanted, has nothing flowing back into it
    flowing = [
        torch.zeros_like(tensors[k]) if (g := grads[k]) is None or g.shape != tensors[k].shape else g for k in present
    ]
    result = double_backward(function, primals, [cotangents[k] for k in outputs], flowing)
    by_argument: list[Tensor | None] = [None] * (3 + _TENSORS)
    for k, r in zip([*outputs, *(3 + k for k in present)], result, strict=True):
        by_argument[k] = r
    return (*by_argument, *(None,) * (3 + _OPTIONS + _TENSORS - 1))


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    t, (_, num_edges, _), options = _split(arguments)
    nodes = next((v.shape[0] for v in t[:3] if v is not None), 0)
    new: Callable[..., Tensor] = t.weights.new_empty
    return (
        new(num_edges, options.widths[options.edges_at]) if options.edges_at >= 0 else new(0),
        new(nodes, options.widths[options.messages_at]) if options.messages_at >= 0 else new(0),
        t.x.new_empty(t.x.shape) if options.coordinates and t.x is not None else new(0),
    )


def _fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
    t, _, _ = _split(arguments[3:])
    wanted = (*arguments[1 - _TENSORS :], True)
    return tuple(
        t.weights.new_empty(0) if v is None or not want else v.new_empty(v.shape)
        for v, want in zip(t, wanted, strict=True)
    )


if _native.cpu_reason is None:
    torch.library.register_fake("equikernels::edge_network", _fake)
    torch.library.register_fake("equikernels::edge_network_backward", _fake_backward)
    register_autograd("edge_network", _backward, _setup)
    register_autograd("edge_network_backward", _backward_backward, _setup_backward)
