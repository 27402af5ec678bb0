"""Packs events from padded tensors, lists, ragged arrays and nested tensors, and unpacks them.

A packed batch is ``packed [n_total, ...]``, the rows of all events one after another, plus ``ptr`` int64
[n_events + 1]: event b owns rows ptr[b] .. ptr[b + 1] - 1 (PyTorch Geometric's ``ptr``, FlashAttention's
``cu_seqlens``). ``pack*`` functions make it, ``unpack*`` functions invert them. Padded tensors and lists are
differentiable to any order, nested tensors once (as everywhere in torch), awkward arrays not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import indices
from .checks import check_tensor, fail, need
from .graph import COMPLETE_WITH_SELF_LOOPS, Graph
from .ragged import check_counts, is_unknown, rows_of

if TYPE_CHECKING:
    import awkward


def pack(padded: Tensor, mask: Tensor, *, num_rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Drops the padding.

    Args:
        padded: [B, N, ...], any dtype.
        mask: bool [B, N], True for real rows, in any position. Rows keep their order.
        num_rows: how many entries of ``mask`` are True, if known. The length of the result depends on data: without
            this number, a CUDA tensor is synchronised once, and ``torch.compile`` breaks its graph. A wrong number is
            undefined behaviour.

    Returns:
        (packed [n_total, ...], ptr int64 [B + 1]).

    Raises:
        ValueError, TypeError: wrong shape, dtype or device.
    """
    op = "pack"
    check_tensor(op, "mask", mask, ["B", "N"], [torch.bool])
    if not isinstance(padded, Tensor):
        fail(op, "padded", "a tensor", type(padded).__name__, TypeError)
    if padded.shape[:2] != mask.shape:
        fail(op, "padded", f"shape [{mask.shape[0]}, {mask.shape[1]}, ...]", list(padded.shape))
    if padded.device != mask.device:
        fail(op, "padded", f"device {mask.device}", padded.device)
    flat = mask.flatten()
    slots = flat.nonzero() if num_rows is None else flat.nonzero_static(size=num_rows)
    packed = padded.reshape(-1, *padded.shape[2:]).index_select(0, slots.squeeze(1))
    return packed, _offsets(mask.sum(1))


def unpack(
    packed: Tensor, ptr: Tensor, max_length: int | None = None, *, validate: bool = True
) -> tuple[Tensor, Tensor]:
    """Pads every event with zeros behind its rows.

    Args:
        packed: [n_total, ...], any dtype.
        ptr: int64 [B + 1].
        max_length: N; the longest event of the batch by default.
        validate: check the values of ``ptr``. On CUDA this synchronises, and so does the search for the longest event;
            with ``max_length`` and ``validate=False`` nothing does, and an event longer than ``max_length`` or a wrong
            ``ptr`` is undefined behaviour.

    Returns:
        (padded [B, N, ...], mask bool [B, N], True for real rows).

    Raises:
        ValueError, TypeError: wrong shape, dtype or device; ``ptr`` does not start at 0, decreases or does not end at
            n_total; an event longer than ``max_length``.
    """
    op = "unpack"
    counts = _counts(op, packed, ptr, validate)
    if max_length is None or validate:
        longest = int(counts.max()) if counts.numel() > 0 else 0
        if max_length is None:
            max_length = longest
        elif max_length < longest:
            fail(op, "max_length", f"at least {longest}, the longest event", max_length)
    events = ptr.shape[0] - 1
    mask = torch.arange(max_length, device=ptr.device) < counts.unsqueeze(1)
    start = torch.arange(events, device=ptr.device) * max_length - ptr[:-1]
    rows = torch.arange(packed.shape[0], device=ptr.device)
    slot = rows + torch.repeat_interleave(start, counts, output_size=packed.shape[0])
    padded = packed.new_zeros(events * max_length, *packed.shape[1:]).index_copy(0, slot, packed)
    return padded.view(events, max_length, *packed.shape[1:]), mask


def pack_list(events: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Packs a list of events [n_b, ...], which differ only in n_b. Nothing is copied from the device.

    Returns:
        (packed [n_total, ...], ptr int64 [n_events + 1]).

    Raises:
        ValueError, TypeError: an empty list (its shape is unknown), or events that differ in more than n_b.
    """
    op = "pack_list"
    if len(events) == 0:
        fail(op, "events", "at least one event", "an empty list")
    first = events[0]
    for b, event in enumerate(events):
        argument = f"events[{b}]"
        check_tensor(op, argument, event, like=first)
        if event.dim() == 0 or event.shape[1:] != first.shape[1:]:
            fail(op, argument, f"shape [n, {', '.join(map(str, first.shape[1:]))}]", list(event.shape))
    counts = torch.tensor([event.shape[0] for event in events], dtype=torch.int64)
    return torch.cat(list(events)), _offsets(counts).to(first.device)


def unpack_list(packed: Tensor, ptr: Tensor) -> list[Tensor]:
    """The events as a list of views [n_b, ...]. On CUDA this synchronises: lengths become Python numbers.

    Raises:
        ValueError, TypeError: as :func:`unpack`.
    """
    counts = _counts("unpack_list", packed, ptr, validate=True)
    return list(packed.split(counts.tolist()))


def pack_nested(nested: Tensor) -> tuple[Tensor, Tensor]:
    """Packs a ``torch.nested`` tensor [B, n_b, ...], ragged in dimension 1.

    The jagged layout without holes is packed already: the result shares its storage, and nothing is copied from the
    device.

    Returns:
        (packed [n_total, ...], ptr int64 [B + 1]).

    Raises:
        ValueError, TypeError: not nested, or ragged in another dimension.
    """
    op = "pack_nested"
    if not isinstance(nested, Tensor) or not nested.is_nested:
        fail(op, "nested", "a nested tensor", type(nested).__name__, TypeError)
    if nested.layout != torch.jagged:
        return pack_list(nested.unbind())
    jagged: Any = nested
    if jagged._ragged_idx != 1:
        fail(op, "nested", "events ragged in dimension 1", f"dimension {jagged._ragged_idx}")
    if jagged.lengths() is not None:  # holes between events
        jagged = jagged.contiguous()
    return jagged.values(), jagged.offsets().to(torch.int64)


def unpack_nested(packed: Tensor, ptr: Tensor, *, validate: bool = True) -> Tensor:
    """A ``torch.nested`` tensor [B, n_b, ...] of jagged layout, on the same storage.

    Args:
        packed: [n_total, ...].
        ptr: int64 [B + 1].
        validate: check the values of ``ptr`` (on CUDA this synchronises).

    Raises:
        ValueError, TypeError: as :func:`unpack`.
    """
    _counts("unpack_nested", packed, ptr, validate)
    return torch.nested.nested_tensor_from_jagged(packed, ptr)


def pack_awkward(array: awkward.Array, fields: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
    """Packs an awkward array of type ``B * var * number``, ``B * var * D * number``, ``B * var * {E: number, ...}`` or
    ``B * {E: var * number, ...}``.

    A missing event (None, as from ``ak.firsts`` without a jet) is an event without rows. Nothing else may be missing.

    Args:
        array: ragged in axis 1 only.
        fields: for records, the fields that become the columns of the result, in order, such as
            ("E", "px", "py", "pz"). Their dtypes are converted to NumPy's common one.

    Returns:
        (packed [n_total, ...] on the CPU, in the array's dtype, ptr int64 [B + 1]). No gradient.

    Raises:
        ValueError: missing or unknown ``fields``; a value is missing; fields of different lengths in some event; rows
            of different lengths.
        TypeError: not an awkward array, or values that are not numbers.
        ImportError: awkward is not installed.
    """
    op = "pack_awkward"
    ak = need(op, "awkward", "data")
    if not isinstance(array, ak.Array):
        fail(op, "array", "an awkward array", type(array).__name__, TypeError)
    if isinstance(fields, str):
        fail(op, "fields", "a list of names", repr(fields), TypeError)
    names, unknown = list(ak.fields(array)), is_unknown(array)
    if fields is None:
        if names:
            fail(op, "fields", f"names of columns, from {', '.join(names)}", None)
        rows, counts = rows_of(op, "array", array)
    elif len(fields) == 0:
        fail(op, "fields", "at least one name", "none")
    else:
        missing = [name for name in fields if name not in names and not unknown]
        if missing:
            fail(op, "fields", f"names from {', '.join(names) or 'a record array (this is none)'}", missing[0])
        columns = [array if unknown else array[name] for name in fields]
        for name, column in zip(fields, columns, strict=True):
            if inner := ak.fields(column):
                fail(op, "fields", f"columns of numbers, not records: {name} has {', '.join(inner)}", name)
        parts = [rows_of(op, f"array[{name!r}]", column) for name, column in zip(fields, columns, strict=True)]
        check_counts(op, list(fields), [counts for _, counts in parts])
        for name, (rows, _) in zip(fields, parts, strict=True):
            if rows.shape != parts[0][0].shape:
                fail(op, f"array[{name!r}]", f"shape {list(parts[0][0].shape)}, as {fields[0]} has", list(rows.shape))
        rows, counts = np.stack([rows for rows, _ in parts], axis=-1), parts[0][1]
    try:
        packed = torch.from_numpy(np.array(rows))  # a copy
    except TypeError:
        fail(op, "array", "numbers PyTorch has a dtype for", rows.dtype, TypeError)
    return packed, _offsets(torch.from_numpy(counts))


def unpack_awkward(packed: Tensor, ptr: Tensor) -> Any:
    """An awkward array of type ``B * var * ...`` with the values of ``packed`` (copied to the CPU, without gradient).

    Raises:
        ValueError, TypeError: as :func:`unpack`.
        ImportError: awkward is not installed.
    """
    ak = need("unpack_awkward", "awkward", "data")
    counts = _counts("unpack_awkward", packed, ptr, validate=True)
    return ak.unflatten(packed.detach().cpu().numpy(), counts.cpu().numpy())


def _offsets(counts: Tensor) -> Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def check_offsets(op: str, ptr: Tensor, packed: Tensor, *, validate: bool) -> Tensor:
    """The number of rows of each event, after a check of ``ptr`` (of its values only with ``validate``)."""
    check_tensor(op, "ptr", ptr, ["B + 1"], [torch.int64])
    if ptr.shape[0] < 1:
        fail(op, "ptr", "at least one entry", list(ptr.shape))
    if ptr.device != packed.device:
        fail(op, "ptr", f"device {packed.device}", ptr.device)
    counts = ptr.diff()
    if validate:
        indices.check_offsets(op, "ptr", ptr, packed.shape[0])
    return counts


def _counts(op: str, packed: Tensor, ptr: Tensor, validate: bool) -> Tensor:
    """The number of rows of each event of a checked batch."""
    if not isinstance(packed, Tensor):
        fail(op, "packed", "a tensor", type(packed).__name__, TypeError)
    if packed.dim() == 0:
        fail(op, "packed", "shape [n_total, ...]", [])
    return check_offsets(op, ptr, packed, validate=validate)


def prepend(pairs: Graph, *parts: tuple[Tensor, Tensor]) -> tuple[list[Tensor], Graph]:
    """Puts rows [k, width] before the particles x [n, width] of every event, for each (x, rows): (all x', their pairs).

    Nothing is copied from the device.
    """
    ptr, k = pairs._ptr, parts[0][1].shape[0]
    n, events = pairs.num_nodes, ptr.shape[0] - 1
    table, source = indices.prepended(ptr, k, n + k * events)
    out = [torch.cat([rows, x]) for x, rows in parts]
    if source is not None:
        out = [t.index_select(0, source) for t in out]
    edges = pairs._num_edges if pairs._num_edges is None else pairs._num_edges + 2 * k * n + k * k * events
    return out, Graph._new(n + k * events, edges, COMPLETE_WITH_SELF_LOOPS, table)
