"""Jets from files. The libraries of the field do the reading; the extra ``data`` installs them."""

from __future__ import annotations

import bz2
import glob
import gzip
import lzma
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import REAL, check_choice, check_integer, fail
from .formats import columns, events, hdf5, npz, root
from .formats.common import OF_FORMAT, OP, Label, Options, Part, listed, need
from .four_momenta import UNITS, check_finite
from .jets import Jets
from .order import warn_of_order

Paths = str | Path | Sequence[str | Path]
Reader = Callable[[Path, Options], Iterator[Part]]

# Reader and what it knows besides label.
FORMATS: dict[str, tuple[Reader, set[str]]] = {
    "top": (hdf5.top_tagging, {"unit", "split"}),
    "pmu": (hdf5.pmu, {"unit"}),
    "jetnet": (hdf5.jetnet, {"unit"}),
    "kinematics": (npz.kinematics, {"unit", "split"}),
    "energyflow": (npz.energyflow, {"unit"}),
    "packed": (npz.packed, {"unit"}),
    "root": (root.root, {"unit", "tree", "prefix", "features"}),
    "nanoaod": (root.nanoaod, {"unit", "tree", "jets", "features"}),
    "delphes": (root.delphes, {"unit", "tree", "jets"}),
    "parquet": (columns.parquet, {"unit", "prefix", "features"}),
    "lhe": (events.lhe, {"unit"}),
    "hepmc": (events.hepmc, set()),
}


def iter_jets(
    path: Paths,
    format: str = "auto",
    *,
    label: Label = None,
    unit: str | None = None,
    max_constituents: int | None = None,
    limit: int | None = None,
    chunk: int = 2048,
    dtype: torch.dtype = torch.float64,
    **of_format: Any,
) -> Iterator[Jets]:
    """Reads jets in parts, so that a file may be larger than the memory.

    Args:
        path: a file, a pattern such as "JetClass/*.root", or several, read one after the other.
        format: one of :data:`FORMATS`; "auto" looks at the content.
        label: the column of labels (a branch, a dataset, of jets or of events), several columns of which one is 1 (the
            label is its position), or a number, which all jets get. By default the column that the format defines.
            Jets without a label get -1.
        unit: of the file, "GeV" (default) or "MeV". HepMC files say their unit.
        max_constituents: keep the hardest, by transverse momentum.
        limit: stop after this many jets.
        chunk: jets (entries, for files of events) in a part.
        dtype: of p4.
        of_format: what some formats know; an error for the others:

            features: further columns of the constituents (ROOT and Parquet). PDG ids are read where the file has them.
            split: of kinematics files, such as "train"; the key of one of several pandas tables.
            tree: of ROOT files with several trees.
            prefix: of the names of the constituents' columns, such as "part_", where there are several.
            jets: of NanoAOD ("FatJet" by default, "Jet" where there are none) and of Delphes ("Jet" by default).

    Yields:
        Jets, p4 in GeV.

    Raises:
        TypeError: an argument that no format knows.
        FileNotFoundError: no such file.
        ValueError: an empty or truncated file, a column that is not there (the message names those that are), a
            particle that is not finite (the message names event and particle).
        ImportError: a library is not installed.
    """
    paths = [p for given in ([path] if isinstance(path, str | Path) else path) for p in _expand(given)]
    check_choice(OP, "format", format, ["auto", *FORMATS])
    check_choice(OP, "unit", "GeV" if unit is None else unit, UNITS)
    for name, value in (("max_constituents", max_constituents), ("limit", limit), ("chunk", chunk)):
        if value is not None:
            check_integer(OP, name, value, "at least 1", 1)
    if dtype not in REAL:
        fail(OP, "dtype", "float32 or float64", dtype)
    for p in paths:
        if not p.is_file():
            raise FileNotFoundError(f"{OP}: path: expected a file, got {p}")
    for name in of_format:
        if name not in OF_FORMAT:
            fail(OP, name, f"an argument among {', '.join(OF_FORMAT)}", "another name", TypeError)
    given = {"unit": unit, **of_format}
    options = Options(chunk if limit is None else min(chunk, limit), label, **of_format)

    def parts() -> Iterator[Jets]:
        left = limit
        for p in paths:
            for part in _parts(p, format, options, given):
                if left is not None:
                    part = part.cut(0, left)
                    left -= len(part.counts)
                yield _finish(part, options, UNITS[unit or "GeV"], max_constituents, dtype)
                if left == 0:
                    return

    return parts()


def read_jets(path: Paths, format: str = "auto", **options: Any) -> Jets:
    """Reads all jets of a file, or of several. Arguments and errors are those of :func:`iter_jets`."""
    return Jets.concatenate(list(iter_jets(path, format, **options)))


def _expand(path: str | Path) -> list[Path]:
    """The files of a pattern, sorted; a path that is there is no pattern."""
    if Path(path).exists() or not glob.has_magic(str(path)):
        return [Path(path)]
    found = sorted(glob.glob(str(path)))
    if not found:
        raise FileNotFoundError(f"{OP}: path: expected files, got none for the pattern {path}")
    return [Path(p) for p in found]


def _parts(path: Path, format: str, options: Options, given: dict[str, Any]) -> Iterator[Part]:
    """The checked parts of one file; what a library says of a broken file becomes an error with its name."""
    first = 0
    kind = format
    try:
        kind = detect(path, options.tree) if format == "auto" else format
        reader, known = FORMATS[kind]
        for name, value in given.items():
            if value and name not in known:
                fail(OP, name, f"none for the format {kind!r}", repr(value))
        for part in reader(path, options):
            check_finite(OP, path.name, part.p4, part.counts, first=first)
            first += len(part.counts)
            if len(part.counts):
                warn_of_order(OP, "p4", torch.from_numpy(part.p4))
                yield part
    except (ImportError, MemoryError):
        raise
    except Exception as error:
        if str(error).startswith(f"{OP}: "):
            raise
        got = f"{type(error).__name__}: {error}"
        raise ValueError(f"{OP}: {path}: expected a complete file of format {kind!r}, got {got}") from error
    if first == 0:
        fail(OP, str(path), "at least one jet", "none")


def _finish(part: Part, options: Options, scale: float, most: int | None, dtype: torch.dtype) -> Jets:
    p4, counts, features = part.p4, part.counts, part.features
    if scale != 1:
        p4 = p4 * scale
    if most is not None and counts.max() > most:
        jet = np.repeat(np.arange(len(counts)), counts)
        order = np.lexsort((-np.hypot(p4[:, 1], p4[:, 2]), jet))
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        keep = order[rank < most]
        p4, counts = p4[keep], np.minimum(counts, most)
        features = {name: column[keep] for name, column in features.items()}
    if isinstance(options.label, int):
        label = np.full(len(counts), options.label, np.int64)
    else:
        label = np.full(len(counts), -1, np.int64) if part.label is None else part.label
    ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    tables = ({name: _tensor(c) for name, c in table.items()} for table in (features, part.truth))
    return Jets(_tensor(p4).to(dtype), _tensor(ptr), _tensor(label), *tables)


def _tensor(array: np.ndarray) -> Tensor:
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def detect(path: Path, tree: str | None = None) -> str:
    """The format of a file, from its first bytes and the names in it."""
    head = _head(path)
    if not head:
        fail(OP, str(path), "a file of jets", "an empty file")
    if head.startswith(b"\x89HDF"):
        return _hdf5_kind(path)
    if head.startswith(b"PK"):
        return _npz_kind(path)
    if head.startswith(b"root"):
        return root.kind_of(root.open_tree(path, tree))
    if head.startswith(b"PAR1"):
        return "parquet"
    if b"<LesHouchesEvents" in head:
        return "lhe"
    if b"HepMC::" in head:
        return "hepmc"
    fail(
        OP,
        str(path),
        f"a format among {listed(FORMATS)}",
        f"a file {path.suffix or 'without suffix'} that starts with {head[:16]!r}",
    )


def _head(path: Path) -> bytes:
    """The first bytes, of what is inside if the file is compressed."""
    with path.open("rb") as file:
        head = file.read(512)
    for magic, module in ((b"\x1f\x8b", gzip), (b"BZh", bz2), (b"\xfd7zXZ", lzma)):
        if head.startswith(magic):
            with module.open(path, "rb") as file:
                return file.read(512)
    return head


def _hdf5_kind(path: Path) -> str:
    with need("h5py").File(path, "r") as file:
        if "Pmu" in file:
            return "pmu"
        if "particle_features" in file:
            return "jetnet"
        if file.visititems(lambda _, node: "pandas_type" in node.attrs or None):
            return "top"
        fail(OP, str(path), "a pandas table, or datasets Pmu or particle_features", f"{listed(file)}")


def _npz_kind(path: Path) -> str:
    names = npz.members(path)
    if {"p4", "ptr"} <= set(names):
        return "packed"
    if any(name.startswith("kinematics_") for name in names):
        return "kinematics"
    if "X" in names:
        return "energyflow"
    fail(OP, str(path), "arrays p4 and ptr, kinematics_<split>, or X", listed(names))
