"""Index tensors: copies of user tensors, checks before kernels read memory at them, sorting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import _native
from .backend import transformed
from .checks import fail


def on_host(t: Tensor) -> bool:
    """Whether NumPy may read a tensor's memory; it starts a small operation sooner than PyTorch. Not while a graph is
    traced, and not inside torch.func."""
    if t.device.type != "cpu" or torch.compiler.is_compiling() or torch._C._is_tracing():
        return False
    return type(t) in (Tensor, torch.nn.Parameter) and torch._C._functorch.maybe_current_level() is None


def own(t: Tensor) -> Tensor:
    """A contiguous copy that no other code holds. It is not an inference tensor, so that a graph first used under
    torch.inference_mode can be used for training later."""
    t = t.detach()
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return t.clone(memory_format=torch.contiguous_format)
    with torch.inference_mode(False):
        return t.clone(memory_format=torch.contiguous_format)


def normal(t: Tensor) -> Tensor:
    """A derived tensor, converted from an inference tensor if necessary: see :func:`own`."""
    if torch.compiler.is_compiling() or not isinstance(t, Tensor) or not t.is_inference():
        return t
    with torch.inference_mode(False):
        return t.clone()


def check_offsets(op: str, argument: str, ptr: Tensor, end: int | None) -> None:
    """``ptr`` starts at 0, does not decrease and ends at ``end``. Its differences overflow only if an entry is
    negative."""
    if ptr.is_meta:
        fail(op, argument, "a tensor with values to check", "one on device meta")
    if on_host(ptr):
        values = ptr.clone().numpy()  # memory that NumPy has seen cannot be resized
        first, last, lowest = int(values[0]), int(values[-1]), int(values.min())
        least = int(np.diff(values).min(initial=first))
    else:
        ends = torch.stack([ptr[0], ptr[-1], ptr.min(), torch.cat([ptr.diff(), ptr[:1]]).min()])
        first, last, lowest, least = ends.tolist()
    if first != 0:
        fail(op, argument, "a first entry of 0", first)
    if lowest < 0 or least < 0:
        b = int((ptr[1:] < ptr[:-1]).nonzero()[0])
        fail(op, argument, "entries that do not decrease", f"{int(ptr[b])} before {int(ptr[b + 1])} at entry {b + 1}")
    if end is not None and last != end:
        fail(op, argument, f"a last entry of {end}", last)


def pairs_table(ptr: Tensor, self_loops: bool, nodes: int | None = None) -> tuple[Tensor, int | None]:
    """(ptr, then the first edge of every event of a complete graph and their number, in one vector that no other code
    holds; this number, if ptr was checked on the way and is valid: see :func:`check_offsets`)."""
    if _native.complete_table is not None and on_host(ptr):
        ptr = ptr.contiguous()
        entries = ptr.shape[0]
        table, address = host_indices(2 * entries)
        end = -1 if nodes is None else nodes
        found: int = _native.complete_table(ptr.data_ptr(), entries, end, self_loops, address)
        return table, found if found >= 0 else None
    ptr = own(ptr)
    counts = ptr.diff()
    edges = counts * counts if self_loops else counts * (counts - 1)
    return torch.cat([ptr, edges.new_zeros(1), edges.cumsum(0)]), None


def host_indices(count: int) -> tuple[Tensor, int]:
    """(an int64 vector on the host, not initialised, its address). It is not an inference tensor: see :func:`own`."""
    memory = np.empty(count, np.int64)
    address: int = memory.__array_interface__["data"][0]
    if not torch.is_inference_mode_enabled():
        return torch.from_numpy(memory), address
    with torch._C._InferenceMode(False):  # as torch.inference_mode, which takes as long as the rest
        return torch.from_numpy(memory), address


def prepended(ptr: Tensor, k: int, total: int) -> tuple[Tensor, Tensor | None]:
    """Events with k more rows in front of each: the :func:`pairs_table` of theirs with self-loops, and where their rows
    [total] lie in a list of the k rows and then those of all events; None for one event, which has this order."""
    if _native.prepended is not None and on_host(ptr):
        entries = ptr.shape[0]
        table, to_table = host_indices(2 * entries)
        source, to_source = host_indices(total) if entries != 2 else (None, None)
        _native.prepended(ptr.data_ptr(), entries, k, to_table, to_source)
        return table, source
    new_ptr = ptr + k * torch.arange(ptr.shape[0], device=ptr.device)
    row = torch.arange(total, device=ptr.device)
    event = torch.repeat_interleave(new_ptr.diff(), output_size=total)
    within = row - new_ptr[event]
    return pairs_table(new_ptr, True)[0], torch.where(within < k, within, row - k * event)


def check_indices(op: str, argument: str, index: Tensor, size: int) -> None:
    if index.numel() > 0:
        low, high = torch.stack(index.aminmax()).tolist()
        if low < 0 or high >= size:
            fail(op, argument, f"indices in [0, {size})", f"[{low}, {high}]")


def group(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sorts edges stably by an end. Returns (ptr [size + 1], order [E]): edges order[ptr[i]:ptr[i + 1]] have end i."""
    order = torch.argsort(index, stable=True)
    if torch.compiler.is_exporting():  # other runtimes have no searchsorted
        counts = index.new_zeros(size + 1).index_add(0, index + 1, torch.ones_like(index))
        return counts.cumsum(0), order
    nodes = torch.arange(size + 1, device=index.device)
    return torch.searchsorted(index[order], nodes), order


def edges_table(edges: Tensor, num_nodes: int, rowptr: Tensor | None = None) -> Tensor:
    """The table of a graph with these edges [2, E]: CSR by receiver, and its transpose. ``rowptr``: where they come
    ordered by receiver, the first edge of each."""
    exporting = torch.compiler.is_exporting()  # to runtimes without the op
    if edges.device.type == "cpu" and _native.cpu_reason is None and not exporting and not transformed((edges,)):
        table: Tensor = torch.ops.equikernels.edge_table(edges, num_nodes)
        return table
    sender, receiver = edges[0], edges[1]
    if rowptr is None:
        in_ptr, in_edge = group(receiver, num_nodes)
    else:
        in_ptr, in_edge = rowptr, torch.arange(edges.shape[1], device=edges.device)
    out_ptr, out_edge = group(sender, num_nodes)
    return torch.cat([in_ptr, sender[in_edge], in_edge, out_ptr, receiver[out_edge], out_edge])


if _native.cpu_reason is None:
    torch.library.register_fake(
        "equikernels::edge_table",
        lambda edge_index, num_nodes: edge_index.new_empty(2 * (num_nodes + 1) + 4 * edge_index.shape[1]),
    )


def edges_of(in_ptr: Tensor, sender: Tensor, in_edge: Tensor) -> Tensor:
    """The edges [2, E] of a graph in CSR, in the order of per-edge tensors."""
    receiver = torch.repeat_interleave(in_ptr.diff(), output_size=sender.shape[0])
    edges = torch.stack([sender, receiver])
    return torch.empty_like(edges).index_copy_(1, in_edge, edges)


def all_pairs(ptr: Tensor, edge_ptr: Tensor, num_edges: int, self_loops: bool) -> Tensor:
    """The edges of a complete graph, [2, num_edges]."""
    counts, edge_counts = ptr.diff(), edge_ptr.diff()
    event = torch.repeat_interleave(edge_counts, output_size=num_edges)
    width = (counts if self_loops else counts - 1)[event]
    k = torch.arange(num_edges, device=ptr.device) - edge_ptr[event]
    i = torch.div(k, width, rounding_mode="floor")
    j = k - i * width
    if not self_loops:
        j = j + (j >= i)
    return torch.stack([j, i]) + ptr[event]
