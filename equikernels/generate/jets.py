"""Jets of known origin: top and QCD jets, jets with a W boson, quark and gluon jets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..checks import check_choice, check_integer
from ..data import Jets
from .detector import INVISIBLE, polar, simulate
from .pythia import Array, Generator, Particles, need, progress

ENERGY = 14_000.0  # GeV
CONSTITUENTS = 200
BATCH = 200  # events at a time: part of what a seed determines
Found = tuple[int, Array]  # an event, and rows of the particles of a jet in it


@dataclass(frozen=True)
class Sample:
    """What is simulated.

    Attributes:
        processes: label -> Pythia's settings.
        common: settings of all.
        pt, eta, radius: window of the jets, GeV, and R of anti-kT.
        detector: whether constituents are what the detector makes of particles; else the visible particles.
    """

    processes: Mapping[int, tuple[str, ...]]
    common: tuple[str, ...]
    pt: tuple[float, float] = (550.0, 650.0)
    eta: float = 2.0
    radius: float = 0.8
    detector: bool = True


_HARD = ("PhaseSpace:pTHatMin = 450", "PhaseSpace:pTHatMax = 1000", "PartonLevel:MPI = off")
_TOP = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", "24:onMode = off", "24:onIfAny = 1 2 3 4 5")
_Z = ("PhaseSpace:pTHatMin = 450", "WeakZ0:gmZmode = 2", "23:onMode = off", "23:onIfAny = 12 14 16")
SAMPLES = {
    "top": Sample({0: ("HardQCD:all = on",), 1: _TOP}, _HARD),
    "w": Sample({1: _TOP}, _HARD),
    "quark_gluon": Sample(
        {0: ("WeakBosonAndParton:qqbar2gmZg = on",), 1: ("WeakBosonAndParton:qg2gmZq = on",)},
        _Z,
        pt=(500.0, 550.0),
        eta=1.7,
        radius=0.4,
        detector=False,
    ),
}


def generate_jets(number: int, seed: int = 0, kind: str = "top") -> Jets:
    r"""Simulates jets by Pythia 8, pp at 14 TeV.

    - "top": half of them from top quarks (label 1), the others from light quarks and gluons (label 0), like those of
      the Top Quark Tagging Reference Dataset (arXiv 1902.09914): without multiple interactions; a parametrised detector
      (:mod:`.detector`); anti-kT R = 0.8, 550 < pT < 650 GeV, \|eta\| < 2. A top jet has the top quark and its three
      decay quarks within Delta R = 0.8.
    - "w": these top jets alone, with the four-momentum of the W boson as ``truth["W"]``, float32 [n_jets, 4] in GeV:
      that of the two quarks it decays into, before they radiate (arXiv 2307.16506).
    - "quark_gluon": jets beside a Z boson that decays into neutrinos, of quarks (label 1) and gluons (label 0), without
      a detector, with the feature ``pdg_id``: anti-kT R = 0.4, 500 < pT < 550 GeV, \|eta\| < 1.7 (arXiv 1810.05165).

    The leading 200 constituents are kept, sorted by falling pT; massless where there is a detector. The same seed gives
    the same jets.

    Args:
        number: of jets.
        seed: of the events, the detector and the order.
        kind: "top", "w" or "quark_gluon".

    Returns:
        Jets, p4 float32 [n_total, 4] in GeV.

    Raises:
        ImportError: a library of the extra ``generate`` is not installed.
    """
    check_integer("generate_jets", "number", number, "at least 1", 1)
    check_integer("generate_jets", "seed", seed, "at least 0", 0)
    check_choice("generate_jets", "kind", kind, tuple(SAMPLES))
    sample = SAMPLES[kind]
    found: list[tuple[Array, Array, Array | None, int]] = []
    left = number
    with progress(number, "jet") as bar:
        for label in sorted(sample.processes, reverse=True):
            wanted = left if label == min(sample.processes) else number // 2
            left -= wanted
            found += [(*jet, label) for jet in _jets(sample, label, wanted, seed, bar, with_tops=kind != "quark_gluon")]
    order = np.random.default_rng([seed, 2]).permutation(number)
    rows = [found[k] for k in order]
    ptr = np.cumsum([0, *(len(jet[0]) for jet in rows)])
    p4 = np.concatenate([jet[0] for jet in rows]).astype(np.float32)
    labels = torch.tensor([jet[3] for jet in rows])
    features = {} if sample.detector else {"pdg_id": torch.from_numpy(np.concatenate([jet[1] for jet in rows]))}
    truth = {}
    if kind == "w":
        truth["W"] = torch.from_numpy(np.stack([jet[2] for jet in rows if jet[2] is not None]).astype(np.float32))
    return Jets(torch.from_numpy(p4), torch.from_numpy(ptr), labels, features, truth)


def _jets(
    sample: Sample, label: int, wanted: int, seed: int, bar: Any, with_tops: bool
) -> list[tuple[Array, Array, Array | None]]:
    """(four-momenta, PDG ids or nothing, four-momentum of the W or None) of each jet."""
    generator = Generator(2 * seed + label, ENERGY, (*sample.common, *sample.processes[label]))
    rng = np.random.default_rng([seed, label])
    jets: list[tuple[Array, Array, Array | None]] = []
    while len(jets) < wanted:
        events = generator.next(BATCH)
        final = events.status > 0
        p4, pdg_id, event = events.p4[final], events.pdg_id[final], events.event[final]
        if sample.detector:
            p4, event = simulate(p4, pdg_id, generator.charge(pdg_id), event, rng)
            pdg_id = np.zeros(len(p4), np.int64)
        else:
            seen = ~np.isin(np.abs(pdg_id), INVISIBLE)
            p4, pdg_id, event = p4[seen], pdg_id[seen], event[seen]
        tops = _tops(events) if with_tops and label == 1 else None
        new: list[tuple[Array, Array, Array | None]] = []
        for e, rows in _cluster(sample, p4, event, events.events):
            boson = None
            if tops is not None:
                top = _top_in(sample.radius, p4[rows], tops.get(e, []))
                if top is None:
                    continue
                boson = top[2] + top[3]
            new.append((p4[rows], pdg_id[rows], boson))
        jets += new[: wanted - len(jets)]
        bar.update(min(len(new), wanted))
    return jets


def _cluster(sample: Sample, p4: Array, event: Array, events: int) -> list[Found]:
    """The jets in the window, hardest constituents first."""
    fastjet, ak = need("fastjet"), need("awkward")
    order = np.argsort(event, kind="stable")
    counts = np.bincount(event, minlength=events)
    columns = dict(zip(("E", "px", "py", "pz"), p4[order].T.copy(), strict=True))
    particles = ak.unflatten(ak.zip(columns, with_name="Momentum4D"), counts)
    jets = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.antikt_algorithm, sample.radius))
    start = np.cumsum(counts) - counts
    found = []
    for e, of_event in enumerate(jets.constituent_index(min_pt=sample.pt[0] / 2).to_list()):
        for inside in of_event:
            rows = order[start[e] + np.array(inside, np.int64)]
            pt, eta, _ = polar(p4[rows].sum(0, keepdims=True))
            if sample.pt[0] < pt[0] < sample.pt[1] and abs(eta[0]) < sample.eta:
                falling = np.argsort(-polar(p4[rows])[0], kind="stable")[:CONSTITUENTS]
                found.append((e, rows[falling]))
    return found


def _tops(events: Particles) -> dict[int, list[Array]]:
    """The top quarks of each event, p4 [4, 4] of the quark when it decays and of its three decay quarks."""
    mother = events.pdg_id[events.mother]
    quark = (np.abs(events.pdg_id) <= 5) & (np.abs(events.status) == 23)
    tops: dict[int, list[Array]] = {}
    for sign in (1, -1):
        bottom, light = quark & (mother == 6 * sign), quark & (mother == 24 * sign)
        for b in np.flatnonzero(bottom):
            event = int(events.event[b])
            pair = np.flatnonzero(light & (events.event == event))
            if len(pair) == 2:
                tops.setdefault(event, []).append(events.p4[[events.mother[b], b, *pair]])
    return tops


def _top_in(radius: float, jet: Array, tops: list[Array]) -> Array | None:
    """The first top quark that lies with its three decay quarks within the radius of the jet's axis."""
    _, eta, phi = polar(jet.sum(0, keepdims=True))
    for quarks in tops:
        _, quark_eta, quark_phi = polar(quarks)
        turn = (quark_phi - phi + np.pi) % (2 * np.pi) - np.pi
        if (np.hypot(quark_eta - eta, turn) < radius).all():
            return quarks
    return None
