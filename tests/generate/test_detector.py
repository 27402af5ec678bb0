"""Tests the parametrised detector and the helices on particles made by hand: no event generator is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from equikernels.data import PIXEL_LAYERS, hit_graph, load_trackml
from equikernels.data.hits import BARREL_RADII
from equikernels.generate import detector, hits
from equikernels.generate.detector import _at_calorimeter, massless, polar, simulate


def particles(pt: float, eta: float, phi: float, pdg_id: int, charge: float, n: int) -> tuple[np.ndarray, ...]:
    p4 = massless(*(np.full(n, value) for value in (pt, eta, phi)))
    return p4, np.full(n, pdg_id), np.full(n, charge), np.arange(n)


@pytest.mark.parametrize(
    ("pdg_id", "charge", "spread"),
    [(22, 0, 0.02), (211, 1, 0.1), (-211, -1, 0.1), (130, 0, 0.15), (11, -1, 0.1), (310, 0, 0.2), (13, -1, 0.05)],
)
def test_energies_are_kept_on_average(pdg_id: int, charge: float, spread: float) -> None:
    p4, event = simulate(*particles(50.0, 0.7, 1.0, pdg_id, charge, 4000), np.random.default_rng(0))
    energy = np.bincount(event, p4[:, 0], minlength=4000)
    seen = energy > 0
    assert seen.mean() > 0.9
    truth = 50 * np.cosh(0.7)
    assert np.median(energy[seen]) / truth == pytest.approx(1, abs=0.03)
    assert np.percentile(np.abs(energy[seen] / truth - 1), 68) < spread
    assert np.allclose(p4[:, 0], np.linalg.norm(p4[:, 1:], axis=1))
    _, eta, phi = polar(p4)
    assert np.percentile(np.abs(eta - 0.7), 90) < 0.1
    assert np.percentile(np.abs(phi - 1.0), 90) < 0.2


def test_what_the_detector_does_not_see() -> None:
    rng = np.random.default_rng(0)
    for pdg_id, charge, pt, eta in ((12, 0, 50, 0), (-14, 0, 50, 1), (22, 0, 50, 3.5), (22, 0, 0.2, 0), (13, 1, 50, 3)):
        assert len(simulate(*particles(pt, eta, 0.0, pdg_id, charge, 50), rng)[0]) == 0
    assert len(simulate(*(a[:0] for a in particles(1, 0, 0, 22, 0, 1)), rng)[0]) == 0


def test_a_charged_hadron_is_counted_once() -> None:
    """Its track and its tower make one object; without a track the tower is one."""
    p4, event = simulate(*particles(20.0, 0.3, 0.0, 211, 1, 2000), np.random.default_rng(0))
    objects = np.bincount(event, minlength=2000)
    assert (objects == 1).mean() > 0.85
    assert objects.max() <= 2
    assert np.bincount(event, p4[:, 0]).mean() == pytest.approx(20 * np.cosh(0.3), rel=0.05)


@pytest.mark.parametrize("charge", [1.0, -1.0, 0.0])
@pytest.mark.parametrize(("pt", "eta"), [(0.2, 0.4), (0.36, 0.1), (1.0, -1.0), (5.0, 2.3), (40.0, -2.8)])
def test_the_way_through_the_field(charge: float, pt: float, eta: float) -> None:
    """Against small steps along the path."""
    phi, step = 0.4, 1e-4
    position, direction = np.zeros(3), phi
    for _ in range(10**6):
        position = position + step * np.array([np.cos(direction), np.sin(direction), np.sinh(eta)])
        direction -= charge * 0.3 * detector.FIELD / pt * step
        if np.hypot(*position[:2]) > detector.RADIUS or abs(position[2]) > detector.HALF_LENGTH:
            break
    at_eta, at_phi = _at_calorimeter(*(np.array([v]) for v in (pt, eta, phi, charge)))
    assert at_eta[0] == pytest.approx(np.arcsinh(position[2] / np.hypot(*position[:2])), abs=2e-3)
    turn = at_phi[0] - np.arctan2(position[1], position[0])
    assert (turn + np.pi) % (2 * np.pi) - np.pi == pytest.approx(0, abs=2e-3)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits, "THICKNESS", 0.0)
    monkeypatch.setattr(hits, "PIXEL", (0.0, 0.0))


def bundle(n: int = 300, low: float = 0.3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    p4 = massless(rng.uniform(low, 5, n), rng.uniform(-4, 4, n), rng.uniform(-np.pi, np.pi, n))
    return p4, rng.choice([-1.0, 1.0, 0.0], n), rng.normal(0, 50, n)


@pytest.mark.usefixtures("exact")
def test_hits_lie_on_helices() -> None:
    p4, charge, z0 = bundle()
    got = hits.trace(p4, charge, z0, np.random.default_rng(0))
    charged = charge != 0
    pt, eta, phi = (a[charged][got.particle_id.numpy() - 1] for a in polar(p4))
    q, z0 = (a[charged][got.particle_id.numpy() - 1] for a in (charge, z0))
    radius = 1000 * pt / 0.6
    centre = np.stack([radius * np.sin(phi) * q, -radius * np.cos(phi) * q])
    x, y, z = got.xyz.numpy().T
    assert np.allclose(np.hypot(x - centre[0], y - centre[1]), radius, rtol=1e-9)
    turn = 2 * np.arcsin(np.hypot(x, y) / (2 * radius))
    assert np.allclose(z, z0 + radius * turn * np.sinh(eta), atol=1e-6)
    assert np.allclose(got.pt.numpy(), pt)
    layers = {(v, k): i for i, (v, k) in enumerate(PIXEL_LAYERS)}
    index = np.array([layers[pair] for pair in zip(got.volume.tolist(), got.layer.tolist(), strict=True)])
    for k, r in enumerate(BARREL_RADII):
        assert np.allclose(np.hypot(x, y)[index == k], r)
    # TrackML numbers discs by even layers: 14 is next to the barrel at negative z, 2 at positive z
    for k, distance in enumerate(hits.DISCS):
        assert np.allclose(z[(got.volume == 7).numpy() & (got.layer == 14 - 2 * k).numpy()], -distance)
        assert np.allclose(z[(got.volume == 9).numpy() & (got.layer == 2 + 2 * k).numpy()], distance)
    assert len(set(index)) == len(PIXEL_LAYERS)


def test_scattering_grows_along_the_path_and_with_slowness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hits, "PIXEL", (0.0, 0.0))

    def spread(pt: float) -> list[float]:
        p4 = massless(np.full(2000, pt), np.zeros(2000), np.zeros(2000))
        got = hits.trace(p4, np.ones(2000), np.zeros(2000), np.random.default_rng(0))
        return [float(got.xyz[got.layer == layer, 2].std()) for layer in (2, 4, 6, 8)]

    slow, fast = spread(0.5), spread(5.0)
    assert slow[0] == 0
    assert slow[1] < slow[2] < slow[3]
    assert slow[3] == pytest.approx(10 * fast[3], rel=0.1)
    assert slow[1] == pytest.approx(0.0136 / 0.5 * 0.025**0.5 * (72 - 32), rel=0.1)


def test_hits_in_files_and_graphs(tmp_path: Path) -> None:
    got = hits.trace(*bundle(low=1.0), np.random.default_rng(0))
    hits.write_trackml(tmp_path / "event000000000", got)
    again = load_trackml(tmp_path / "event000000000")
    for name in ("xyz", "volume", "layer", "hit_id", "particle_id", "pt"):
        assert torch.equal(getattr(again, name), getattr(got, name)), name
    graph = hit_graph(again)
    assert graph.graph.num_edges > 50
    assert graph.y.float().mean() > 0.5
