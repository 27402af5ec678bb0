"""What readers share: options, parts of a file, labels, padding."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import checks
from ...checks import fail

OP = "read_jets"
Array = npt.NDArray[Any]
Label = int | str | Sequence[str] | None


@dataclass(frozen=True)
class Options:
    """As :func:`equikernels.data.read_jets` takes them; a reader ignores what its format does not know."""

    chunk: int
    label: Label = None
    features: Sequence[str] = ()
    split: str | None = None
    tree: str | None = None
    prefix: str | None = None
    jets: str | None = None


OF_FORMAT = tuple(f.name for f in fields(Options) if f.name not in ("chunk", "label"))  # what not every format knows


@dataclass
class Part:
    """Consecutive jets of a file: p4 float64 [n, 4], constituents of each jet, labels, columns [n] of constituents and
    [n_jets, ...] of jets by name."""

    p4: Array
    counts: Array
    label: Array | None = None
    features: dict[str, Array] = field(default_factory=dict)
    truth: dict[str, Array] = field(default_factory=dict)

    def cut(self, lo: int, hi: int) -> Part:
        """The jets lo .. hi - 1."""
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        rows = slice(ends[lo], ends[min(hi, len(self.counts))])
        label = None if self.label is None else self.label[lo:hi]
        features = {name: c[rows] for name, c in self.features.items()}
        truth = {name: c[lo:hi] for name, c in self.truth.items()}
        return Part(self.p4[rows], self.counts[lo:hi], label, features, truth)

    def pieces(self, size: int) -> Iterator[Part]:
        """Parts of at most ``size`` jets."""
        if len(self.counts) <= size:
            yield self
        else:
            for lo in range(0, len(self.counts), size):
                yield self.cut(lo, lo + size)


def need(module: str) -> Any:
    return checks.need(OP, module, "data")


def listed(names: Collection[str], near: str | None = None, most: int = 30) -> str:
    """The names, for an error; of many the first, or those like ``near``."""
    shown = list(names)[:most]
    if near is not None and len(names) > most:
        shown = get_close_matches(near, names, 10, 0.4) or shown
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return (", ".join(shown) or "none") + more


def from_padded(p4: Array, real: Array) -> tuple[Array, Array]:
    """(float64 [n, 4], constituents of each jet) of p4 [B, N, 4] and a mask [B, N]."""
    return p4[real].astype(np.float64, copy=False), real.sum(1)


def real_rows(p4: Array) -> Array:
    """Which rows of p4 [B, N, 4] are not zeros. (``any`` over the last axis takes three times as long.)"""
    real = p4[:, :, 0] != 0
    for k in range(1, 4):
        real |= p4[:, :, k] != 0
    return real


def spans(total: int, chunk: int) -> Iterator[tuple[int, int]]:
    for lo in range(0, total, chunk):
        yield lo, min(lo + chunk, total)


class Labels:
    """The columns that hold labels, chosen once, read for each part."""

    def __init__(self, label: Label, there: Collection[str], default: Sequence[str] = ()) -> None:
        self.names: list[str] = []
        if label is None:
            self.names = [name for name in default if name in there][:1]
        elif not isinstance(label, int):
            self.names = [label] if isinstance(label, str) else list(label)
            for name in self.names:
                if name not in there:
                    fail(OP, "label", f"a column of the file: {listed(there, near=name)}", repr(name))

    def of(self, get: Callable[[str], Array]) -> Array | None:
        if not self.names:
            return None
        columns = [np.asarray(get(name)) for name in self.names]
        return integers(self.names[0], columns[0]) if len(columns) == 1 else classes(self.names, np.stack(columns, 1))


def integers(name: str, values: Array) -> Array:
    """Labels as int64. Rows of zeros and a one become the position of the one."""
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim == 2:
        return classes([f"{name}[{k}]" for k in range(values.shape[1])], values)
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        fail(OP, "label", "one number for each jet", f"{name} of shape {list(values.shape)}, dtype {values.dtype}")
    if values.dtype.kind == "f":
        wrong = np.flatnonzero(values != np.floor(np.nan_to_num(values, nan=0.5)))
        if len(wrong):
            fail(OP, "label", "integers", f"{name} = {values[wrong[0]]}")
    return values.astype(np.int64)


def classes(names: Sequence[str], table: Array) -> Array:
    """The number of the column that is 1."""
    wrong = np.flatnonzero(((table != 0).sum(1) != 1) | (table.max(1, initial=0) != 1))
    if len(wrong):
        fail(OP, "label", f"one of {listed(names)} to be 1", table[wrong[0]].tolist())
    return table.argmax(1).astype(np.int64)
