"""Converts awkward arrays to NumPy arrays of rows; missing, ragged and non-numeric values raise errors by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .checks import fail

if TYPE_CHECKING:
    import awkward

Rows = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]


def rows_of(op: str, argument: str, array: awkward.Array, row: str = "row") -> tuple[Rows, Counts]:
    """(rows [n_total, ...] of all events, rows of each event) of a column of numbers; a missing event has none.

    Errors call a row ``row``.
    """
    import awkward as ak

    if is_unknown(array):
        return np.empty(0), np.zeros(len(array), np.int64)
    wanted = "events of rows of numbers, type B * var * ..."
    try:
        if array.ndim < 2:
            fail(op, argument, wanted, str(array.type))
        counts = ak.to_numpy(ak.fill_none(ak.num(array, axis=1), 0)).astype(np.int64)
        flat = ak.flatten(ak.drop_none(array, axis=0), axis=1)
        _refuse_missing(op, argument, flat, counts, row)
        rows = ak.to_numpy(flat, allow_missing=False)
    except (TypeError, ValueError) as error:  # of awkward: a union, lists of several lengths
        if str(error).startswith(f"{op}: "):
            raise
        _refuse_ragged(op, argument, array)
        raise TypeError(f"{op}: {argument}: expected {wanted}, got {array.type}") from error
    if rows.dtype.kind not in "biufc":
        fail(op, argument, wanted, str(array.type), TypeError)
    return rows, counts


def is_unknown(array: awkward.Array) -> bool:
    """Whether the lists are empty and untyped."""
    import awkward as ak

    kind: Any = array.type
    while isinstance(kind, (ak.types.ArrayType, ak.types.ListType, ak.types.RegularType, ak.types.OptionType)):
        kind = kind.content
    return isinstance(kind, ak.types.UnknownType)


def check_counts(op: str, names: list[str], counts: list[Counts], argument: str = "fields") -> None:
    """All columns must have as many rows as the first in every event."""
    for name, other in zip(names, counts, strict=True):
        differ = np.flatnonzero(other != counts[0])
        if len(differ):
            b = int(differ[0])
            expected = f"columns of equal lengths, {counts[0][b]} rows in event {b} as {names[0]} has"
            fail(op, argument, expected, f"{other[b]} in {name}")


def place(number: int, counts: Counts, row: str = "row", first: int = 0) -> str:
    """The event and position of a row; events are counted from ``first``."""
    event = int(np.searchsorted(np.cumsum(counts), number, side="right"))
    return f"event {first + event}, {row} {number - int(counts[:event].sum())}"


def _refuse_missing(op: str, argument: str, flat: awkward.Array, counts: Counts, row: str) -> None:
    import awkward as ak

    for axis in range(flat.ndim):
        missing = ak.is_none(flat, axis=axis)
        for _ in range(axis):
            missing = ak.any(missing, axis=-1)
        bad = np.flatnonzero(ak.to_numpy(ak.fill_none(missing, False)))
        if len(bad):
            fail(
                op,
                argument,
                f"a value in every {row} (only whole events may be missing)",
                f"None in {place(bad[0], counts, row)}",
            )


def _refuse_ragged(op: str, argument: str, array: awkward.Array) -> None:
    """Raises an error that locates rows of different lengths, if there are any."""
    import awkward as ak

    try:
        counts = ak.to_numpy(ak.fill_none(ak.num(array, axis=1), 0)).astype(np.int64)
        lengths = ak.to_numpy(ak.num(ak.flatten(ak.drop_none(array, axis=0), axis=1), axis=1))
    except (TypeError, ValueError):
        return
    bad = np.flatnonzero(lengths != lengths[:1])
    if len(bad):
        fail(op, argument, f"rows of one length, {lengths[0]}", f"{lengths[bad[0]]} in {place(bad[0], counts)}")
