"""A stand-in for CUDA graphs on the CPU: what a function asks of PyTorch is written down, and played again on the same
memory. Whatever Python worked out of numbers in tensors would be stale in a replay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They copy a number to the host, or make a shape of one.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "bincount", "aten::equal")


class Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if any(word in name for word in WAITS) or (
            name == "aten::repeat_interleave" and kwargs.get("output_size") is None
        ):
            raise RuntimeError(f"{name} waits for the device")
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.calls.append((func, args, kwargs, _tensors(out)))
        return out

    def play(self) -> None:
        for func, args, kwargs, outs in self.calls:
            for old, new in zip(outs, _tensors(func(*args, **kwargs)), strict=True):
                if old.numel() > 0 and old.data_ptr() != new.data_ptr():  # else a view, or written in place
                    old.copy_(new)


def _tensors(out: Any) -> list[Tensor]:
    return [t for t in tree_leaves(out) if isinstance(t, Tensor)]


def record(run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """As :func:`equikernels.cuda_graphs.record`."""
    tape = Tape()
    with tape:
        results = run()
    return tape.play, results
