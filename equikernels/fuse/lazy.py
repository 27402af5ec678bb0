"""A tensor that is made when it is first used: published code returns messages that hardly any model looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class LazyTensor:
    """Stands for a tensor [E, H] of edges. Functions of PyTorch, methods, operators and indices make it.

    It is no ``torch.Tensor``: :meth:`tensor` gives the one that it stands for.
    """

    def __init__(self, make: Callable[[], Tensor]) -> None:
        self._make: Callable[[], Tensor] | None = make
        self._made: Tensor | None = None
        self._grad_enabled = torch.is_grad_enabled()

    def tensor(self) -> Tensor:
        """The tensor itself, made once, with gradients if they were recorded when the block was called."""
        if self._made is None:
            assert self._make is not None
            with torch.set_grad_enabled(self._grad_enabled):
                self._made = self._make()
            self._make = None  # what it was made of may go
        return self._made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = pytree.tree_map_only(cls, cls.tensor, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copies and pickles ask for these before there is anything
            raise AttributeError(name)
        return getattr(self.tensor(), name)

    def __repr__(self) -> str:
        return repr(self.tensor())

    def __reduce__(self) -> Any:
        return _itself, (self.tensor(),)


def _itself(t: Tensor) -> Tensor:
    return t


def _forward(name: str) -> Callable[..., Any]:
    def method(self: LazyTensor, *args: Any) -> Any:
        others = [a.tensor() if isinstance(a, LazyTensor) else a for a in args]
        return getattr(self.tensor(), name)(*others)

    return method


_BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"]
_OPERATORS = [f"__{side}{name}__" for name in _BINARY for side in ("", "r") if hasattr(Tensor, f"__{side}{name}__")]
_OPERATORS += [
    f"__{name}__"
    for name in ["neg", "pos", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge", "len", "iter", "getitem", "setitem"]
]
_OPERATORS += [f"__{name}__" for name in ["bool", "float", "int", "index", "contains", "array", "format"]]
for _name in _OPERATORS:
    if hasattr(Tensor, _name):
        setattr(LazyTensor, _name, _forward(_name))
LazyTensor.__hash__ = object.__hash__  # type: ignore[method-assign]
