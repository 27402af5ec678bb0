"""Argument checks with one form of message: ``op: argument: expected ..., got ...``."""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from typing import NoReturn, SupportsIndex

import numpy as np
import torch
from torch import Tensor

REAL = (torch.float32, torch.float64)
FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def fail(op: str, argument: str, expected: str, got: object, kind: type[Exception] = ValueError) -> NoReturn:
    raise kind(f"{op}: {argument}: expected {expected}, got {got}")


def check_tensor(
    op: str,
    argument: str,
    value: Tensor,
    shape: Sequence[int | str] | None = None,
    dtypes: Sequence[torch.dtype] | None = None,
    like: Tensor | None = None,
) -> None:
    """Checks type, shape (letters match any size), dtype, and the device (and, without dtypes, dtype) of ``like``."""
    if not isinstance(value, Tensor):
        fail(op, argument, "a tensor", type(value).__name__, TypeError)
    if shape is not None:
        fits = len(value.shape) == len(shape)
        for size, wanted in zip(value.shape, shape, strict=False):  # all() takes twice as long
            if isinstance(wanted, int | np.integer) and size != wanted:
                fits = False
        if not fits:
            letters = ", ".join(str(s) for s in shape)
            fail(op, argument, f"shape [{letters}]", list(value.shape))
    if dtypes is not None and value.dtype not in dtypes:
        fail(op, argument, "dtype " + " or ".join(_short(d) for d in dtypes), _short(value.dtype), TypeError)
    if like is not None:
        if value.device != like.device:
            fail(op, argument, f"device {like.device}", value.device)
        if dtypes is None and value.dtype != like.dtype:
            fail(op, argument, f"dtype {_short(like.dtype)}", _short(value.dtype), TypeError)


def as_int(op: str, argument: str, value: SupportsIndex | None) -> int:
    """An integer of Python, NumPy or PyTorch, as Python's; a symbolic one as it is. Truth values are refused."""
    if isinstance(value, int | torch.SymInt) and not isinstance(value, bool):
        return value  # type: ignore[return-value]
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    fail(op, argument, "an integer", repr(value), TypeError)


def check_choice(op: str, argument: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        fail(op, argument, "one of " + ", ".join(choices), repr(value))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
