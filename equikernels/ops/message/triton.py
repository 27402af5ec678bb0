"""The message op's Triton kernels.

A tile holds the edges of a few receivers: receivers x slots rows of H channels, in registers. A program owns its
receivers and walks over their slots, so that sums need no atomics, and nothing is written per edge. The receivers of a
tile need not be of one event: a complete graph and any other are walked in the same way, and the number of programs
follows from shapes alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ...graph import CSR
from .. import triton_launch as to
from ..triton_common import dot_precision
from .spec import MessageOptions, MessageTensors
from .triton_backward import Cotangents, Gradients, backward_kernel
from .triton_forward import Outputs, forward_kernel
from .triton_network import MessageSpec

EDGE_ATTR = MessageTensors._fields.index("edge_attr")
MOST_SHARES = 512  # of the sums of weights' gradients: each is a copy of all weights
EDGES, SLOTS = 64, 8  # of a tile: eight receivers, eight edges of each
WARPS = 8


def spec_of(t: MessageTensors, options: MessageOptions, kind: int) -> MessageSpec:
    """What the kernels are compiled for."""

    def rows(weight: Tensor | None) -> int:
        return 0 if weight is None else weight.shape[0]

    invariants = t.invariant_weight is not None
    encoded = options.encoded()
    return MessageSpec(
        kind=kind,
        width=t.receiver.shape[1],
        width2=rows(t.weight2),
        width3=rows(t.weight3),
        head=rows(t.head_weight),
        attr=0 if t.edge_attr is None else t.edge_attr.shape[1],
        out=rows(t.weight3) or rows(t.weight2) or t.receiver.shape[1],
        depth=1 + (t.weight2 is not None) + (t.weight3 is not None),
        gate=t.gate_weight is not None,
        dim=len(options.metric),
        metric=tuple(options.metric),
        interval=invariants and options.interval,
        product=invariants and options.product,
        psi=options.psi,
        activation=encoded[4],  # type: ignore[arg-type]
        slope=options.slope,
        head_tanh=options.head_tanh,
        direction=options.direction,
        clamp=options.clamp,
        mean_messages=options.mean_messages,
        mean_coordinates=options.mean_coordinates,
        bfloat16=options.bfloat16,
        precision=dot_precision(t.receiver.dtype),
        edges=EDGES,
        slots=SLOTS,
    )


def sizes_of(t: MessageTensors, table: Tensor, num_edges: int, kind: int) -> tuple[int, int, int, int]:
    """num_nodes, num_edges, num_events and the steps of a search through them, as the kernels take them."""
    return t.receiver.shape[0], num_edges, *((0, 0) if kind == CSR else to.events_of(table))


def compilation(t: MessageTensors) -> dict[str, Any]:
    # Sums in twice float64's precision are of roundings, which a fused multiply-add skips.
    compensated = t.x is not None and t.x.dtype == torch.float64
    return {"num_warps": WARPS, **({"enable_fp_fusion": False} if compensated else {})}


def message(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The dispatcher op of this name."""
    *rest, return_edges = arguments
    t, (table, num_edges, kind), options = split(rest)
    n, like = t.receiver.shape[0], t.receiver
    spec = spec_of(t, options, kind)
    nothing = like.new_empty(0)
    messages = like.new_empty(n, spec.out)
    coordinates = nothing if t.head_out is None or t.x is None else t.x.new_empty(t.x.shape)
    edges = like.new_empty(num_edges, spec.out) if return_edges else nothing
    if n > 0:
        to.launch(
            forward_kernel,
            (triton.cdiv(n, spec.receivers),),
            table,
            t,
            Outputs(messages, coordinates if spec.head else None, edges if return_edges else None),
            *sizes_of(t, table, num_edges, kind),
            spec=spec,
            **compilation(t),
        )
    return messages, coordinates, edges


def message_backward(*arguments: Any) -> tuple[Tensor, ...]:
    """The dispatcher op of this name."""
    rest, want_edge_attr = arguments[3:-1], arguments[-1]
    t, (table, num_edges, kind), options = split(rest)
    n, like = t.receiver.shape[0], t.receiver
    result = [like.new_empty(0) if v is None else torch.zeros_like(v) for v in t]
    if not want_edge_attr:
        result[EDGE_ATTR] = like.new_empty(0)
    cotangents = Cotangents(*(to.dense(c) for c in arguments[:3]))
    if cotangents.coordinates is None or t.head_out is None:  # the head had no part in the outputs
        t = t._replace(head_weight=None, head_bias=None, head_out=None)
        cotangents = cotangents._replace(coordinates=None)
    if n == 0 or all(c is None for c in cotangents):
        return tuple(result)
    spec = spec_of(t, options._replace(bfloat16=False), kind)
    blocks = triton.cdiv(n, spec.receivers)
    partials = like.new_zeros(min(blocks, MOST_SHARES), sum(map(round_up, weight_sizes(t))))
    of_x = result[2] if spec.invariants or spec.head else None
    of_edges = result[EDGE_ATTR] if want_edge_attr and t.edge_attr is not None else None
    nothing = MessageTensors(None, None)  # type: ignore[arg-type]
    for receiving, programs, out, sums in (
        (True, partials.shape[0], Gradients(result[0], of_x, of_edges), weight_sums(t, partials)),
        (False, blocks, Gradients(result[1], of_x, None), nothing),
    ):
        to.launch(
            backward_kernel,
            (programs,),
            table,
            t,
            cotangents,
            out,
            sums,
            partials.shape[1],
            *sizes_of(t, table, num_edges, kind),
            spec=spec,
            receiving=receiving,
            **compilation(t),
        )
    added = partials.sum(0, dtype=torch.float64)
    offset = 0
    for k, size in enumerate(weight_sizes(t)):
        if size:
            result[k] = added[offset : offset + size].to(like.dtype).view(result[k].shape)
        offset += round_up(size)
    return tuple(result)


def weight_sizes(t: MessageTensors) -> list[int]:
    """Numbers of elements of the weights, 0 for what is none."""
    return [0 if v is None or k <= 2 or k == EDGE_ATTR else v.numel() for k, v in enumerate(t)]


def round_up(size: int) -> int:
    return -(-size // 16) * 16  # every part begins at a multiple of 64 bytes


def weight_sums(t: MessageTensors, partials: Tensor) -> MessageTensors:
    """The first program's part of each weight's gradient."""
    pieces: list[Tensor | None] = []
    offset = 0
    for size in weight_sizes(t):
        pieces.append(partials[0, offset : offset + size] if size else None)
        offset += round_up(size)
    return MessageTensors(*pieces)  # type: ignore[arg-type]


def split(arguments: Any) -> tuple[MessageTensors, tuple[Tensor, int, int], MessageOptions]:
    """Tensors (contiguous), graph and options out of the arguments of the op's schema."""
    count = len(MessageTensors._fields)
    tensors = [*arguments[:3], *arguments[6 : count + 3]]
    t = MessageTensors(*(to.dense(v) for v in tensors))  # type: ignore[arg-type]
    return t, tuple(arguments[3:6]), MessageOptions.decoded(tuple(arguments[count + 3 :]))
