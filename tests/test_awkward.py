"""Tests awkward arrays: packed values equal their lists; other types raise errors by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import equikernels as ek

ak = pytest.importorskip("awkward")

NAMES = ("E", "px")


def lists(array: Any, names: tuple[str, ...] | None = None) -> tuple[list[Any], list[int]]:
    """(rows, ptr) by way of Python's lists."""
    if names is not None:
        columns = [lists(array[name]) for name in names]
        return [list(row) for row in zip(*(rows for rows, _ in columns), strict=True)], columns[0][1]
    events = [event or [] for event in array.to_list()]
    return [row for event in events for row in event], [0, *np.cumsum([len(event) for event in events]).tolist()]


def same(array: Any, names: tuple[str, ...] | None = None) -> torch.Tensor:
    packed, ptr = ek.pack_awkward(array, names)
    rows, offsets = lists(array, names)
    assert packed.tolist() == rows
    assert ptr.tolist() == offsets
    assert ptr.dtype == torch.int64
    return packed


ARRAYS: dict[str, Callable[[], Any]] = {
    "a missing event": lambda: ak.Array([[1.0, 2.0], None, [3.0]]),
    "missing events at both ends": lambda: ak.Array([None, [1.0], None]),
    "the first of each": lambda: ak.firsts(ak.Array([[[1, 2], [3]], [], [[5.0]]])),
    "events masked away": lambda: ak.mask(ak.Array([[1.0, 2.0], [3.0]]), [False, True]),
    "an index with a hole": lambda: ak.Array([[1.0, 2.0], [3.0]])[ak.Array([1, None, 0])],
    "events after others": lambda: ak.concatenate([ak.Array([[1.0]]), ak.Array([None, [2, 3]])]),
    "a masked array that hides nothing": lambda: ak.Array(np.ma.array([[1.0, 2], [3, 4]], mask=np.zeros((2, 2)))),
    "a fixed number of rows": lambda: ak.Array(np.arange(6).reshape(2, 3)),
    "a fixed number of rows of numbers": lambda: ak.Array(np.arange(24.0).reshape(2, 3, 4)),
    "rows of lists of one length": lambda: ak.Array([[[1, 2], [3, 4]], [], [[5, 6]]]),
    "rows of matrices": lambda: ak.Array(np.arange(48).reshape(2, 3, 4, 2)),
    "no rows in any event": lambda: ak.Array(np.zeros((2, 0))),
    "no events": lambda: ak.Array(np.zeros((0, 3))),
    "no events, of no type": lambda: ak.Array([]),
    "empty events, of no type": lambda: ak.Array([[], []]),
    "missing events alone": lambda: ak.Array([None, None]),
    "truth values": lambda: ak.Array([[True], [], [False, True]]),
    "events in another order": lambda: ak.Array([[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]])[[2, 0, 0]],
    "every other event, rows backwards": lambda: ak.Array([[1.0, 2.0], [3.0], [4.0, 5.0, 6.0]])[::-2, ::-1],
    "rows chosen": lambda: ak.Array([[1.0, 2.0], [3.0]])[ak.Array([[True, False], [False]])],
    "padded and filled": lambda: ak.fill_none(ak.pad_none(ak.Array([[1.0, 2.0], [3.0]]), 3), 0.0),
    "columns of a matrix": lambda: ak.Array(np.arange(24.0).reshape(2, 3, 4)[:, :, ::2]),
    "integers and reals": lambda: ak.Array([[1, 2.5], [3]]),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_what_is_packed_is_what_the_lists_say(name: str) -> None:
    same(ARRAYS[name]())


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"],
)
def test_the_dtype_stays(dtype: str) -> None:
    packed = same(ak.unflatten(np.array([1, 0, 1]).astype(dtype), [1, 0, 2]))
    assert packed.dtype == getattr(torch, dtype)


RECORDS: dict[str, Callable[[], Any]] = {
    "columns": lambda: ak.Array({"E": [[9.0], [8.0, 7.0]], "px": [[1.0], [2.0, 3.0]]}),
    "rows": lambda: ak.Array([[{"E": 1.0, "px": 2.0, "pid": 3}], [], [{"E": 4.0, "px": 5.0, "pid": 6}]]),
    "a missing event": lambda: ak.firsts(ak.Array([[[{"E": 1.0, "px": 2}]], [], [[{"E": 5.0, "px": 3}]]])),
    "missing in one, empty in the other": lambda: ak.Array({"E": [None, [8.0]], "px": [[], [3.0]]}),
    "a field some lack": lambda: ak.Array([[{"E": 1.0, "px": 3.0}], [{"E": 1.0, "px": 0.0, "q": 2}]]),
    "of different dtypes": lambda: ak.Array({"E": [[9.5], [8.0, 7.0]], "px": [[1], [2, 3]]}),
    "of lists of numbers": lambda: ak.Array({"E": [[[9.0, 1.0]], []], "px": [[[1.0, 2.0]], []]}),
    "inside records": lambda: ak.Array([[{"p4": {"E": 1.0, "px": 2.0}}]])["p4"],
    "no events": lambda: RECORDS["rows"]()[:0],
}


@pytest.mark.parametrize("name", RECORDS)
def test_columns_of_records(name: str) -> None:
    array = RECORDS[name]()
    if name != "of lists of numbers":
        same(array, NAMES)
    packed, ptr = ek.pack_awkward(array, NAMES)
    for k, column in enumerate(NAMES):
        one, ptr_of_one = ek.pack_awkward(array[column])
        assert torch.equal(packed[..., k], one.to(packed.dtype))
        assert torch.equal(ptr, ptr_of_one)


def test_events_of_no_type_have_every_column() -> None:
    packed, ptr = ek.pack_awkward(ak.Array([[], None, []]), NAMES)
    assert packed.shape == (0, 2)
    assert ptr.tolist() == [0, 0, 0, 0]


MISSING = r"expected a value in every row \(only whole events may be missing\), got None in event "
NUMBERS = r"array: expected events of rows of numbers, type B \* var \* \.\.\., got "
REFUSED: list[tuple[Callable[[], Any], tuple[str, ...] | None, type[Exception], str]] = [
    (lambda: ak.Array([[1.0, 2.0], None, [3.0, None]]), None, ValueError, f"array: {MISSING}2, row 1"),
    (lambda: ak.Array([[], [[1.0, 2.0]], [[4.0, None]]]), None, ValueError, f"array: {MISSING}2, row 0"),
    (lambda: ak.Array([[], [[1.0, 2.0], None]]), None, ValueError, f"array: {MISSING}1, row 1"),
    (lambda: ak.Array([[{"E": 1.0, "px": 2.0}, None]]), NAMES, ValueError, rf"array\['E'\]: {MISSING}0, row 1"),
    (
        lambda: ak.Array([[{"E": 1.0, "px": 1.0}], [{"E": 1.0}]]),
        NAMES,
        ValueError,
        rf"array\['px'\]: {MISSING}1, row 0",
    ),
    (lambda: ak.pad_none(ak.Array([[1.0], [2.0, 3.0]]), 2), None, ValueError, f"array: {MISSING}0, row 1"),
    (lambda: ak.Array(np.ma.array([[1.0, 2]], mask=[[0, 1]])), None, ValueError, f"array: {MISSING}0, row 1"),
    (
        lambda: ak.Array({"E": [[9.0], [8.0, 7.0]], "px": [[1.0, 2.0], [3.0]]}),
        NAMES,
        ValueError,
        "fields: expected columns of equal lengths, 1 rows in event 0 as E has, got 2 in px",
    ),
    (
        lambda: ak.Array({"E": [[9.0], None, [8.0]], "px": [[1.0], [2.0], []]}),
        NAMES,
        ValueError,
        "fields: expected columns of equal lengths, 0 rows in event 1 as E has, got 1 in px",
    ),
    (lambda: ak.Array({"E": [[9.0]], "px": [[[1.0]]]}), NAMES, ValueError, r"array\['px'\]: expected shape \[1\]"),
    (lambda: ak.Array([[{"E": {"x": 1.0}, "px": 2.0}]]), NAMES, ValueError, "columns of numbers, not records: E has x"),
    (lambda: ak.Array([[{"E": 1.0, "px": 2.0}]]), (), ValueError, "fields: expected at least one name, got none"),
    (lambda: ak.Array([[{"E": 1.0, "px": 2.0}]]), "E", TypeError, "fields: expected a list of names, got 'E'"),
    (lambda: ak.Array([[1.0]]), ("E",), ValueError, r"names from a record array \(this is none\), got E"),
    (lambda: ak.Array([{"E": 1.0, "px": 2.0}]), NAMES, ValueError, r"array\['E'\]: expected events of rows"),
    (lambda: ak.Array([[[1, 2], [3, 4]], [], [[5]]]), None, ValueError, "one length, 2, got 1 in event 2, row 0"),
    (lambda: ak.Array([["a", "b"], ["c"]]), None, TypeError, NUMBERS),
    (lambda: ak.Array(["abc", "d"]), None, ValueError, NUMBERS),
    (lambda: ak.Array([[1, "a"], [2]]), None, TypeError, NUMBERS),
    (lambda: ak.Array([[1, 2], 3]), None, ValueError, NUMBERS),
    (lambda: ak.Array([[1, [2]], [3]]), None, ValueError, NUMBERS),
    (lambda: ak.Array([[True, 2], [3]]), None, TypeError, NUMBERS),
    (lambda: ak.Array(np.zeros((2, 3), "datetime64[s]")), None, TypeError, NUMBERS),
    (lambda: ak.Array([1.0, 2.0]), None, ValueError, NUMBERS),
    (lambda: ak.Array([{"E": [1.0]}])[0], None, TypeError, "array: expected an awkward array, got Record"),
    (lambda: [[1.0]], None, TypeError, "array: expected an awkward array, got list"),
]


@pytest.mark.parametrize(("make", "fields", "kind", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(make: Callable[[], Any], fields: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^pack_awkward: .*{message}"):
        ek.pack_awkward(make(), fields)


events = st.lists(st.none() | st.lists(st.integers(-9, 9), max_size=4), max_size=6)


@given(events, st.sampled_from([1, -1, 2]), st.booleans())
def test_any_events(made: list[list[int] | None], step: int, fixed_width: bool) -> None:
    array = ak.Array([*made, [1.5]])[:-1]  # the last one gives a type
    same(array[::step])
    if fixed_width:
        pairs = [None if event is None else [[v, v + 1] for v in event] for event in made]
        same(ak.Array([*pairs, [[0, 0]]])[:-1][::step])
    record = ak.zip({"E": array, "px": array * 2})
    same(record[::step], NAMES)


@given(events, events)
def test_columns_of_any_lengths(first: list[list[int] | None], second: list[list[int] | None]) -> None:
    n = min(len(first), len(second))
    array = ak.Array({"E": [*first[:n], [0]], "px": [*second[:n], [0]]})
    differ = [b for b in range(n) if len(first[b] or []) != len(second[b] or [])]
    if differ:
        with pytest.raises(ValueError, match=f"rows in event {differ[0]} as E has"):
            ek.pack_awkward(array, NAMES)
    else:
        same(array, NAMES)
