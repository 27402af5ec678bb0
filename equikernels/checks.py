"""Argument checks with one form of message: ``op: argument: expected ..., got ...``."""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Collection, Sequence
from typing import Any, NoReturn, SupportsIndex

import numpy as np
import torch
from torch import Tensor

INTEGERS = (int, np.integer)
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
        sizes = value.shape
        fits = len(sizes) == len(shape)
        for size, wanted in zip(sizes, shape, strict=False):  # all() takes twice as long
            if wanted.__class__ is not str and isinstance(wanted, INTEGERS) and size != wanted:
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
    """Converts an integer of Python, NumPy or PyTorch to Python's; keeps symbolic integers; rejects booleans."""
    if isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
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


def check_bound(op: str, argument: str, value: float | None) -> float | None:
    """A bound >= 0 as a schema takes it; None or infinity: no bound, None in the schema. (A saved program stores the
    numbers of its calls as text, which cannot represent infinity.)"""
    if value is None:
        return None
    try:
        inside = value >= 0
    except TypeError:
        inside = False
    if not inside:
        fail(op, argument, "a number >= 0 or None", value)
    return None if value == math.inf else float(value)


def check_number(op: str, argument: str, value: float, least: float = -math.inf) -> float:
    """A finite number, above ``least`` if given."""
    try:
        inside = least < value < math.inf
    except TypeError:
        inside = False
    if not inside:
        fail(op, argument, "a finite number" if least == -math.inf else f"a finite number > {least:g}", repr(value))
    return float(value)


def check_integer(op: str, argument: str, value: int, expected: str, least: int | None = None) -> int:
    """An int of at least ``least``. NumPy's integers are accepted, booleans and floats are not."""
    number: int | None = None
    if isinstance(value, int | torch.SymInt):
        number = None if isinstance(value, bool) else value
    elif not str(getattr(value, "dtype", "")).endswith(("bool", "bool_")):
        try:
            number = operator.index(value)
        except (TypeError, RuntimeError):
            number = None
    if number is None or (least is not None and number < least):
        fail(op, argument, expected, value)
    return number


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def need(op: str, module: str, extra: str) -> Any:
    """Imports an optional library; if it is not installed, the error names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{op}: needs {module}: pip install "equikernels[{extra}]"') from error
