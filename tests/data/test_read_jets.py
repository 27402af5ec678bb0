"""Tests readers on files that the libraries of the field wrote: values, options, errors."""

from __future__ import annotations

import gzip
import importlib
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equikernels.data import FORMATS, Jets, iter_jets, read_jets

from ..support import jet_files
from ..support.jet_files import FILES, WRITERS, jets_of, with_masses

JETS = jets_of()
UNLABELLED = {"jetnet", "nanoaod", "lhe", "hepmc"}
EXACT = {"top", "pmu", "kinematics", "packed", "root", "hepmc"}
OPTIONS: dict[str, dict[str, Any]] = {"kinematics": {"split": "train"}}


def written(folder: Path, format: str, jets: Jets = JETS) -> Path:
    suffix, write = WRITERS[format]
    return write(folder / f"jets{suffix}", jets)


def same(got: Jets, expected: Jets, exact: bool = True) -> None:
    assert got.ptr.tolist() == expected.ptr.tolist()
    assert got.p4.dtype == torch.float64
    assert torch.allclose(got.p4, expected.p4, rtol=0 if exact else 1e-8, atol=0 if exact else 1e-9)


@pytest.mark.parametrize("format", WRITERS)
def test_every_format(tmp_path: Path, format: str) -> None:
    path, options = written(tmp_path, format), OPTIONS.get(format, {})
    expected = with_masses(JETS) if format == "energyflow" else JETS
    for name in ("auto", format):
        jets = read_jets(path, name, **options)
        same(jets, expected, format in EXACT)
        label = [-1] * len(JETS) if format in UNLABELLED else JETS.label.tolist()
        assert jets.label.tolist() == label
        assert jets.label.dtype == torch.int64


@pytest.mark.parametrize("format", WRITERS)
def test_parts_and_limits(tmp_path: Path, format: str) -> None:
    path, options = written(tmp_path, format), OPTIONS.get(format, {})
    whole = read_jets(path, **options)
    parts = list(iter_jets(path, chunk=2, **options))
    assert len(parts) >= 2
    again = Jets.concatenate(parts)
    assert torch.equal(again.p4, whole.p4)
    assert torch.equal(again.ptr, whole.ptr)
    assert torch.equal(again.label, whole.label)
    first = read_jets(path, limit=3, chunk=2, **options)
    assert torch.equal(first.p4, whole[:3].p4)
    assert torch.equal(first.ptr, whole[:3].ptr)
    assert {n: c.tolist() for n, c in first.features.items()} == {
        n: c.tolist() for n, c in whole[:3].features.items()
    }  # fmt: skip


@pytest.mark.parametrize("format", ["kinematics", "pmu", "packed"])
def test_parts_of_a_file_need_no_memory_for_all(tmp_path: Path, format: str) -> None:
    n = 40_000
    rows = np.ones((n, 20, 4), np.float32) * np.float32([2, 1, 1, 1])
    if format == "pmu":
        path = jet_files.hdf5(tmp_path / "a.h5", Pmu=rows, is_signal=np.zeros(n, np.int8))
    else:
        path = tmp_path / "a.npz"
        whole = {"kinematics_train": rows, "labels_train": np.zeros(n, np.int8)}
        flat = {"p4": rows.reshape(-1, 4), "ptr": np.arange(n + 1) * 20, "label": np.zeros(n, np.int8)}
        np.savez_compressed(path, **(whole if format == "kinematics" else flat))
    size = rows.nbytes
    del rows
    tracemalloc.start()
    assert sum(len(part) for part in iter_jets(path, chunk=500)) == n
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 4


@pytest.mark.parametrize("format", sorted(WRITERS.keys() - {"hepmc"}))
def test_units_and_dtypes(tmp_path: Path, format: str) -> None:
    path, options = written(tmp_path, format), OPTIONS.get(format, {})
    whole = read_jets(path, **options)
    jets = read_jets(path, unit="MeV", dtype=torch.float32, **options)
    assert torch.equal(jets.p4, (whole.p4 * 1e-3).float())


@pytest.mark.parametrize("format", sorted({"energyflow", "nanoaod", "lhe", "hepmc"}))
def test_the_hardest_constituents(tmp_path: Path, format: str) -> None:
    """In a file that is not sorted, with a feature that goes with them."""
    turned = JETS[:]
    turned.p4[:] = JETS.p4.flip(0)  # jets of other constituents, softest first
    jets = Jets(turned.p4.clone(), JETS.ptr, JETS.label)
    path = written(tmp_path, format, jets)
    whole, hardest = read_jets(path), read_jets(path, max_constituents=5)
    assert hardest.ptr.diff().tolist() == whole.ptr.diff().clamp(max=5).tolist()
    assert hardest.features["pdg_id"].shape == hardest.p4.shape[:1]
    for b in range(len(whole)):
        pt = [jet.p4[jet.ptr[b] : jet.ptr[b + 1], 1:3].norm(dim=1) for jet in (whole, hardest)]
        assert torch.equal(pt[1], pt[0].sort(descending=True).values[:5])


def test_pdg_ids(tmp_path: Path) -> None:
    for format, pdg_id in (("energyflow", -211), ("nanoaod", 211), ("lhe", 21), ("hepmc", 22)):
        ids = read_jets(written(tmp_path, format)).features["pdg_id"]
        assert ids.dtype == torch.int64
        assert set(ids.tolist()) == {pdg_id}


def test_constituents_grouped_by_the_jets_of_delphes() -> None:
    """The file was written by ROOT: 4 events of 2, 0, 1 and 3 jets, 5 tracks and 3 towers each; constituents of jet j
    are track j, tower j and, of the first, track 4; the second jet of the last event has none."""
    jets = read_jets(FILES / "delphes.root", label="Jet.Flavor")
    assert jets.ptr.diff().tolist() == [3, 2, 3, 3, 0, 2]
    assert jets.label.tolist() == [0, 1, 0, 0, 1, 2]
    expected, masses = [], []
    for event, jet in ((0, 0), (0, 1), (2, 0), (3, 0), (3, 2)):
        expected += [10 * event + jet + 1, 100 * event + jet + 1] + ([10 * event + 5] if jet == 0 else [])
        masses += [0.14, 0.0] + ([0.14] if jet == 0 else [])
    assert torch.allclose(jets.p4[:, 1:3].norm(dim=1), torch.tensor(expected, dtype=torch.float64))
    square = jets.p4[:, 0] ** 2 - jets.p4[:, 1:].square().sum(1)
    assert torch.allclose(square, torch.tensor(masses, dtype=torch.float64) ** 2, atol=1e-8)
    parts = Jets.concatenate(list(iter_jets(FILES / "delphes.root", chunk=1)))
    assert torch.equal(parts.p4, jets.p4)
    with pytest.raises(ValueError, match="jets: expected one of Jet, got 'FatJet'"):
        read_jets(FILES / "delphes.root", jets="FatJet")


def test_labels(tmp_path: Path) -> None:
    root = written(tmp_path, "root")
    assert read_jets(root, label=3).label.tolist() == [3] * len(JETS)
    assert read_jets(root, label="label_QCD").label.tolist() == (1 - JETS.label).tolist()
    assert read_jets(root, label=["label_Hbb", "label_Tbqq", "label_QCD"]).label.tolist() == (2 - JETS.label).tolist()
    with pytest.raises(ValueError, match=r"read_jets: label: expected one of label_Tbqq, label_Hbb to be 1"):
        read_jets(root, label=["label_Tbqq", "label_Hbb"])
    nano = written(tmp_path, "nanoaod")
    assert read_jets(nano, label="FatJet_hadronFlavour").label.tolist() == JETS.label.tolist()
    assert read_jets(nano, label="run").label.tolist() == [5, 5, 7, 7, 7, 7, 7]
    assert read_jets(written(tmp_path, "top"), label="ttv").label.tolist() == [1] * len(JETS)
    one_hot = read_jets(written(tmp_path, "kinematics"), split="test")
    assert one_hot.label.tolist() == JETS.label[:1].tolist()
    with pytest.raises(ValueError, match=r"label: expected integers, got jet_pt = 0.5"):
        read_jets(jet_files.tree(tmp_path / "x.root", "t", {**_particles(), "jet_pt": np.array([0.5])}), label="jet_pt")


def _particles() -> dict[str, Any]:
    ak = pytest.importorskip("awkward")
    p = ak.values_astype(ak.Array([[1.0, 1.0, 3.0]]), "float64")
    return {"px": p, "py": p, "pz": p, "E": 2 * p}


def test_further_columns_and_prefixes(tmp_path: Path) -> None:
    uproot = pytest.importorskip("uproot")
    particles = _particles()
    both = {f"a_{name}": c for name, c in particles.items()} | {f"b_{name}": 2 * c for name, c in particles.items()}
    path = jet_files.tree(tmp_path / "jets.root", "t", both | {"b_d0": 3 * particles["E"]})
    with pytest.raises(ValueError, match="prefix: expected one of 'a_', 'b_', got None"):
        read_jets(path)
    jets = read_jets(path, prefix="b_", features=["d0", "a_px"])
    assert jets.p4[1].tolist() == [4, 2, 2, 2]
    assert jets.features["d0"].tolist() == [6, 6, 18]
    assert jets.features["a_px"].tolist() == [1, 1, 3]
    with pytest.raises(ValueError, match=r"features: expected columns of constituents: .*b_d0.*, got 'dz'"):
        read_jets(path, prefix="b_", features=["dz"])
    with uproot.update(path) as file:
        file.mktree("u", {"a_px": "var * float64"})
    with pytest.raises(ValueError, match="tree: expected one of t, u, got None"):
        read_jets(path)
    assert len(read_jets(path, tree="t", prefix="a_")) == 1


def test_several_files(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.npz", "b.npz")]
    JETS[:2].save(paths[0])
    JETS[2:].save(paths[1])
    same(read_jets(paths), JETS)
    assert len(read_jets(paths, limit=3)) == 3


def test_a_pattern(tmp_path: Path) -> None:
    JETS[2:].save(tmp_path / "b_1.npz")
    JETS[:2].save(tmp_path / "a_1.npz")
    JETS[:1].save(tmp_path / "c[1].npz")
    same(read_jets(tmp_path / "*_1.npz"), JETS)
    assert len(read_jets(str(tmp_path / "c[1].npz"))) == 1  # a name, not a pattern
    with pytest.raises(FileNotFoundError, match=r"read_jets: path: expected files, got none for the pattern .*\*.root"):
        read_jets(tmp_path / "*.root")


@pytest.mark.parametrize("format", ["top", "pmu", "kinematics"])
def test_zeros_alone_are_padding(tmp_path: Path, format: str) -> None:
    p4 = JETS.p4.clone()
    p4[4] = torch.tensor([0.0, 0.0, 0.0, 1e-3])  # no zeros: kept, whatever it is
    jets = Jets(p4, JETS.ptr, JETS.label)
    same(read_jets(written(tmp_path, format, jets), **OPTIONS.get(format, {})), jets)


def test_momenta_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equikernels.data.order._warned", set())
    jets = Jets(JETS.p4[:, [1, 2, 3, 0]], JETS.ptr, JETS.label)
    with pytest.warns(UserWarning, match=r"read_jets: p4: expected \(E, px, py, pz\), got E < \|p\| in"):
        read_jets(written(tmp_path, "pmu", jets))


def test_an_unknown_pdg_id(tmp_path: Path) -> None:
    pytest.importorskip("particle")
    np.savez(tmp_path / "a.npz", X=np.array([[[1.0, 0.0, 0.0, 211.0], [2.0, 0.0, 0.0, 999999.0]]]), y=np.zeros(1))
    with pytest.raises(ValueError, match=r"read_jets: X: expected PDG ids, got 999999"):
        read_jets(tmp_path / "a.npz")


def test_lists_of_lists_are_no_columns(tmp_path: Path) -> None:
    uproot, ak = pytest.importorskip("uproot"), pytest.importorskip("awkward")
    nested = {name: ak.Array([[[1.0], [2.0, 3.0]]]) for name in ("a_px", "a_py", "a_pz", "a_E")}
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mkrntuple("t", nested | _particles())
    assert read_jets(tmp_path / "a.root").p4.shape == (3, 4)


def test_other_hepmc_files(tmp_path: Path) -> None:
    same(read_jets(jet_files.hepmc(tmp_path / "a.hepmc", JETS, 1000.0)), JETS, exact=False)  # MeV
    same(read_jets(jet_files.hepmc(tmp_path / "c.hepmc2", JETS, format="HepMC2")), JETS)
    packed = tmp_path / "b.hepmc.gz"
    packed.write_bytes(gzip.compress(written(tmp_path, "hepmc").read_bytes()))
    same(read_jets(packed), JETS)


def test_compressed_events(tmp_path: Path) -> None:
    packed = tmp_path / "events.lhe.gz"
    packed.write_bytes(gzip.compress(written(tmp_path, "lhe").read_bytes()))
    same(read_jets(packed), JETS, exact=False)


def test_records_in_parquet(tmp_path: Path) -> None:
    ak = pytest.importorskip("awkward")
    pytest.importorskip("pyarrow")
    c = jet_files.columns(JETS, "px", "py", "pz", "E")
    particles = ak.zip(c)
    ak.to_parquet(ak.Array({"particles": particles, "is_signal": JETS.label.numpy()}), tmp_path / "a.parquet")
    jets = read_jets(tmp_path / "a.parquet")
    same(jets, JETS)
    assert torch.equal(jets.label, JETS.label)
    ak.to_parquet(particles, tmp_path / "b.parquet")
    same(read_jets(tmp_path / "b.parquet"), JETS)


def test_every_format_has_a_file() -> None:
    assert WRITERS.keys() | {"delphes"} == FORMATS.keys()


# --- errors ---


@pytest.mark.parametrize("format", [format for format in WRITERS if format not in ("jetnet", "energyflow")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_particles_that_are_not_finite(tmp_path: Path, format: str, value: float) -> None:
    jets = Jets(JETS.p4.clone(), JETS.ptr, JETS.label)
    jets.p4[int(JETS.ptr[3]) + 2, 3] = value
    try:
        path = written(tmp_path, format, jets)
    except (ValueError, OverflowError):
        pytest.skip("the library does not write it")
    where = "" if format == "nanoaod" else " in event 3, particle 2"
    with pytest.raises(ValueError, match=rf"^read_jets: jets\.\w+: expected finite four-momenta, got .*{where}"):
        read_jets(path, chunk=2, **OPTIONS.get(format, {}))


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("share", [0.03, 0.5, 0.97])
def test_truncated_files(tmp_path: Path, format: str, share: float) -> None:
    path = written(tmp_path, format)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"^read_jets: "):
        read_jets(path, **OPTIONS.get(format, {}))


def test_files_without_jets(tmp_path: Path) -> None:
    path = tmp_path / "jets.h5"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"read_jets: .*jets.h5: expected a file of jets, got an empty file"):
        read_jets(path)
    path.write_bytes(b"E,px,py,pz\n")
    with pytest.raises(ValueError, match=r"expected a format among top, pmu, .* that starts with b'E,px,py,pz"):
        read_jets(path)
    with pytest.raises(FileNotFoundError, match=r"read_jets: path: expected a file, got .*none.h5"):
        read_jets(tmp_path / "none.h5")
    for format in ("packed", "pmu", "kinematics", "root"):
        with pytest.raises(ValueError, match=r"read_jets: .*jets\.\w+: expected at least one jet, got none"):
            read_jets(written(tmp_path, format, JETS[:0]), **OPTIONS.get(format, {}))


def test_names_that_are_not_there(tmp_path: Path) -> None:
    for format, options, message in (
        ("root", {"label": "label_Top"}, "label: expected a column of the file: .*label_Tbqq.*, got 'label_Top'"),
        ("pmu", {"label": "top"}, "label: expected a column of the file: Nobj, is_signal, got 'top'"),
        ("top", {"label": "signal"}, "label: expected a column of the file: .*is_signal_new.*, got 'signal'"),
        ("root", {"prefix": "pf_"}, "expected columns that start with 'pf_' and hold .*, got lists .*part_px"),
        ("root", {"tree": "Events"}, "tree: expected one of tree, got 'Events'"),
        ("nanoaod", {"jets": "Jet"}, "jets: expected one of FatJet, got 'Jet'"),
        ("nanoaod", {"label": "nope"}, "label: expected a branch: .*got 'nope'"),
        ("kinematics", {"split": "val"}, "split: expected one of train, test, got 'val'"),
        ("kinematics", {}, "split: expected one of train, test, got None"),
        ("packed", {"tree": "t"}, "tree: expected none for the format 'packed', got 't'"),
        ("hepmc", {"unit": "MeV"}, "unit: expected none for the format 'hepmc', got 'MeV'"),
    ):
        with pytest.raises(ValueError, match=f"^read_jets: .*{message}"):
            read_jets(written(tmp_path, format), **options)
    other = tmp_path / "other.npz"
    np.savez(other, a=np.zeros(3))
    with pytest.raises(ValueError, match=r"expected arrays p4 and ptr, kinematics_<split>, or X, got a"):
        read_jets(other)
    with pytest.raises(ValueError, match=r"expected a pandas table, or datasets Pmu or particle_features, got jets"):
        read_jets(jet_files.hdf5(tmp_path / "other.h5", jets=np.zeros(3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "csv"}, "format: expected one of auto, top"),
        ({"unit": "TeV"}, "unit: expected one of GeV, MeV, got 'TeV'"),
        ({"limit": 0}, "limit: expected at least 1, got 0"),
        ({"max_constituents": 0}, "max_constituents: expected at least 1, got 0"),
        ({"dtype": torch.float16}, "dtype: expected float32 or float64"),
    ],
)
def test_arguments_are_checked_before_reading(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    JETS.save(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=f"read_jets: {message}"):
        iter_jets(tmp_path / "a.npz", **options)


@pytest.mark.parametrize("format", sorted(WRITERS.keys() - {"packed", "kinematics"}))
def test_a_missing_library_names_the_extra(tmp_path: Path, format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, format)

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r'read_jets: needs \w+: pip install "equikernels\[data\]"'):
        read_jets(path, format)


def test_import_of_the_package_imports_no_reader() -> None:
    import subprocess
    import sys

    names = ["awkward", "h5py", "tables", "pandas", "uproot", "pylhe", "pyhepmc", "particle", "pyarrow", "vector"]
    code = f"import sys, equikernels; print([n for n in {names} if n in sys.modules])"
    folder = Path(importlib.import_module("equikernels").__file__).parents[1]  # type: ignore[arg-type]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
