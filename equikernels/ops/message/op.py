"""message_passing: fused messages from node tables to node tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ... import _native
from ...backend import KERNELS, use_kernel
from ...checks import REAL, check_bound, check_choice, check_number, check_tensor, fail
from ...graph import Graph
from ...metric import Metric, signature
from ..autograd import call, double_backward, register_autograd
from ..common import allows_tf32, check_graph, graph_arguments, graph_from, promote
from ..message_passing.direction import Normed, direction_options
from . import reference
from .spec import ACTIVATIONS, PRECISIONS, MessageOptions, MessageTensors, cuda_limit

OP = "message_passing"
KERNELS[OP] = ("cpu", "cuda")
INVARIANTS = {"both": (True, True), "interval": (True, False), "product": (False, True)}

Layer = tuple[Tensor, Tensor | None]


def message_passing(
    receiver: Tensor,
    sender: Tensor,
    x: Tensor | None,
    graph: Graph,
    *,
    invariant_weight: Tensor | None = None,
    invariants: str = "both",
    metric: Metric = "minkowski",
    psi: bool = True,
    edge_attr: Tensor | None = None,
    edge_weight: Tensor | None = None,
    layers: Sequence[Layer] = (),
    activation: str = "relu",
    negative_slope: float = 0.01,
    gate: Layer | None = None,
    head: tuple[Tensor, Tensor | None, Tensor] | None = None,
    head_tanh: bool = False,
    direction: str | Normed = "difference",
    clamp: float | None = None,
    reduce: str = "sum",
    coordinate_reduce: str = "mean",
    precision: str = "full",
    return_edges: bool = False,
) -> tuple[Tensor, Tensor | None] | tuple[Tensor, Tensor | None, Tensor]:
    r"""Messages of every edge j -> i, summed at the receiver, without a tensor of edges.

    .. math::
        s_{ij} &= (\psi \|x_i - x_j\|^2, \psi \langle x_i, x_j \rangle) \\
        z_{ij} &= A_i + B_j + S s_{ij} + Q a_{ij} \\
        m_{ij} &= \mathrm{act}(W_2\, \mathrm{act}(z_{ij}) + b_2) \\
        m_{ij} &\leftarrow \mathrm{sigmoid}(w_g \cdot m_{ij} + b_g)\, m_{ij} \\
        M_i &= \textstyle\sum_j m_{ij} \\
        X_i &= \mathrm{mean}_j\, \mathrm{clamp}(t_{ij} (x_i - x_j)), \quad
               t_{ij} = w_x \cdot \mathrm{act}(W_x m_{ij} + b_x)

    LorentzNet (arXiv 2201.08187, eqs. 3.1-3.4) and EGNN (arXiv 2102.09844, eqs. 3-6) are settings of this op. The
    first layer of the edge network is linear, so it is applied to nodes: A and B hold U h + bias and V h. Memory is
    O(n) whatever the number of edges, forward and backward, which computes the messages again; second derivatives
    are those of the reference and take O(E H).

    Args:
        receiver: A [n, H], float32 or float64.
        sender: B [n, H].
        x: [n, D] coordinates (GeV for four-momenta), in the features' dtype or float64; None where neither
            invariants nor a head need them.
        graph: the edges, over n nodes.
        invariant_weight: S [H, 2], or [H, 1] with one invariant; None: no invariants.
        invariants: "both", "interval" (||x_i - x_j||^2 only) or "product".
        metric: "minkowski", "euclidean" or a signature.
        psi: pass invariants through sign(z) ln(1 + |z|).
        edge_attr: a [E, K], with
        edge_weight: Q [H, K].
        layers: up to two further (weight [H', H], bias [H'] or None), as nn.Linear holds them.
        activation: "relu", "leaky_relu", "silu", "gelu", "gelu_tanh" (its approximation by tanh), "tanh", "sigmoid",
            "elu" (alpha 1), "softplus" (beta 1, threshold 20), "mish", "hardswish" or "identity".
        negative_slope: of leaky_relu.
        gate: (w_g [H'] or [1, H'], b_g [1] or None).
        head: (W_x [K, H'], b_x [K] or None, w_x [K] or [1, K]): makes coordinates.
        head_tanh: t through tanh.
        direction: what t multiplies: "difference" x_i - x_j; "unit", that over (its norm, held constant, + 1e-8);
            "norm_plus_one", over (its norm + 1); a :class:`Normed`, over a norm of that form; "sender" x_j.
        clamp: bound on each component of t d; None or inf: no bound.
        reduce: "sum" or "mean" of the messages; over no edges it is 0.
        coordinate_reduce: the same for the coordinates.
        precision: "full", or "bfloat16": the products on edges, those of ``layers`` and of the head's W_x, take inputs
            and weights rounded to bfloat16 and add up in the features' dtype; everything else is as with "full".
            CPUs with AVX512-BF16 multiply so in hardware; elsewhere the numbers are the same up to the order of sums
            (and subnormal numbers, which that hardware takes as 0), and nothing is gained. Gradients are those of
            "full": of the formula without rounding, at the same inputs.
        return_edges: also return m [E, H'] in the graph's edge order.

    The CUDA kernel takes float32 features, layers (H, H', K) of at most 72 channels and at most 32 edge attributes;
    other calls are the reference's there. Its products run on tensor cores, each number as the sum of two of 11 bits:
    about float32's accuracy, but where an infinity enters them a NaN comes out. Where
    ``torch.backends.cuda.matmul.fp32_precision`` is "tf32", numbers are rounded to 11 bits.

    Returns:
        messages [n, H'], and coordinates X [n, D] in the dtype of x (None without a head); with ``return_edges`` the
        edges' messages too.

    Raises:
        ValueError, TypeError: the message names the argument.
    """
    t = _tensors(receiver, sender, x, invariant_weight, edge_attr, edge_weight, layers, gate, head)
    for argument, value, choices in (
        ("invariants", invariants, INVARIANTS),
        ("activation", activation, ACTIVATIONS),
        ("reduce", reduce, ("sum", "mean")),
        ("coordinate_reduce", coordinate_reduce, ("sum", "mean")),
        ("precision", precision, PRECISIONS),
    ):
        check_choice(OP, argument, value, choices)
    which, inside, offset = direction_options(OP, direction)
    options = MessageOptions(
        [] if t.x is None else signature(OP, metric, t.x.shape[1]),
        *INVARIANTS[invariants],
        psi,
        activation,
        check_number(OP, "negative_slope", negative_slope),
        head_tanh,
        which,
        inside,
        offset,
        check_bound(OP, "clamp", clamp),
        reduce == "mean",
        coordinate_reduce == "mean",
        precision == "bfloat16",
        allows_tf32(receiver),
    )
    _check(t, graph, options)
    # Kernels walk over tables that hold something.
    if receiver.shape[1] > 0 and use_kernel(OP, *[v for v in t if v is not None], cuda_limit=cuda_limit(t)):
        need_edges = return_edges or edge_attr is not None
        out = call("message", *t[:3], *graph_arguments(graph, need_edges), *t[3:], *options.encoded(), return_edges)
        messages, coordinates, edges = out[0], out[1] if head is not None else None, out[2]
    else:
        messages, coordinates, edges = reference.message_passing(t, graph, options)
    return (messages, coordinates, edges) if return_edges else (messages, coordinates)


def _tensors(
    receiver: Tensor,
    sender: Tensor,
    x: Tensor | None,
    invariant_weight: Tensor | None,
    edge_attr: Tensor | None,
    edge_weight: Tensor | None,
    layers: Sequence[Layer],
    gate: Layer | None,
    head: tuple[Tensor, Tensor | None, Tensor] | None,
) -> MessageTensors:
    if len(layers) > 2:
        fail(OP, "layers", "at most two", len(layers))
    pair, parts = "a pair (weight, bias or None)", "(weight, bias or None, output weight)"
    (w2, b2), (w3, b3) = [
        *(_parts(f"layers[{k}]", layer, pair, 2) for k, layer in enumerate(layers)),
        (None, None),
        (None, None),
    ][:2]
    gate_weight, gate_bias = (None, None) if gate is None else _parts("gate", gate, pair, 2)
    head_weight, head_bias, head_out = (None,) * 3 if head is None else _parts("head", head, parts, 3)
    given = (
        receiver, sender, x, invariant_weight, edge_attr, edge_weight, w2, b2, w3, b3,
        _row(gate_weight), gate_bias, head_weight, head_bias, _row(head_out),
    )  # fmt: skip
    names = MessageTensors._fields
    return MessageTensors(*[v if v is None else promote(OP, name, v) for name, v in zip(names, given, strict=True)])  # type: ignore[arg-type]


def _parts(argument: str, given: Any, expected: str, count: int) -> tuple[Any, ...]:
    """Weights and a bias, of which the second alone may be left out."""
    if not isinstance(given, tuple | list) or len(given) != count:
        fail(OP, argument, expected, type(given).__name__ if not isinstance(given, tuple | list) else len(given))
    if any(part is None for k, part in enumerate(given) if k != 1):
        fail(OP, argument, expected, "no weight")
    return tuple(given)


def _row(weight: Tensor | None) -> Tensor | None:
    """nn.Linear keeps a single output's weight as [1, K]."""
    return weight[0] if weight is not None and weight.dim() == 2 and weight.shape[0] == 1 else weight


def _check(t: MessageTensors, graph: Graph, options: MessageOptions) -> None:
    check_tensor(OP, "receiver", t.receiver, ["n", "H"], REAL)
    n, width = t.receiver.shape
    check_graph(OP, graph, t.receiver)
    check_tensor(OP, "sender", t.sender, [n, width], like=t.receiver)
    if t.x is not None:
        wide = (t.receiver.dtype, torch.float64)
        check_tensor(OP, "x", t.x, [n, "D"], wide, like=t.receiver)
    elif t.invariant_weight is not None or t.head_weight is not None:
        fail(OP, "x", "a tensor, for invariants or coordinates", "None")
    if t.invariant_weight is not None:
        columns = options.interval + options.product
        check_tensor(OP, "invariant_weight", t.invariant_weight, [width, columns], like=t.receiver)
    if (t.edge_attr is None) != (t.edge_weight is None):
        fail(OP, "edge_weight", "to come with edge_attr", "only one of them")
    if t.edge_attr is not None and t.edge_weight is not None:
        check_tensor(OP, "edge_attr", t.edge_attr, [graph.num_edges, "K"], like=t.receiver)
        check_tensor(OP, "edge_weight", t.edge_weight, [width, t.edge_attr.shape[1]], like=t.receiver)
    for k, (weight, bias) in enumerate(((t.weight2, t.bias2), (t.weight3, t.bias3))):
        if weight is not None:
            check_tensor(OP, f"layers[{k}] weight", weight, ["H'", width], like=t.receiver)
            width = weight.shape[0]
            _check_bias(f"layers[{k}] bias", bias, width, t.receiver)
    if t.gate_weight is not None:
        check_tensor(OP, "gate weight", t.gate_weight, [width], like=t.receiver)
        _check_bias("gate bias", t.gate_bias, 1, t.receiver)
    if t.head_weight is not None:
        check_tensor(OP, "head weight", t.head_weight, ["K", width], like=t.receiver)
        _check_bias("head bias", t.head_bias, t.head_weight.shape[0], t.receiver)
        assert t.head_out is not None
        check_tensor(OP, "head output weight", t.head_out, [t.head_weight.shape[0]], like=t.receiver)


def _check_bias(argument: str, bias: Tensor | None, width: int, like: Tensor) -> None:
    if bias is not None:
        check_tensor(OP, argument, bias, [width], like=like)


# Arguments of the op: three tensors, three of the graph, twelve tensors, the options, return_edges.
_TENSORS = len(MessageTensors._fields)
_OPTIONS = len(MessageOptions._fields)


def _split(arguments: tuple[Any, ...]) -> tuple[MessageTensors, tuple[Any, ...], tuple[Any, ...]]:
    tensors = MessageTensors(*arguments[:3], *arguments[6 : _TENSORS + 3])
    return tensors, arguments[3:6], arguments[_TENSORS + 3 : _TENSORS + 3 + _OPTIONS]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors, (table, *ctx.sizes), ctx.options = _split(inputs)
    ctx.save_for_backward(*tensors, table)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    if all(g is None for g in grads):
        return (None,) * (_TENSORS + 3 + _OPTIONS + 1)
    # An output that was not asked for is empty, and tracing may still bring a (likewise empty) cotangent for it.
    grads = tuple(g if g is None or g.dim() == 2 else None for g in grads)
    want_edge_attr = ctx.needs_input_grad[7]
    *tensors, table = ctx.saved_tensors  # once: torch.utils.checkpoint keeps them for one reading
    arguments = *tensors[:3], table, *ctx.sizes, *tensors[3:], *ctx.options
    out = call("message_backward", *grads, *arguments, want_edge_attr)
    given = [g if t is not None else None for g, t in zip(out, tensors, strict=True)]
    given[4] = given[4] if want_edge_attr else None
    return (*given[:3], None, None, None, *given[3:], *(None,) * (_OPTIONS + 1))


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    cotangents, rest = inputs[:3], inputs[3:]
    tensors, (table, *ctx.sizes), ctx.options = _split(rest)
    ctx.save_for_backward(*cotangents, *tensors, table)
    ctx.set_materialize_grads(False)


def _backward_backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    *saved, table = ctx.saved_tensors
    cotangents, tensors = saved[:3], saved[3:]
    present = [k for k, t in enumerate(tensors) if t is not None]
    outputs = [k for k, c in enumerate(cotangents) if c is not None]
    num_edges, kind = ctx.sizes
    graph = graph_from(table, num_edges, kind, tensors[0].shape[0])
    options = MessageOptions.decoded(ctx.options)

    def function(*primals: Tensor) -> tuple[Tensor, ...]:
        filled: list[Tensor | None] = [None] * _TENSORS
        for k, p in zip(present, primals, strict=True):
            filled[k] = p
        out = reference.message_passing(MessageTensors(*filled), graph, options)  # type: ignore[arg-type]
        return tuple(out[k] for k in outputs)  # type: ignore[misc]

    primals = [tensors[k] for k in present]
    # an absent gradient, or one that was not wanted, has nothing flowing back into it
    flowing = [
        torch.zeros_like(tensors[k]) if (g := grads[k]) is None or g.shape != tensors[k].shape else g for k in present
    ]
    result = double_backward(function, primals, [cotangents[k] for k in outputs], flowing)
    by_cotangent: list[Tensor | None] = [None] * 3
    by_tensor: list[Tensor | None] = [None] * _TENSORS
    for k, r in zip(outputs, result, strict=False):
        by_cotangent[k] = r
    for k, r in zip(present, result[len(outputs) :], strict=True):
        by_tensor[k] = r
    return (*by_cotangent, *by_tensor[:3], None, None, None, *by_tensor[3:], *(None,) * (_OPTIONS + 1))


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    t, (_, num_edges, _), _ = _split(arguments)
    last = t.weight3 if t.weight3 is not None else t.weight2
    width = t.receiver.shape[1] if last is None else last.shape[0]
    nothing = t.receiver.new_empty(0)
    coordinates = nothing if t.head_out is None or t.x is None else t.x.new_empty(t.x.shape)
    edges = t.receiver.new_empty(num_edges, width) if arguments[-1] else t.receiver.new_empty(0)
    return t.receiver.new_empty(t.receiver.shape[0], width), coordinates, edges


def _fake_backward(*arguments: Any) -> tuple[Tensor, ...]:
    t, _, _ = _split(arguments[3:])
    want_edge_attr = arguments[-1]
    return tuple(
        t.receiver.new_empty(0) if v is None or (k == 4 and not want_edge_attr) else v.new_empty(v.shape)
        for k, v in enumerate(t)
    )


if _native.cpu_reason is None:
    torch.library.register_fake("equikernels::message", _fake)
    torch.library.register_fake("equikernels::message_backward", _fake_backward)
    register_autograd("message", _backward, _setup)
    register_autograd("message_backward", _backward_backward, _setup_backward)
