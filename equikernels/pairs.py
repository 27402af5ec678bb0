"""Packs rank-2 tensors, [B, N, N, ...] to [n_pairs, ...], and unpacks them."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import check_tensor, fail
from .graph import Graph
from .indices import check_offsets


def pack_pairs(padded: Tensor, mask: Tensor, *, num_pairs: int | None = None) -> tuple[Tensor, Tensor]:
    """Drops the padding of a rank-2 tensor.

    Args:
        padded: [B, N, N, ...], any dtype.
        mask: bool [B, N], True for real particles, in any position; they keep their order. A pair is real if both its
            particles are.
        num_pairs: sum over events of the squared number of particles, if known. The length of the result depends on
            data: without this number, a CUDA tensor is synchronised once, and ``torch.compile`` breaks its graph. A
            wrong number is undefined behaviour.

    Returns:
        (packed [n_pairs, ...], pairs row-major inside each event, ptr int64 [B + 1], first particle of each event).

    Raises:
        ValueError, TypeError: wrong shape, dtype or device.
    """
    op = "pack_pairs"
    check_tensor(op, "mask", mask, ["B", "N"], [torch.bool])
    if not isinstance(padded, Tensor):
        fail(op, "padded", "a tensor", type(padded).__name__, TypeError)
    events, size = mask.shape
    if padded.shape[:3] != (events, size, size):
        fail(op, "padded", f"shape [{events}, {size}, {size}, ...]", list(padded.shape))
    if padded.device != mask.device:
        fail(op, "padded", f"device {mask.device}", padded.device)
    flat = (mask[:, :, None] & mask[:, None, :]).flatten()
    slots = flat.nonzero() if num_pairs is None else flat.nonzero_static(size=num_pairs)
    packed = padded.reshape(-1, *padded.shape[3:]).index_select(0, slots.squeeze(1))
    counts = mask.sum(1)
    return packed, torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def unpack_pairs(
    packed: Tensor, ptr: Tensor | Graph, max_length: int | None = None, *, validate: bool = True
) -> tuple[Tensor, Tensor]:
    """Pads every event of a rank-2 tensor with zeros behind its particles.

    Args:
        packed: [n_pairs, ...], any dtype.
        ptr: int64 [B + 1], or a complete graph.
        max_length: N; the longest event of the batch by default.
        validate: check the values of ``ptr`` and ``max_length``. On CUDA this synchronises, and so does the search for
            the longest event; with ``max_length`` and ``validate=False`` a wrong ``ptr`` is undefined behaviour.

    Returns:
        (padded [B, N, N, ...], mask bool [B, N], True for real particles).

    Raises:
        ValueError, TypeError: wrong shape, dtype or device; ``ptr`` does not start at 0, decreases or does not have
            n_pairs pairs; an event longer than ``max_length``.
    """
    op = "unpack_pairs"
    if not isinstance(packed, Tensor):
        fail(op, "packed", "a tensor", type(packed).__name__, TypeError)
    if packed.dim() == 0:
        fail(op, "packed", "shape [n_pairs, ...]", [])
    if isinstance(ptr, Graph):
        if not ptr.is_complete:
            fail(op, "ptr", "offsets or a complete graph", "a sparse graph")
        ptr, validate = ptr._ptr, False
    check_tensor(op, "ptr", ptr, ["B + 1"], [torch.int64])
    if ptr.shape[0] < 1:
        fail(op, "ptr", "at least one entry", list(ptr.shape))
    if ptr.device != packed.device:
        fail(op, "ptr", f"device {packed.device}", ptr.device)
    counts = ptr.diff()
    if validate:
        check_offsets(op, "ptr", ptr, None)
        if counts.numel() > 0 and int(counts.max()) > packed.shape[0]:
            fail(op, "ptr", f"events of at most {packed.shape[0]} particles", int(counts.max()))
    if validate and int((counts * counts).sum()) != packed.shape[0]:
        fail(op, "packed", f"{int((counts * counts).sum())} rows, one per pair", packed.shape[0])
    if max_length is None or validate:
        longest = int(counts.max()) if counts.numel() > 0 else 0
        if max_length is None:
            max_length = longest
        elif max_length < longest:
            fail(op, "max_length", f"at least {longest}, the longest event", max_length)
    events, rows = counts.shape[0], packed.shape[0]
    # pair k of an event of n particles is (k // n, k mod n): slot N (k // n) + k mod n of its event
    pairs = counts * counts
    event = torch.repeat_interleave(pairs, output_size=rows)
    k = torch.arange(rows, device=ptr.device) - (pairs.cumsum(0) - pairs)[event]
    i = torch.div(k, counts[event], rounding_mode="floor")
    slot = (event * max_length + i) * max_length + k - i * counts[event]
    padded = packed.new_zeros(events * max_length * max_length, *packed.shape[1:]).index_copy(0, slot, packed)
    mask = torch.arange(max_length, device=ptr.device) < counts.unsqueeze(1)
    return padded.view(events, max_length, max_length, *packed.shape[1:]), mask
