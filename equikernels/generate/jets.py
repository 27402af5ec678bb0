"""Top and QCD jets like those of the Top Quark Tagging Reference Dataset (arXiv 1902.09914)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..checks import check_integer
from ..data import Jets
from .detector import polar, simulate
from .pythia import Array, Generator, Particles, need, progress

ENERGY = 14_000.0  # GeV
PT, ETA, R = (550.0, 650.0), 2.0, 0.8
CONSTITUENTS = 200
BATCH = 200  # events at a time: part of what a seed determines
COMMON = ("PhaseSpace:pTHatMin = 450", "PhaseSpace:pTHatMax = 1000", "PartonLevel:MPI = off")
PROCESSES = {
    0: ("HardQCD:all = on",),
    1: ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", "24:onMode = off", "24:onIfAny = 1 2 3 4 5"),
}


def generate_jets(number: int, seed: int = 0) -> Jets:
    """Simulates jets, half of them from top quarks (label 1), the others from light quarks and gluons (label 0).

    Pythia 8, pp at 14 TeV without multiple interactions; a parametrised detector (:mod:`.detector`); anti-kT R = 0.8,
    550 < pT < 650 GeV, |eta| < 2. A top jet has the top quark and its three decay quarks within Delta R = 0.8. The
    leading 200 constituents are kept, massless, sorted by falling pT. The same seed gives the same jets.

    Args:
        number: of jets.
        seed: of the events, the detector and the order.

    Returns:
        Jets, p4 float32 [n_total, 4] in GeV.

    Raises:
        ImportError: a library of the extra ``generate`` is not installed.
    """
    check_integer("generate_jets", "number", number, "at least 1", 1)
    check_integer("generate_jets", "seed", seed, "at least 0", 0)
    found: list[tuple[Array, int]] = []
    with progress(number, "jet") as bar:
        for label, wanted in ((1, number // 2), (0, number - number // 2)):
            jets = _jets(label, wanted, seed, bar)
            found += [(jet, label) for jet in jets]
    order = np.random.default_rng([seed, 2]).permutation(number)
    rows = [found[k][0] for k in order]
    ptr = np.cumsum([0, *(len(jet) for jet in rows)])
    p4 = np.concatenate(rows).astype(np.float32)
    return Jets(torch.from_numpy(p4), torch.from_numpy(ptr), torch.tensor([found[k][1] for k in order]))


def _jets(label: int, wanted: int, seed: int, bar: Any) -> list[Array]:
    generator = Generator(2 * seed + label, ENERGY, (*COMMON, *PROCESSES[label]))
    rng = np.random.default_rng([seed, label])
    jets: list[Array] = []
    while len(jets) < wanted:
        events = generator.next(BATCH)
        final = events.status > 0
        pdg_id = events.pdg_id[final]
        p4, event = simulate(events.p4[final], pdg_id, generator.charge(pdg_id), events.event[final], rng)
        batch = _cluster(p4, event, events.events)
        if label == 1:
            tops = _tops(events)
            batch = [(e, jet) for e, jet in batch if _holds_top(jet, tops.get(e, []))]
        new = [jet for _, jet in batch][: wanted - len(jets)]
        jets += new
        bar.update(len(new))
    return jets


def _cluster(p4: Array, event: Array, events: int) -> list[tuple[int, Array]]:
    """(event, constituents) of the jets in the window."""
    fastjet, ak = need("fastjet"), need("awkward")
    order = np.argsort(event, kind="stable")
    p4, counts = p4[order], np.bincount(event, minlength=events)
    columns = dict(zip(("E", "px", "py", "pz"), p4.T.copy(), strict=True))
    particles = ak.unflatten(ak.zip(columns, with_name="Momentum4D"), counts)
    jets = fastjet.ClusterSequence(particles, fastjet.JetDefinition(fastjet.antikt_algorithm, R))
    start = np.cumsum(counts) - counts
    found = []
    for e, of_event in enumerate(jets.constituent_index(min_pt=PT[0] / 2).to_list()):
        for rows in of_event:
            constituents = p4[start[e] + np.array(rows, np.int64)]
            pt, eta, _ = polar(constituents.sum(0, keepdims=True))
            if PT[0] < pt[0] < PT[1] and abs(eta[0]) < ETA:
                falling = np.argsort(-polar(constituents)[0], kind="stable")[:CONSTITUENTS]
                found.append((e, constituents[falling]))
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


def _holds_top(jet: Array, tops: list[Array]) -> bool:
    _, eta, phi = polar(jet.sum(0, keepdims=True))
    for quarks in tops:
        _, quark_eta, quark_phi = polar(quarks)
        turn = (quark_phi - phi + np.pi) % (2 * np.pi) - np.pi
        if (np.hypot(quark_eta - eta, turn) < R).all():
            return True
    return False
