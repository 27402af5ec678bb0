"""A parametrised detector: the numbers of Delphes's ATLAS card (arXiv 1307.6346) applied to lists of particles.

A solenoid of 2 T with a radius of 1.15 m bends charged particles until the calorimeter. Tracks have efficiencies and
momentum resolutions, towers have energy resolutions and thresholds. Energy flow: towers whose energy exceeds that of
their tracks by two standard deviations become neutral objects; elsewhere tracks get the best estimate of both energies.
Not simulated: pile-up, the place where a particle is produced (all start at the origin), |eta| > 3.2, overlaps of
tracks, isolation.
"""

from __future__ import annotations

import numpy as np

from .pythia import Array

FIELD, RADIUS, HALF_LENGTH = 2.0, 1.15, 3.51  # T, m, m
ETA_MAX = 3.2
INVISIBLE = (12, 14, 16)
# |eta| up to 0.5, 1.5, 2.5: constant term and coefficient of pt of the relative resolution.
RESOLUTION = {
    11: ((0.03, 0.05, 0.15), (1.3e-3, 1.7e-3, 3.1e-3)),
    13: ((0.01, 0.015, 0.025), (1.0e-4, 1.5e-4, 3.5e-4)),
    0: ((0.06, 0.10, 0.25), (1.3e-3, 1.7e-3, 3.1e-3)),
}
# |eta| up to 1.5, 2.5: efficiencies for pt up to 1, up to 100 and above, GeV.
EFFICIENCY = {
    11: ((0.73, 0.95, 0.99), (0.50, 0.83, 0.90)),
    13: ((0.75, 0.99, 0.99), (0.70, 0.98, 0.98)),
    0: ((0.70, 0.95, 0.95), (0.60, 0.85, 0.85)),
}
TRACK_MIN, TRACK_ETA = 0.1, 2.5
# Size of a tower in eta and phi, threshold in GeV and in standard deviations.
ECAL, HCAL = (0.0174, np.pi / 180, 0.5, 2.0), (0.1, np.pi / 18, 1.0, 2.0)


def simulate(p4: Array, pdg_id: Array, charge: Array, event: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Stable particles to energy-flow objects.

    Args:
        p4: [n, 4] (E, px, py, pz), GeV.
        pdg_id, charge, event: [n].
        rng: of the efficiencies and resolutions.

    Returns:
        (massless p4 [m, 4], event [m]).
    """
    kind = np.abs(pdg_id)
    pt, eta, phi = polar(p4)
    seen = ~np.isin(kind, INVISIBLE) & (pt > 0)
    p4, kind, charge, event, pt, eta, phi = (a[seen] for a in (p4, kind, charge, event, pt, eta, phi))
    energy = p4[:, 0]
    at_eta, at_phi = _at_calorimeter(pt, eta, phi, charge)

    species = np.where(np.isin(kind, (11, 13)), kind, 0)
    track = (charge != 0) & (rng.random(len(pt)) < _efficiency(species, pt, np.abs(eta)))
    sigma = _resolution(species, pt, np.abs(eta))
    track_pt = lognormal(pt, sigma * pt, rng)

    electromagnetic = np.where(np.isin(kind, (11, 22, 111)), 1.0, np.where(np.isin(kind, (310, 3122)), 0.3, 0.0))
    hadronic = np.where(kind == 13, 0.0, 1.0 - electromagnetic)
    reach = np.abs(at_eta) < ETA_MAX
    towers = []
    scale = np.ones(len(pt))
    for share, size, resolution in ((electromagnetic, ECAL, _ecal), (hadronic, HCAL, _hcal)):
        hit = np.flatnonzero(reach & (share > 0))
        # tracks of K0 and Lambda do not exist: a track has all its energy in one calorimeter
        tracked = (track & (share == 1))[hit]
        track_energy = (track_pt * np.cosh(eta))[hit] * tracked
        found, factor = _calorimeter(
            (event[hit], at_eta[hit], at_phi[hit], energy[hit] * share[hit]),
            track_energy,
            sigma[hit],
            size,
            resolution,
            rng,
        )
        towers.append(found)
        scale[hit] *= np.where(tracked, factor, 1.0)
    tracks = massless(track_pt * scale, eta, phi)[track]
    objects = np.concatenate([tracks, *(p for p, _ in towers)])
    return objects, np.concatenate([event[track], *(e for _, e in towers)])


def polar(p4: Array) -> tuple[Array, Array, Array]:
    """(pt, eta, phi)."""
    pt = np.hypot(p4[:, 1], p4[:, 2])
    return pt, np.arcsinh(p4[:, 3] / np.maximum(pt, 1e-12)), np.arctan2(p4[:, 2], p4[:, 1])


def massless(pt: Array, eta: Array, phi: Array) -> Array:
    return np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=1)


def lognormal(mean: Array, sigma: Array, rng: np.random.Generator) -> Array:
    """Of the given mean and standard deviation; 0 stays 0."""
    safe = np.maximum(mean, 1e-12)
    b2 = np.log1p((sigma / safe) ** 2)
    return np.where(mean > 0, np.exp(np.log(safe) - b2 / 2 + np.sqrt(b2) * rng.standard_normal(len(mean))), 0.0)


def _at_calorimeter(pt: Array, eta: Array, phi: Array, charge: Array) -> tuple[Array, Array]:
    """(eta, phi) seen from the origin of the point where a particle enters the calorimeter."""
    bent = charge != 0
    radius = np.where(bent, pt / (0.3 * FIELD * np.where(bent, np.abs(charge), 1)), np.inf)  # m
    with np.errstate(invalid="ignore", divide="ignore"):
        barrel = 2 * np.arcsin(np.minimum(RADIUS / (2 * radius), 1.0))  # turning angle at the barrel
        endcap = np.where(bent, HALF_LENGTH / (radius * np.abs(np.sinh(eta))), np.inf)
    ends = (endcap < barrel) | (2 * radius < RADIUS)
    angle = np.where(ends, endcap, barrel)
    angle = np.where(np.isfinite(angle), angle, 0.0)
    chord = 2 * np.where(bent, radius, 0.0) * np.sin(angle / 2)
    z = np.where(bent, radius, 0.0) * angle * np.sinh(eta)
    at_phi = phi - np.sign(charge) * angle / 2 + np.where(chord < 0, np.pi, 0.0)
    at_eta = np.arcsinh(z / np.maximum(np.abs(chord), 1e-9))
    at_phi = np.where(bent, (at_phi + np.pi) % (2 * np.pi) - np.pi, phi)
    return np.where(bent, at_eta, eta), at_phi


def _efficiency(species: Array, pt: Array, eta: Array) -> Array:
    step = np.searchsorted([1.0, 100.0], pt)
    region = (eta > 1.5).astype(int)
    table = np.zeros(len(pt))
    for kind, values in EFFICIENCY.items():
        rows = species == kind
        table[rows] = np.array(values)[region[rows], step[rows]]
    return np.where((pt > TRACK_MIN) & (eta <= TRACK_ETA), table, 0.0)


def _resolution(species: Array, pt: Array, eta: Array) -> Array:
    """Relative."""
    region = np.searchsorted([0.5, 1.5], eta)
    sigma = np.zeros(len(pt))
    for kind, (constant, slope) in RESOLUTION.items():
        rows = species == kind
        sigma[rows] = np.hypot(np.array(constant)[region[rows]], np.array(slope)[region[rows]] * pt[rows])
    return sigma


def _ecal(energy: Array, eta: Array) -> Array:
    return np.sqrt((0.0017 * energy) ** 2 + energy * 0.101**2)


def _hcal(energy: Array, eta: Array) -> Array:
    barrel = (0.0302 * energy) ** 2 + energy * 0.5205**2 + 1.59**2
    return np.sqrt(np.where(eta <= 1.7, barrel, (0.05 * energy) ** 2 + energy * 0.706**2))


def _calorimeter(
    deposits: tuple[Array, Array, Array, Array],
    track_energy: Array,
    track_sigma: Array,
    size: tuple[float, float, float, float],
    resolution: object,
    rng: np.random.Generator,
) -> tuple[tuple[Array, Array], Array]:
    """((p4 of neutral objects, their events), factor of the track of each deposit)."""
    event, eta, phi, energy = deposits
    d_eta, d_phi, least, deviations = size
    row, column = np.floor(eta / d_eta).astype(np.int64), np.floor((phi + np.pi) / d_phi).astype(np.int64)
    key = (event << 24) + ((row + 2048) << 12) + column
    towers, of = np.unique(key, return_inverse=True)

    def total(values: Array) -> Array:
        return np.bincount(of, values, minlength=len(towers))

    low_eta, low_phi = (((towers >> 12) & 4095) - 2048) * d_eta, (towers & 4095) * d_phi - np.pi
    middle = np.abs(low_eta + d_eta / 2)
    mean, tracks = total(energy), total(track_energy)
    sigma_tracks = np.sqrt(total((track_sigma * track_energy) ** 2))
    measured = lognormal(mean, resolution(mean, middle), rng)  # type: ignore[operator]
    sigma = resolution(measured, middle)  # type: ignore[operator]
    measured = np.where((measured < least) | (measured < deviations * sigma), 0.0, measured)
    sigma = resolution(np.maximum(measured, least), middle)  # type: ignore[operator]

    neutral = np.maximum(measured - tracks, 0)
    keep = (neutral > least) & (neutral > deviations * np.hypot(sigma, sigma_tracks))
    at_eta, at_phi = (low + step * rng.random(len(towers)) for low, step in ((low_eta, d_eta), (low_phi, d_phi)))
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = 1 / sigma_tracks**2, 1 / sigma**2
        best = (weights[0] * tracks + weights[1] * measured) / (weights[0] + weights[1])
        factor = np.where(keep | (tracks == 0) | (sigma_tracks == 0), 1.0, best / tracks)
    objects = massless(neutral / np.cosh(at_eta), at_eta, at_phi)[keep]
    return (objects, (towers >> 24)[keep]), factor[of]
