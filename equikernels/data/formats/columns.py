"""Files of named columns, each jet a row with lists of constituents: ROOT (JetClass and others) and Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import fail
from ...ragged import check_counts, rows_of
from ..four_momenta import WANTED, cartesian, find_components
from .common import OP, Array, Label, Labels, Options, Part, classes, integers, listed, need

PDG_ID = ("pdgid", "pdg_id", "pid", "pdg")  # columns that become the feature pdg_id


class Columns:
    """Which columns are the four-momenta, the features and the labels."""

    def __init__(self, source: str, ragged: Sequence[str], flat: Sequence[str], options: Options) -> None:
        self.prefix, self.components = choose(source, ragged, options.prefix)
        self.momenta = {component: self.prefix + name for component, name in self.components.items()}
        named = [name for name in ragged if name.removeprefix(self.prefix).lower() in PDG_ID and self._mine(name)]
        self.features = {"pdg_id": named[0]} if named else {}
        for name in options.features:
            column = name if name in ragged else self.prefix + name
            if column not in ragged:
                fail(OP, "features", f"columns of constituents: {listed(ragged, near=name)}", repr(name))
            self.features[name] = column
        one_hot = [name for name in flat if name.startswith("label_")]
        self.label: Label = options.label
        if self.label is None and len(one_hot) > 1:
            self.label = one_hot
        self.labels = Labels(self.label, flat, ["is_signal", "is_signal_new", "label", *one_hot])

    def _mine(self, name: str) -> bool:
        return name.startswith(self.prefix)

    @property
    def names(self) -> list[str]:
        """All columns to read."""
        return list(dict.fromkeys([*self.momenta.values(), *self.features.values(), *self.labels.names]))

    def part(self, array: Any) -> Part:
        """Of an awkward array of records."""
        columns = {c: rows_of(OP, name, array[name], "particle") for c, name in self.momenta.items()}
        columns |= {
            f"feature {n}": rows_of(OP, column, array[column], "particle") for n, column in self.features.items()
        }
        names = [*self.momenta.values(), *self.features.values()]
        check_counts(OP, names, [counts for _, counts in columns.values()], "columns")
        p4 = cartesian({component: columns[component][0] for component in self.momenta})
        features = {name: columns[f"feature {name}"][0] for name in self.features}
        if "pdg_id" in features:
            features["pdg_id"] = features["pdg_id"].astype(np.int64)
        counts = next(iter(columns.values()))[1]
        return Part(p4, counts, self.labels.of(lambda name: numbers(array[name], name)), features)


def choose(source: str, ragged: Sequence[str], prefix: str | None) -> tuple[str, dict[str, str]]:
    """(prefix, component -> rest of the name) of the columns that make a four-vector."""
    starts = {""} if prefix is None else {prefix}
    if prefix is None:
        for name in ragged:
            starts |= {name[: -len(end)] for end in ("px", "pt") if name.lower().endswith(end)}
    found = {}
    for start in starts:
        rest = [name.removeprefix(start) for name in ragged if name.startswith(start)]
        components = find_components(rest)
        if components is not None:
            found[start] = components
    if len(found) == 1:
        return next(iter(found.items()))
    if not found:
        where = f"columns that start with {prefix!r} and hold " if prefix else "columns of constituents that hold "
        fail(OP, source, where + WANTED, f"lists {listed(ragged)}")
    fail(OP, "prefix", f"one of {', '.join(sorted(map(repr, found)))}", repr(prefix))


def numbers(column: Any, name: str) -> Array:
    """A flat column as NumPy; a missing value is an error."""
    import awkward as ak

    if column.ndim != 1 or bool(ak.any(ak.is_none(column))):
        fail(OP, "label", "one number for each jet", f"{name} of type {column.type}")
    return ak.to_numpy(column)


def per_jet(label: Label, array: Any, jets: Array) -> Array | None:
    """Labels of all jets of events [B] with ``jets`` jets each, from a column of events or of jets."""
    import awkward as ak

    if label is None or isinstance(label, int):
        return None
    columns = []
    for name in [label] if isinstance(label, str) else label:
        column = array[name]
        if column.ndim == 1:
            columns.append(np.repeat(numbers(column, name), jets))
        else:
            check_counts(OP, ["jets", name], [jets, ak.to_numpy(ak.num(column))], "label")
            columns.append(ak.to_numpy(ak.flatten(column)))
    return integers(str(label), columns[0]) if len(columns) == 1 else classes(list(label), np.stack(columns, 1))


def parquet(path: Path, options: Options) -> Iterator[Part]:
    """Columns of lists, or a column of lists of records, read by awkward, one row group at a time."""
    ak = need("awkward")
    need("pyarrow")
    metadata = ak.metadata_from_parquet(path)
    columns: Columns | None = None
    for group in range(metadata["num_row_groups"]):
        array = _open_records(ak.from_parquet(path, row_groups=[group]))
        if columns is None:
            ragged = [name for name in array.fields if array[name].ndim > 1]
            flat = [name for name in array.fields if array[name].ndim == 1 and not array[name].fields]
            columns = Columns(path.name, ragged, flat, options)
        yield from columns.part(array).pieces(options.chunk)


def _open_records(array: Any) -> Any:
    """The fields of lists of records as columns of their own, ``field.name``, or ``name`` if there are no others."""
    import awkward as ak

    if array.ndim > 1:  # B * var * {...}
        return ak.Array({name: array[name] for name in array.fields})
    columns: dict[str, Any] = {}
    for name in array.fields:
        if array[name].fields and array[name].ndim > 1:
            columns |= {f"{name}.{inner}": array[name][inner] for inner in array[name].fields}
        else:
            columns[name] = array[name]
    return ak.Array(columns)
