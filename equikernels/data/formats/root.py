"""ROOT files, read by uproot: jets as entries (JetClass and others), NanoAOD with constituents, Delphes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...checks import fail
from ..four_momenta import cartesian, find_components
from .columns import Columns, per_jet
from .common import OP, Array, Options, Part, listed, need

RNTUPLE = "ROOT::RNTuple"


def open_tree(path: Path, name: str | None = None) -> Any:
    """The named tree, or the only one (of those with an entry if there are more)."""
    file = need("uproot").open(path)
    size = path.stat().st_size
    if file.file.fEND > size:
        fail(OP, path.name, f"{file.file.fEND} bytes, as its header says", f"{size} (truncated)")
    trees = {key.partition(";")[0]: key for key, kind in file.classnames().items() if kind in ("TTree", RNTUPLE)}
    if name is not None:
        if name not in trees:
            fail(OP, "tree", f"one of {listed(trees)}", repr(name))
        return file[name]
    for usual in ("Events", "Delphes"):
        if usual in trees:
            return file[usual]
    if len(trees) != 1:
        fail(OP, "tree", f"one of {listed(trees)}" if trees else f"a tree in {path.name}", None)
    return file[next(iter(trees))]


class Branches:
    """The columns of a TTree: its branches."""

    def __init__(self, tree: Any) -> None:
        self.tree = tree
        self.names: list[str] = tree.keys(recursive=True, full_paths=False)

    def is_ragged(self, name: str) -> bool:
        """A list of numbers in each entry, not a list of lists."""
        kind = self.tree[name].typename
        return kind.count("[]") + kind.lower().count("vector<") == 1

    def iterate(self, names: Sequence[str], chunk: int) -> Iterator[Any]:
        """Awkward arrays of records of these columns."""
        return self.tree.iterate(list(dict.fromkeys(names)), step_size=chunk, library="ak")


class Fields(Branches):
    """The columns of an RNTuple: its fields. The field pt of a collection Jet of records is the column Jet_pt, as
    NanoAOD's branches are named."""

    def __init__(self, tree: Any) -> None:
        self.tree, self.empty = tree, tree.arrays(entry_stop=0, library="ak")
        self.paths: dict[str, tuple[str, ...]] = {}
        for name in self.empty.fields:
            inner = self.empty[name].fields
            self.paths |= {f"{name}_{field}": (name, field) for field in inner} if inner else {name: (name,)}
        self.names = list(self.paths)

    def is_ragged(self, name: str) -> bool:
        column = self.empty[self.paths[name]]
        return column.ndim == 2 and not column.fields

    def iterate(self, names: Sequence[str], chunk: int) -> Iterator[Any]:
        paths = {name: self.paths[name] for name in names}
        for array in self.tree.iterate([".".join(path) for path in paths.values()], step_size=chunk, library="ak"):
            yield need("awkward").zip({name: array[path] for name, path in paths.items()}, depth_limit=1)


def columns_of(tree: Any) -> Branches:
    return Fields(tree) if tree.classname == RNTUPLE else Branches(tree)


def kind_of(tree: Any) -> str:
    """Which of the readers below."""
    names = columns_of(tree).names
    if "Jet.Constituents" in names or tree.name == "Delphes":
        return "delphes"
    return "nanoaod" if links(names) else "root"


def root(path: Path, options: Options) -> Iterator[Part]:
    """A jet in each entry, lists of its constituents in branches."""
    tree = columns_of(open_tree(path, options.tree))
    ragged = [name for name in tree.names if tree.is_ragged(name)]
    flat = [name for name in tree.names if name not in set(ragged)]
    columns = Columns(path.name, ragged, flat, options)
    for array in tree.iterate(columns.names, options.chunk):
        yield columns.part(array)


def links(names: Sequence[str]) -> dict[str, tuple[str, str, str, str]]:
    """Jets -> (jets, branch of the jet's index, branch of the candidate's index, candidates) of a NanoAOD file."""
    there, found = set(names), {}
    for name in names:
        match = re.fullmatch(r"(Gen)?(\w*?)(PFCands?|Cands)_jetIdx", name)
        if match is None:
            continue
        gen, jets, candidates = match.groups()
        start = name.removesuffix("_jetIdx")
        index = next((n for e in ("pFCandsIdx", "pfCandIdx", "candIdx") if (n := f"{start}_{e}") in there), None)
        candidates = (gen or "") + candidates
        if index is not None and f"{candidates}_pt" in there:
            found[(gen or "") + jets] = ((gen or "") + jets, name, index, candidates)
    return found


def nanoaod(path: Path, options: Options) -> Iterator[Part]:
    """NanoAOD with constituents (PFNano, BTV, version 15): candidates grouped by jet; jets without any are empty."""
    tree = columns_of(open_tree(path, options.tree))
    names = tree.names
    found = links(names)
    default = next((name for name in ("FatJet", "Jet") if name in found), None)
    jets = options.jets or default
    if jets not in found:
        fail(OP, "jets", f"one of {listed(found)}", repr(jets))
    _, jet_index, index, candidates = found[jets]
    prefix = f"{candidates}_"
    rest = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    components = find_components(rest) or {}
    features = {"pdg_id": "pdgId"} if "pdgId" in rest else {}
    for name in options.features:
        if name.removeprefix(prefix) not in rest:
            fail(OP, "features", f"branches of {candidates}: {listed(rest, near=name)}", repr(name))
        features[name] = name.removeprefix(prefix)
    count = f"n{jets}" if f"n{jets}" in names else f"{jets}_pt"
    wanted = [jet_index, index, count, *(prefix + n for n in {*components.values(), *features.values()})]
    wanted += _label_branches(options, names)
    ak = need("awkward")
    for array in tree.iterate(wanted, options.chunk):
        number = array[count] if array[count].ndim == 1 else ak.num(array[count])
        number = ak.to_numpy(number).astype(np.int64)
        of_jet, of_candidate = array[jet_index], array[index]
        keep = (of_jet >= 0) & (of_jet < number)  # -1: of a jet that is not in the file
        size = ak.to_numpy(ak.num(array[prefix + components["pt"]])).astype(np.int64)
        links_per_event = ak.to_numpy(ak.num(of_jet))
        jet = ak.to_numpy(ak.flatten(of_jet)) + np.repeat(_starts(number), links_per_event)
        candidate = ak.to_numpy(ak.flatten(of_candidate))
        good = ak.to_numpy(ak.flatten(keep))
        if (good & ((candidate < 0) | (candidate >= np.repeat(size, links_per_event)))).any():
            fail(OP, path.name, f"{index} to be rows of {candidates}", "others")
        rows, counts = group(jet[good], (candidate + np.repeat(_starts(size), links_per_event))[good], number.sum())
        flat = {
            name: ak.to_numpy(ak.flatten(array[prefix + name])) for name in {*components.values(), *features.values()}
        }
        p4 = cartesian({component: flat[name][rows] for component, name in components.items()})
        columns = {name: flat[branch][rows] for name, branch in features.items()}
        if "pdg_id" in columns:
            columns["pdg_id"] = columns["pdg_id"].astype(np.int64)
        yield Part(p4, counts, per_jet(options.label, array, number), columns)


def group(jet: Array, rows: Array, jets: int) -> tuple[Array, Array]:
    """(rows sorted by jet in their order, how many each of ``jets`` jets has)."""
    return rows[np.argsort(jet, kind="stable")], np.bincount(jet, minlength=int(jets)).astype(np.int64)


def _starts(counts: Array) -> Array:
    return np.cumsum(counts) - counts


def _label_branches(options: Options, names: Sequence[str]) -> list[str]:
    label = options.label
    wanted = [] if label is None or isinstance(label, int) else [label] if isinstance(label, str) else list(label)
    for name in wanted:
        if name not in names:
            fail(OP, "label", f"a branch: {listed(names, near=name)}", repr(name))
    return wanted


# Delphes: how collections of constituents name their momenta. Towers and energy-flow objects are massless.
TOWER = {"pt": "ET", "eta": "Eta", "phi": "Phi"}
TRACK = {"pt": "PT", "eta": "Eta", "phi": "Phi"}
PARTICLE = {"E": "E", "px": "Px", "py": "Py", "pz": "Pz"}


def _components(name: str, there: set[str]) -> dict[str, str] | None:
    for components in (PARTICLE, TRACK, TOWER):
        if all(f"{name}.{branch}" in there for branch in components.values()):
            mass = {"mass": "Mass"} if "E" not in components and f"{name}.Mass" in there else {}
            return components | mass
    return None


def delphes(path: Path, options: Options) -> Iterator[Part]:
    """Delphes: the constituents that each jet refers to; jets without any are empty."""
    tree = open_tree(path, options.tree or "Delphes")
    names = tree.keys(recursive=True, full_paths=False)
    there = set(names)
    jets = options.jets or "Jet"
    if f"{jets}.Constituents" not in there:
        found = [name.removesuffix(".Constituents") for name in names if name.endswith(".Constituents")]
        fail(OP, "jets", f"one of {listed(found)}", repr(jets))
    sources = {}
    collections = dict.fromkeys(n.partition(".")[0] for n in names if n.endswith(".fUniqueID"))
    # a track may also be a muon, and a part of energy flow: of one identifier, the first counts
    for name in sorted(collections, key=lambda name: not name.startswith(("EFlow", "ParticleFlow"))):
        components = _components(name, there)
        if components is not None and f"{name}.Constituents" not in there:
            sources[name] = components
    wanted = [f"{jets}.Constituents", f"{jets}.PT"]
    wanted += [f"{name}.{b}" for name, components in sources.items() for b in ("fUniqueID", *components.values())]
    wanted += _label_branches(options, names)
    ak = need("awkward")
    for array in tree.iterate(wanted, step_size=options.chunk, library="ak"):
        number = ak.to_numpy(ak.num(array[f"{jets}.PT"])).astype(np.int64)
        refs = array[f"{jets}.Constituents"]
        refs = refs["refs"] if "refs" in refs.fields else refs
        per = ak.to_numpy(ak.flatten(ak.num(refs, axis=2))).astype(np.int64)
        event_of_jet = np.repeat(np.arange(len(number)), number)
        wanted_ids = ak.to_numpy(ak.flatten(refs, axis=None)).astype(np.int64)
        wanted_key = np.repeat(event_of_jet, per) << 32 | wanted_ids & 0xFFFFFFFF
        keys, p4 = _objects(array, sources)
        order = np.argsort(keys, kind="stable")
        at = np.searchsorted(keys[order], wanted_key).clip(max=max(len(keys) - 1, 0))
        known = keys[order][at] == wanted_key if len(keys) else np.zeros(len(wanted_key), bool)
        if not known.all():
            bad = int(np.flatnonzero(~known)[0])
            jet = int(np.searchsorted(np.cumsum(per), bad, side="right"))
            fail(
                OP,
                path.name,
                f"constituents of {jets} among {listed(sources)}",
                f"a reference to none of them in jet {jet}",
            )
        yield Part(p4[order[at]], per, per_jet(options.label, array, number))


def _objects(array: Any, sources: dict[str, dict[str, str]]) -> tuple[Array, Array]:
    """(event and unique id of every object, its four-momentum)."""
    ak = need("awkward")
    keys, momenta = [np.empty(0, np.int64)], [np.empty((0, 4))]
    for name, components in sources.items():
        ids = array[f"{name}.fUniqueID"]
        event = np.repeat(np.arange(len(ids)), ak.to_numpy(ak.num(ids)))
        keys.append(event << 32 | ak.to_numpy(ak.flatten(ids)).astype(np.int64) & 0xFFFFFFFF)
        flat = {c: ak.to_numpy(ak.flatten(array[f"{name}.{branch}"])) for c, branch in components.items()}
        if "E" not in flat:
            flat.setdefault("mass", np.zeros(len(event)))
        momenta.append(cartesian(flat))
    return np.concatenate(keys), np.concatenate(momenta)
