"""message_passing: a network on every edge, its sums at the receivers, the update of coordinates."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...backend import KERNELS, use_kernel
from ...checks import check_choice, check_tensor, fail
from ...graph import Graph
from ..common import as_computed, check_edges, check_graph, promote, stored_as
from ..fused_op import Call, FusedOp, Spec, Tensors
from . import reference
from .edge_mlp import EdgeMLP, keep_running
from .options import MEASURED, OP, PRECISIONS, STORAGE, EdgeOptions, Geometry, products_of
from .synchronised import is_synchronised, synchronise

KERNELS[OP] = ("cpu", "cuda")
CHANNELS, TILES = 0, 3
TABLES = (CHANNELS, 1, TILES)  # plans in which the kernel makes tables of the first layer's products over nodes


class EdgeOutput(NamedTuple):
    """What was asked for; the rest is None.

    Attributes:
        messages: [n, H'], summed or averaged at the receivers.
        coordinates: X [n, D], in the dtype of x.
        edges: [E, width], in the graph's order.
        statistics: float64 [2, C], mean and biased variance of each measured batch norm, one beside the other.
    """

    messages: Tensor | None
    coordinates: Tensor | None
    edges: Tensor | None
    statistics: Tensor | None = None


def message_passing(
    mlp: EdgeMLP,
    graph: Graph,
    *,
    h: Tensor | None = None,
    x: Tensor | None = None,
    edge_attr: Tensor | None = None,
    geometry: Geometry = Geometry(),  # noqa: B008 (it is frozen)
    messages: str = "sum",
    coordinates: str = "none",
    edges: bool | int = False,
    precision: str = "highest",
) -> EdgeOutput:
    r"""A network on every edge j -> i; what of it leaves the edge is asked for.

    .. math::
        s_{ij} &= (\psi \|x_i - x_j\|^2, \psi \langle x_i, x_j \rangle), \quad
        u^0_{ij} = [h_i, h_j, s_{ij}, a_{ij}] \\
        u^k_{ij} &= f_k(\mathrm{norm}_k(W_k u^{k-1}_{ij} + b_k)), \quad
        m_{ij} = u^d_{ij}, \quad m_{ij} \leftarrow \sigma(w_g \cdot m_{ij} + b_g)\, m_{ij} \\
        M_i &= \textstyle\sum_j m_{ij}, \quad X_i = \mathrm{mean}_j\, \mathrm{clamp}(t_{ij} (x_i - x_j)), \quad
        t_{ij} = \mathrm{head}(m_{ij})

    The blocks of LorentzNet (arXiv 2201.08187, eqs. 3.1-3.4), EGNN (arXiv 2102.09844, eqs. 3-6), EuclidNet (arXiv
    2304.05293, eqs. 3.1-3.4) and the Interaction Network (arXiv 2103.16701) are settings of this op.

    Nothing is kept per edge but what is asked for: memory is O(n), forward and backward, which computes the layers
    again (up to ``EQUIKERNELS_WORKSPACE`` bytes, 256 MiB if not set, may be kept: on CPUs of a ReLU head the weight of
    each edge and a bit for each channel, 16 bytes an edge at width 72; on CUDA see below). Second derivatives are those
    of the formula above, taken by PyTorch, and take memory for all layers of all edges. A batch norm normalises over
    all edges; its statistics are measured in training, with gradients through them, and the running averages of its
    module are kept; in evaluation, or with statistics given, those are used.

    CPU kernels exist for: up to 3 layers of one activation before the message, the first with or without a batch norm,
    a gate, a head of 2 layers; and for up to 32 layers of up to 512 channels, each with an activation of its own and a
    LayerNorm without affine map or not, without gate. The plain formula runs on other networks. On CUDA every network
    has a kernel, but for a batch norm of given statistics behind the first layer at precision "medium".

    Args:
        mlp: the layers, :meth:`EdgeMLP.of`, float32 or float64; on CUDA also bfloat16 or float16.
        graph: the edges, over n nodes.
        h: [n, C] features, in the dtype of the weights; None where the first layer does not read them.
        x: [n, D] coordinates (GeV for four-momenta), D from 1 to 8, in the dtype of the weights or float64; beside 16
            bits float32 or float64.
        edge_attr: a [E, K], in the graph's order.
        geometry: invariants, metric, direction, clamp.
        messages: "sum", "mean" or "none"; over no edges both are 0.
        coordinates: the same for X, of the head's output.
        edges: True: also return m of every edge; a number: the output of that layer (0 the first).
        precision: of products of float32 numbers, at least, in the words of ``torch.set_float32_matmul_precision``.
            "highest": float32. "high": TF32 on CUDA; on CPUs with AMX, if it is faster, numbers in two parts of
            bfloat16, about 16 bits; elsewhere float32. "medium": the products of all layers but the first and the
            head's last take inputs and weights rounded to bfloat16, and add up in float32, on CUDA and on CPUs that
            multiply so faster (:func:`equikernels.backends` tells); elsewhere float32. So do the products of their
            gradients on CPUs; gradients on CUDA, and second derivatives, are those of "highest" at the same inputs.
            Other dtypes do not heed it.

    Activations: "relu", "leaky_relu", "silu", "gelu", "gelu_tanh" (its approximation by tanh), "tanh", "sigmoid", "elu"
    (alpha 1), "softplus" (beta 1, threshold 20), "mish", "hardswish", "identity".

    The CUDA kernel for gates and two-layer heads takes float32 features, layers of at most 72 channels and at most 32
    edge attributes; its products run on tensor cores, each number as the sum of two of 11 bits: about float32's
    accuracy, but where an infinity enters them a NaN comes out. Where ``torch.backends.cuda.matmul.fp32_precision`` is
    "tf32", numbers are rounded to 11 bits. Wider layers, float64 beside a gate, and norms that it does not know run
    layer by layer on CUDA, on as many edges at a time as ``EQUIKERNELS_WORKSPACE`` bytes have room for (256 MiB if not
    set). Where all products fit, backward finds them; otherwise it computes them again. In 16 bits sums and norms are
    in float32; such layers' outputs and products are rounded to 16 bits.

    Returns:
        EdgeOutput.

    Raises:
        ValueError, TypeError: the message names the argument.
    """
    h = None if h is None else promote(OP, "h", h)
    x = None if x is None else promote(OP, "x", x)
    edge_attr = None if edge_attr is None else promote(OP, "edge_attr", edge_attr)
    if not isinstance(mlp, EdgeMLP):
        fail(OP, "mlp", "an EdgeMLP", type(mlp).__name__, TypeError)
    check_choice(OP, "precision", precision, PRECISIONS)
    dim = x.shape[1] if x is not None and x.dim() == 2 else None
    attributes = int(edge_attr.shape[1]) if edge_attr is not None and edge_attr.dim() == 2 else 0

    products = products_of(precision, mlp.layers[0].weight)
    of_call = geometry, dim, attributes, messages, coordinates, edges, products
    now = _call(mlp, of_call)
    _check(mlp, graph, now.options, h, x, edge_attr)
    measured = mlp.measured()
    if measured and any(is_synchronised(norm.module) for norm in measured):

        def statistics(first: EdgeMLP) -> Tensor:
            alone = geometry, dim, attributes, "none", "none", False, products
            return _run(first, graph, _call(first, alone), h, x, edge_attr)[3]

        mlp = synchronise(OP, mlp, graph.num_edges, statistics)
        now, measured = _call(mlp, of_call), mlp.measured()
    if measured:
        _check_count(graph)
    out = _run(mlp, graph, now, h, x, edge_attr)
    if measured:
        _keep(mlp, graph, out)
    return EdgeOutput(
        out[0] if now.options.messages else None,
        out[1] if now.options.coordinates else None,
        out[2] if now.options.edges_at >= 0 else None,
        out[3] if out[3].dim() > 1 else None,
    )


def _call(mlp: EdgeMLP, of_call: tuple[Any, ...]) -> Call:
    """The call's options and plan; calls alike share them."""
    if torch.compiler.is_compiling():
        return _planned(mlp, of_call)
    like = mlp.layers[0].weight  # which may have been moved since the network was read
    key = of_call, type(of_call[5]), like.dtype, like.device
    try:
        found: Call | None = mlp.calls.get(key)
    except TypeError:  # a metric given as a list has no hash
        return _planned(mlp, of_call)
    if found is None:
        whole = mlp.signature(), key
        found = _CALLS.get(whole) or _planned(mlp, of_call)
        _CALLS[whole] = mlp.calls[key] = found
    return found


def _planned(mlp: EdgeMLP, of_call: tuple[Any, ...]) -> Call:
    geometry, dim, attributes, messages, coordinates, edges, products = of_call
    like = mlp.layers[0].weight
    check_tensor(OP, "mlp", like, ["out", "in"], stored_as(like))
    mlp.check(OP)
    shape = mlp.shape(attributes)
    options = EdgeOptions.of(mlp, geometry, dim, messages, coordinates, edges, products)
    call = Call.of("message_passing_plan", options, shape, like)
    if products == "bfloat16" and call.limit is not None:  # no kernel has these products
        call = Call.of("message_passing_plan", options._replace(bfloat16=False), shape, like)
    return call


_CALLS: dict[Any, Call] = {}


def _run(
    mlp: EdgeMLP, graph: Graph, call: Call, h: Tensor | None, x: Tensor | None, edge_attr: Tensor | None
) -> list[Tensor]:
    tensors: Tensors = [h, x, edge_attr, *mlp.tensors()]
    kernel = use_kernel(OP, *[t for t in tensors if t is not None], limit=call.limit)
    if kernel:
        call = _keeping(call, tensors, graph)
    if not call.options.storage:
        return FUSED(tensors, graph, call, kernel)
    out, dtype = FUSED(as_computed(tensors), graph, call, kernel), mlp.layers[0].weight.dtype
    return [out[0].to(dtype), out[1], out[2].to(dtype), *out[3:]]


def _keeping(call: Call, tensors: Tensors, graph: Graph) -> Call:
    """The call, that keeps for backward what it would compute again, where the workspace has room: on tiles the
    products of all edges; on CPUs the signs of a ReLU head."""
    options = call.options
    of_head = options.plan == CHANNELS and _has_relu_head(options) and graph.device.type == "cpu"
    if not (of_head or options.plan == TILES):
        return call
    if torch.compiler.is_compiling() or options.bfloat16:  # whose gradients are of other products
        return call
    if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)):
        return call
    weights = _weights(tensors)
    widths, size = [w.shape[0] for w in weights], weights[0].element_size()
    of_edge = 4 * _kept_words(widths, options, size) if of_head else sum(widths) * size
    return _kept(options) if graph.num_edges * of_edge <= workspace() else call


@lru_cache(maxsize=4096)
def _kept(options: EdgeOptions) -> Call:
    options = options._replace(keep=True)
    return Call(options, None, *options.encoded(), options.needs_edges())


def _weights(tensors: Tensors) -> list[Tensor]:
    return [w for w in tensors[reference.FIRST :: reference.OF_LAYER] if w is not None]


def _kept_words(widths: list[int], options: EdgeOptions, size: int) -> int:
    """Of 32 bits, for an edge: the head's output, a number of ``size`` bytes, and a bit for each of its channels."""
    return size // 4 + (widths[options.messages_at + 1] + 31) // 32


def _has_relu_head(options: EdgeOptions) -> bool:
    return options.coordinates > 0 and options.layers[options.messages_at + 1].activation == "relu"


def workspace() -> int:
    """Bytes that what is kept of all edges may take; csrc reads the same."""
    given = os.environ.get("EQUIKERNELS_WORKSPACE", "")
    return int(given) if given.isdecimal() else 1 << 28


def _keep(mlp: EdgeMLP, graph: Graph, out: list[Tensor]) -> None:
    """Updates running averages, by the kernel's unbiased statistics or the reference's biased ones."""
    if len(out) > 4:
        means, variances = out[4], out[5]
    else:
        means, variances = out[3].detach().unbind()
        variances = variances * (graph.num_edges / max(graph.num_edges - 1, 1))
    keep_running(mlp, means, variances, graph._num_edges)


def _check_count(graph: Graph) -> None:
    known = graph.num_edges if graph.device.type == "cpu" and not torch.compiler.is_compiling() else None
    if known == 1:
        fail("BatchNorm", "graph", "more than one edge when training", 1)


def _check(
    mlp: EdgeMLP, graph: Graph, options: EdgeOptions, h: Tensor | None, x: Tensor | None, edge_attr: Tensor | None
) -> None:
    like = mlp.layers[0].weight
    nodes = h if h is not None else x
    if nodes is None:
        fail(OP, "h", "a tensor: without h and x there are no nodes", "None")
    check_graph(OP, graph, nodes)
    reads_ends = options.has("receiver") or options.has("sender")
    columns = 0
    if h is not None:
        check_tensor(OP, "h", h, [graph.num_nodes, "C"], like=like)
        columns += h.shape[1] * (options.has("receiver") + options.has("sender"))
    elif reads_ends:
        fail(OP, "h", "a tensor, for the first layer", "None")
    if x is not None:
        check_tensor(OP, "x", x, [graph.num_nodes, "D"], coordinates_of(like), like=like)
        columns += len(options.columns())
    elif options.columns() or options.coordinates:
        fail(OP, "x", "a tensor, for invariants or coordinates", "None")
    if options.has("edge_attr") and edge_attr is not None:
        check_tensor(OP, "edge_attr", edge_attr, ["E", "K"], like=like)
        check_edges(OP, "edge_attr", edge_attr, graph)
        columns += edge_attr.shape[1]
    elif options.has("edge_attr") or edge_attr is not None:
        fail(OP, "edge_attr", "a tensor if and only if mlp.order has it", "None" if edge_attr is None else "a tensor")
    if like.shape[1] != columns:
        fail(OP, "mlp", f"a first layer of {columns} columns, for {', '.join(mlp.order)}", f"{like.shape[1]} columns")


# The dtypes of what is kept, by options.storage; None: that of the weights.
STORED = (None, *STORAGE)


def coordinates_of(like: Tensor) -> tuple[torch.dtype, ...]:
    """The dtypes of coordinates beside such features."""
    return (torch.float32 if like.dtype in STORAGE else like.dtype), torch.float64


def _shapes(tensors: Tensors, num_edges: Any, options: EdgeOptions) -> list[Tensor]:
    h, x = tensors[:2]
    weights = _weights(tensors)
    like = weights[0]
    nodes = (h if h is not None else x).shape[0]  # type: ignore[union-attr]
    widths = [w.shape[0] for w in weights]
    width, nothing = widths[0], like.new_empty(0)
    tables = options.plan in TABLES
    measured = sum(w for w, layer in zip(widths, options.layers, strict=True) if layer.norm == MEASURED)
    attributes = tensors[2].shape[1] if tensors[2] is not None and options.has("edge_attr") else 0
    bound = len(options.columns()) + attributes
    stored = STORED[options.storage] or like.dtype
    kept = like.new_empty(0)
    if options.keep and options.plan == CHANNELS:
        kept = like.new_empty(num_edges * _kept_words(widths, options, like.element_size()), dtype=torch.int32)
    elif options.keep:
        kept = like.new_empty(num_edges * sum(widths), dtype=stored)
    state = 4 * width + bound + bound * bound + 2 * nodes * bound
    return [
        like.new_empty(nodes, widths[options.messages_at]) if options.messages else nothing,
        x.new_empty(x.shape) if options.coordinates and x is not None else like.new_empty(0),
        like.new_empty(num_edges, widths[options.edges_at]) if options.edges_at >= 0 else like.new_empty(0),
        like.new_empty(2, measured, dtype=torch.float64) if measured else like.new_empty(0),
        *(like.new_empty(measured) for _ in range(2)),
        *(like.new_empty(nodes, width) if tables else like.new_empty(0) for _ in range(2)),
        like.new_empty(state, dtype=torch.float64) if options.layers[0].norm == MEASURED else like.new_empty(0),
        kept,
    ]


FUSED = FusedOp(Spec(OP, EdgeOptions, reference.message_passing, _shapes, differentiable=4, saved=(3, 6, 7, 8, 9)))
