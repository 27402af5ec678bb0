"""Tests four-momenta from records and columns: values are those of ``vector``; other input raises an error."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.data import four_momenta, from_weaver, load_sample_jets, to_awkward, to_weaver

ak = pytest.importorskip("awkward")
vector = pytest.importorskip("vector")
vector.register_awkward()

rng = np.random.default_rng(0)
N, COUNTS = 40, [7, 0, 20, 13]
PTR = [0, 7, 7, 27, 40]
P = rng.normal(0, 30, (N, 3))
MASS = rng.uniform(0, 5, N)
EXACT = np.concatenate([np.sqrt((P**2).sum(1, keepdims=True) + MASS[:, None] ** 2), P], axis=1)
VECTORS = vector.array({"E": EXACT[:, 0], "px": P[:, 0], "py": P[:, 1], "pz": P[:, 2]})

CARTESIAN = [("px", "py", "pz"), ("x", "y", "z"), ("PX", "Py", "pZ")]
POLAR = [
    ("pt", "eta", "phi"),
    ("PT", "Eta", "Phi"),
    ("rho", "theta", "phi"),
    ("pt", "rapidity", "phi"),
    ("pt", "pz", "phi"),
]
ENERGIES = ["E", "energy", "e", "t", "mass", "M", "m", "tau"]
SPELLED = {
    "PX": "px",
    "Py": "py",
    "pZ": "pz",
    "PT": "pt",
    "Eta": "eta",
    "Phi": "phi",
    "e": "E",
    "M": "mass",
    "m": "mass",
}


def values(name: str) -> np.ndarray:
    return np.asarray(getattr(VECTORS, SPELLED.get(name, name)))


def check(got: tuple[Tensor, Tensor], scale: float = 1.0, ptr: list[int] = PTR) -> None:
    p4, offsets = got
    assert p4.dtype == torch.float64
    assert offsets.dtype == torch.int64
    assert offsets.tolist() == ptr
    assert torch.allclose(p4, torch.from_numpy(EXACT) * scale, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("names", [*CARTESIAN, *POLAR])
def test_every_choice_of_components(names: tuple[str, ...], energy: str) -> None:
    columns = {name: values(name) for name in (energy, *names)}
    check(four_momenta(columns, ptr=torch.tensor(PTR)))
    ragged = {name: ak.unflatten(column, COUNTS) for name, column in columns.items()}
    check(four_momenta(ak.zip(ragged), unit="MeV"), 1e-3)
    check(four_momenta({f"part_{name}": column for name, column in ragged.items()} | {"part_x0": 0}, prefix="part_"))


def test_a_rapidity_called_y() -> None:
    columns = {"pt": values("pt"), "y": values("rapidity"), "phi": values("phi"), "m": MASS}
    check(four_momenta(columns, ptr=torch.tensor(PTR)))


C = {"E": EXACT[:, 0], "px": P[:, 0], "py": P[:, 1], "pz": P[:, 2]}
RAGGED = ak.unflatten(ak.zip(C), COUNTS)
INPUTS: dict[str, Callable[[], Any]] = {
    "records": lambda: RAGGED,
    "records of a vector": lambda: ak.with_name(RAGGED, "Momentum4D"),
    "records of lists": lambda: ak.Array({name: RAGGED[name] for name in RAGGED.fields}),
    "a missing event": lambda: ak.concatenate([RAGGED[:1], ak.Array([None]), RAGGED[2:]]),
    "the first collection": lambda: ak.firsts(ak.Array([[event] if len(event) else [] for event in RAGGED.to_list()])),
    "lists": lambda: {name: RAGGED[name].to_list() for name in RAGGED.fields},
    "cells of a table": lambda: pytest.importorskip("pandas").DataFrame({n: list(RAGGED[n]) for n in RAGGED.fields}),
    "further columns": lambda: ak.with_field(RAGGED, ak.Array(["b", "g", "q", "g"]), "flavour"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_ragged_inputs(name: str) -> None:
    check(four_momenta(INPUTS[name]()))


FLAT: dict[str, Callable[[], Any]] = {
    "a structured array": lambda: np.array(list(map(tuple, EXACT)), [(name, "f8") for name in C]),
    "an array of vectors": lambda: VECTORS,
    "polar vectors": lambda: vector.array({"pt": values("pt"), "phi": values("phi"), "eta": values("eta"), "m": MASS}),
    "a table": lambda: pytest.importorskip("pandas").DataFrame(C),
    "tensors": lambda: {name: torch.from_numpy(column) for name, column in C.items()},
    "flat records": lambda: ak.zip(C),
    "columns that are not read": lambda: {**C, "mass": None, "q": np.full(N, np.nan), 7: "x"},
}


@pytest.mark.parametrize("name", FLAT)
def test_flat_inputs(name: str) -> None:
    check(four_momenta(FLAT[name](), ptr=torch.tensor(PTR)))
    check(four_momenta(FLAT[name]()), ptr=[0, N])


def test_arrays_of_two_dimensions_are_events_of_one_length() -> None:
    columns = {name: column.reshape(4, 10) for name, column in C.items()}
    check(four_momenta(columns), ptr=[0, 10, 20, 30, 40])
    check(
        four_momenta(np.array(list(map(tuple, EXACT)), [(n, "f8") for n in C]).reshape(4, 10)), ptr=[0, 10, 20, 30, 40]
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int32])
def test_every_dtype_is_converted(dtype: torch.dtype) -> None:
    column = torch.tensor([3, 4]).to(dtype)
    assert four_momenta(dict.fromkeys(C, column))[0].tolist() == [[3] * 4, [4] * 4]


def test_one_mass_for_all() -> None:
    columns = {name: values(name) for name in ("pt", "eta", "phi")}
    p4, _ = four_momenta(columns | {"mass": 0.5})
    assert torch.allclose(p4[:, 0], torch.from_numpy(np.sqrt((P**2).sum(1) + 0.25)))


def test_numbers_of_float32_are_converted_in_float64() -> None:
    """In float32 a pion of this momentum has a mass of several GeV."""
    columns = {
        "pt": np.float32([900.0]),
        "eta": np.float32([2.0]),
        "phi": np.float32([0.3]),
        "mass": np.float32([0.14]),
    }
    ((e, *p),) = four_momenta(columns)[0].tolist()
    mass = math.sqrt(e * e - sum(v * v for v in p))
    assert mass == pytest.approx(0.14, rel=1e-3)


def test_negative_masses_are_negative_squares() -> None:
    p4, _ = four_momenta({"px": [3.0], "py": [0.0], "pz": [4.0], "mass": [-3.0]})
    assert p4.tolist() == [[4, 3, 0, 4]]


def test_no_events() -> None:
    assert [t.shape for t in four_momenta(RAGGED[:0])] == [(0, 4), (1,)]


WANTED = "particles: expected .*E, energy, e, t or mass, m with px, py, pz.*, got "
REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: {"pt": [1.0]}, ValueError, WANTED + "columns pt"),
    (lambda: {"px": [1.0], "py": [1.0], "pz": [1.0]}, ValueError, WANTED + "columns px, py, pz"),
    (lambda: ak.Array([[1.0]]), ValueError, WANTED + "columns without names"),
    (lambda: EXACT, TypeError, WANTED + r"an array of shape \[40, 4\] without names"),
    (lambda: 7, TypeError, "expected an awkward array, a structured array or a dict of columns, got int"),
    (lambda: C | {"E": [["a"]]}, TypeError, "numbers"),
    (lambda: {name: [[1.0], [2.0, None]] for name in C}, ValueError, "got None in event 1, particle 1"),
    (lambda: ak.Array([[], [None], *RAGGED.to_list()]), ValueError, "got None in event 1, particle 0"),
    (lambda: ak.Array([[{"E": 1.0, "px": 1.0, "py": 1.0}]]), ValueError, WANTED),
    (lambda: C | {"px": np.where(np.arange(N) == 9, np.nan, P[:, 0])}, ValueError, "px = nan.* in event 2, particle 2"),
    (lambda: C | {"E": np.where(np.arange(N) == 39, np.inf, 1)}, ValueError, "E = inf in event 3, particle 12"),
    (
        lambda: {"pt": np.ones(N), "phi": np.ones(N), "eta": np.full(N, 800.0), "m": 0.0},
        ValueError,
        "eta = 800.0, mass = 0.0 in event 0, particle 0",
    ),
    (
        lambda: {n: np.ma.array(c, mask=np.arange(N) == 8) for n, c in C.items()},
        ValueError,
        "particles",
    ),
    (
        lambda: {name: RAGGED[name][:, ::2] if name == "pz" else RAGGED[name] for name in C},
        ValueError,
        "particles: expected columns of equal lengths, 7 rows in event 0 as px has, got 4 in pz",
    ),
    (lambda: C | {"pz": P[:3, 2]}, ValueError, "ptr"),
    (lambda: C | {"pz": np.zeros((2, 2, 2))}, ValueError, r"expected shape \[n\] or \[B, N\]"),
    (lambda: dict.fromkeys(C, 1.0), ValueError, "expected at least one column, got numbers alone"),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused(make: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^four_momenta: .*{message}"):
        four_momenta(make(), ptr=torch.tensor(PTR))


def test_offsets_of_ragged_columns() -> None:
    check(four_momenta(RAGGED, ptr=torch.tensor(PTR)))
    with pytest.raises(ValueError, match=r"four_momenta: ptr: expected the events of the ragged columns, or none, got"):
        four_momenta(RAGGED, ptr=torch.tensor([0, 20, 40]))


def test_an_unknown_unit() -> None:
    with pytest.raises(ValueError, match="four_momenta: unit: expected one of GeV, MeV, got 'TeV'"):
        four_momenta(C, unit="TeV")


def test_back_to_awkward() -> None:
    p4, ptr = torch.from_numpy(EXACT), torch.tensor(PTR)
    records = to_awkward(p4, ptr, pdg_id=torch.arange(N))
    assert ak.parameters(records.layout.content)["__record__"] == "Momentum4D"
    assert records.fields == ["px", "py", "pz", "E", "pdg_id"]
    assert np.allclose(ak.flatten(records.mass), MASS)
    assert np.allclose(ak.flatten(records.pt), values("pt"))
    again, offsets = four_momenta(records)
    assert torch.equal(again, p4)
    assert torch.equal(offsets, ptr)
    with pytest.raises(ValueError, match=r"to_awkward: pdg_id: expected shape \[40\], got \[2\]"):
        to_awkward(p4, ptr, pdg_id=torch.arange(2))


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for call in (
        lambda: four_momenta({name: [[1.0]] for name in C}),
        lambda: to_awkward(torch.from_numpy(EXACT), torch.tensor(PTR)),
        lambda: ek.pack_awkward(RAGGED),
        lambda: ek.unpack_awkward(torch.from_numpy(EXACT), torch.tensor(PTR)),
    ):
        with pytest.raises(ImportError, match=r'^\w+: needs awkward: pip install "equikernels\[data\]"'):
            call()


def test_weaver_and_back() -> None:
    jets = load_sample_jets()[:5]
    vectors, mask = to_weaver(jets.p4, jets.ptr, 128)
    assert vectors.shape == (5, 4, 128)
    assert mask.shape == (5, 1, 128)
    assert torch.equal(vectors[1, :, 0], jets.p4[jets.ptr[1]][[1, 2, 3, 0]])
    assert not vectors.masked_select(~mask).any()
    for given in (mask, mask.float()):
        p4, ptr = from_weaver(vectors, given)
        assert torch.equal(p4, jets.p4.double())
        assert torch.equal(ptr, jets.ptr)
    assert torch.equal(from_weaver(vectors.double() * 1000, mask, unit="MeV")[0].float(), jets.p4)
    vectors[3, 1, 2] = torch.nan
    with pytest.raises(ValueError, match=r"from_weaver: vectors: .* py = nan, .* in event 3, particle 2"):
        from_weaver(vectors, mask)
    with pytest.raises(ValueError, match=r"from_weaver: mask: expected shape \[5, 1, 128\]"):
        from_weaver(vectors, mask.squeeze(1))
    with pytest.raises(ValueError, match=r"from_weaver: vectors: expected shape \[N, 4, P\]"):
        from_weaver(vectors.transpose(1, 2), mask)
