"""Jets written to files of every format, by the libraries that the fields' files come from."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import equikernels as ek
from equikernels.data import Jets

FILES = Path(__file__).parents[1] / "data" / "files"
PION = 0.13957039  # GeV


def jets_of(count: int = 6) -> Jets:
    """The first sample jets as massless float64, and an empty one behind the second."""
    sample = ek.data.load_sample_jets()[:count]
    ptr = torch.cat([sample.ptr[:2], sample.ptr[1:]])
    p4 = sample.p4.double()
    p4[:, 0] = p4[:, 1:].norm(dim=1)
    return Jets(p4, ptr, torch.cat([sample.label[:1], sample.label]))


def padded(jets: Jets, length: int = 200) -> np.ndarray:
    return ek.unpack(jets.p4, jets.ptr, length)[0].numpy()


def columns(jets: Jets, *names: str) -> dict[str, Any]:
    """Ragged columns of ``vector``'s names."""
    vector = pytest.importorskip("vector")
    ak = pytest.importorskip("awkward")
    vector.register_awkward()
    records = ek.data.to_awkward(jets.p4, jets.ptr)
    found = {name: getattr(records, name) for name in names}
    return {name: ak.values_astype(column, "float64") for name, column in found.items()}


def top(path: Path, jets: Jets, format: str = "table") -> Path:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("tables")
    names = [f"{component}_{k}" for k in range(200) for component in ("E", "PX", "PY", "PZ")]
    frame = pandas.DataFrame(padded(jets).reshape(len(jets), 800), columns=names)
    further = {"truthE": 0.0, "truthPX": 0.0, "truthPY": 0.0, "truthPZ": 0.0, "ttv": 1, "is_signal_new": jets.label}
    frame = pandas.concat([frame, pandas.DataFrame(further, index=frame.index)], axis=1)
    frame.to_hdf(path, key="table", mode="w", format=format)
    return path


def fixed(path: Path, jets: Jets) -> Path:
    return top(path, jets, "fixed")


def hdf5(path: Path, **arrays: Any) -> Path:
    with pytest.importorskip("h5py").File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def pmu(path: Path, jets: Jets) -> Path:
    return hdf5(path, Pmu=padded(jets), Nobj=jets.ptr.diff().numpy(), is_signal=jets.label.numpy(), mass=np.zeros(9))


def jetnet(path: Path, jets: Jets) -> Path:
    c = {name: column.to_numpy() for name, column in _padded_columns(jets, "pt", "eta", "phi").items()}
    pt, eta, phi = (np.asarray(c[name]) for name in ("pt", "eta", "phi"))
    mask = np.arange(pt.shape[1]) < jets.ptr.diff().numpy()[:, None]
    jet = np.stack([np.full(len(jets), 600.0), np.full(len(jets), 0.5), np.zeros(len(jets)), mask.sum(1)], axis=1)
    rows = np.stack([np.where(mask, eta - 0.5, 0), phi, pt / 600, mask], axis=2)
    return hdf5(path, particle_features=rows, jet_features=jet)


def _padded_columns(jets: Jets, *names: str) -> dict[str, Any]:
    ak = pytest.importorskip("awkward")
    length = int(jets.ptr.diff().max())
    return {
        name: ak.fill_none(ak.pad_none(column, length, clip=True), 0.0)
        for name, column in columns(jets, *names).items()
    }


def kinematics(path: Path, jets: Jets) -> Path:
    arrays = {"kinematics_train": padded(jets), "labels_train": jets.label.numpy()}
    np.savez(path, **arrays, kinematics_test=padded(jets)[:1], labels_test=np.eye(2)[jets.label[:1].numpy()])
    return path


def energyflow(path: Path, jets: Jets) -> Path:
    """Pions."""
    c = _padded_columns(with_masses(jets), "pt", "rapidity", "phi")
    mask = np.arange(c["pt"].to_numpy().shape[1]) < jets.ptr.diff().numpy()[:, None]
    rows = np.stack([*(column.to_numpy() for column in c.values()), np.where(mask, -211, 0)], axis=2)
    np.savez_compressed(path, X=rows, y=jets.label.numpy())
    return path


def with_masses(jets: Jets) -> Jets:
    p4 = jets.p4.clone()
    p4[:, 0] = (p4[:, 1:].square().sum(1) + PION**2).sqrt()
    return Jets(p4, jets.ptr, jets.label)


def packed(path: Path, jets: Jets) -> Path:
    jets.save(path)
    return path


def tree(path: Path, name: str, branches: dict[str, Any]) -> Path:
    ak = pytest.importorskip("awkward")
    with pytest.importorskip("uproot").recreate(path) as file:
        file.mktree(name, {name: ak.type(column) for name, column in branches.items()})
        file[name].extend(branches)
    return path


def jetclass(path: Path, jets: Jets) -> Path:
    return tree(path, "tree", _jetclass(jets))


def rntuple(path: Path, jets: Jets) -> Path:
    with pytest.importorskip("uproot").recreate(path) as file:
        file.mkrntuple("tree", _jetclass(jets))
    return path


def _jetclass(jets: Jets) -> dict[str, Any]:
    c = columns(jets, "px", "py", "pz", "energy", "eta")
    branches = {f"part_{name}": c[name] for name in ("px", "py", "pz", "energy")}
    branches |= {"part_charge": c["eta"] * 0, "part_deta": c["eta"], "jet_pt": np.full(len(jets), 600.0)}
    return branches | {f"label_{name}": jets.label.numpy() == k for k, name in enumerate(("QCD", "Tbqq", "Hbb"))}


def nanoaod(path: Path, jets: Jets) -> Path:
    return tree(path, "Events", nanoaod_collections(jets))


def nanoaod_rntuple(path: Path, jets: Jets, records: bool = False) -> Path:
    """The same as an RNTuple: fields FatJet_pt and so on, as in a tree, or a field of records for each collection."""
    ak = pytest.importorskip("awkward")
    fields = {}
    for name, collection in nanoaod_collections(jets).items():
        if records or not ak.fields(collection):
            fields[name] = collection
        else:
            fields |= {f"{name}_{inner}": collection[inner] for inner in ak.fields(collection)}
    with pytest.importorskip("uproot").recreate(path) as file:
        file.mkrntuple("Events", fields)
    return path


def nanoaod_collections(jets: Jets) -> dict[str, Any]:
    """Jets 0 and 1 in the first event, none in the second, the others in the third; candidates in reverse."""
    ak = pytest.importorskip("awkward")
    c = columns(jets, "pt", "eta", "phi", "mass")
    events = [np.arange(2), np.arange(0), np.arange(2, len(jets))]
    flat = {name: ak.Array([ak.flatten(column[e])[::-1].to_list() for e in events]) for name, column in c.items()}
    flat["pdgId"] = ak.Array([[211] * len(row) for row in flat["pt"].to_list()])
    flat = {name: ak.values_astype(column, "int32" if name == "pdgId" else "float64") for name, column in flat.items()}
    counts = jets.ptr.diff().numpy()
    of_jet = [np.repeat(np.arange(len(e)), counts[e]).tolist() + [-1] * (len(e) > 0) for e in events]
    index = [[*range(len(row) - 2, -1, -1), 0][: len(row)] if row else [] for row in of_jet]
    labels = [jets.label[torch.from_numpy(e)].tolist() for e in events]

    def ints(rows: list[list[int]]) -> Any:
        return ak.values_astype(ak.from_iter(rows), "int32")

    return {
        "FatJet": ak.zip({"pt": ak.values_astype(ints(labels), "float64"), "hadronFlavour": ints(labels)}),
        "PFCands": ak.zip(flat),
        "FatJetPFCands": ak.zip({"jetIdx": ints(of_jet), "pFCandsIdx": ints(index)}),
        "run": np.array([5, 6, 7]),
    }


def parquet(path: Path, jets: Jets) -> Path:
    ak = pytest.importorskip("awkward")
    pytest.importorskip("pyarrow")
    c = columns(jets, "pt", "eta", "phi", "mass")
    table = {f"part_{name}": column for name, column in c.items()} | {"label": ak.Array(jets.label.numpy())}
    ak.to_parquet(ak.Array(table), path, row_group_size=4)
    return path


def lhe(path: Path, jets: Jets) -> Path:
    pylhe = pytest.importorskip("pylhe")

    def particle(status: int, row: list[float]) -> Any:
        e, px, py, pz = row
        return pylhe.LHEParticle(21, status, 0, 0, 0, 0, px, py, pz, e, 0.0, 0.0, 9.0)

    events = []
    for lo, hi in pairwise(jets.ptr):
        rows = [particle(-1, [7.0, 0.0, 0.0, 7.0]), *(particle(1, row) for row in jets.p4[lo:hi].tolist())]
        events.append(pylhe.LHEEvent(pylhe.LHEEventInfo(len(rows), 1, 1.0, 1.0, 0.1, 0.1), rows))
    init = pylhe.LHEInit(
        pylhe.LHEInitInfo(2212, 2212, 7e3, 7e3, 0, 0, 1, 1, 3, 1), [pylhe.LHEProcInfo(1.0, 0.1, 1.0, 1)], []
    )
    pylhe.LHEFile(init=init, events=events, version="3.0").tofile(str(path))
    return path


def hepmc(path: Path, jets: Jets, scale: float = 1.0, format: str = "HepMC3") -> Path:
    """HepMC keeps no events without particles, and a beam has another status than the final state."""
    pyhepmc = pytest.importorskip("pyhepmc")
    unit = pyhepmc.Units.GEV if scale == 1.0 else pyhepmc.Units.MEV
    with pyhepmc.open(str(path), "w", format=format) as file:
        for number, (lo, hi) in enumerate(pairwise(jets.ptr)):
            event = pyhepmc.GenEvent(unit, pyhepmc.Units.MM)
            event.event_number = number
            vertex = pyhepmc.GenVertex()
            vertex.add_particle_in(pyhepmc.GenParticle((0.0, 0.0, 7.0, 7.0), 2212, 4))
            for e, *p in (jets.p4[lo:hi] * scale).tolist():
                vertex.add_particle_out(pyhepmc.GenParticle((*p, e), 22, 1))
            vertex.add_particle_out(pyhepmc.GenParticle((0.0, 0.0, 1.0, 1.0), 23, 2))
            event.add_vertex(vertex)
            file.write(event)
    return path


# format -> (suffix, writer)
WRITERS: dict[str, tuple[str, Callable[[Path, Jets], Path]]] = {
    "top": (".h5", top),
    "pmu": (".h5", pmu),
    "jetnet": (".hdf5", jetnet),
    "kinematics": (".npz", kinematics),
    "energyflow": (".npz", energyflow),
    "packed": (".npz", packed),
    "root": (".root", jetclass),
    "nanoaod": (".root", nanoaod),
    "parquet": (".parquet", parquet),
    "lhe": (".lhe", lhe),
    "hepmc": (".hepmc", hepmc),
}
