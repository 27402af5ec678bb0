"""Hits like those of TrackML (arXiv 1904.06778) in its pixel detector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..checks import check_integer
from ..data import Hits
from ..data.hits import BARREL, BARREL_HALF_LENGTH, BARREL_RADII, PIXEL_LAYERS
from .detector import polar
from .pythia import Array, Generator, progress

ENERGY = 14_000.0  # GeV
FIELD = 2.0  # T
PILE_UP = 200
BEAM = 55.0  # mm, spread of collisions along the beam
DISCS = (600.0, 700.0, 820.0, 960.0, 1100.0, 1300.0, 1500.0)  # mm
DISC_RADII = (30.0, 176.0)  # mm
PIXEL = (0.05, 0.05625)  # mm, across and along
THICKNESS = 0.025  # of a layer, in radiation lengths
PT_MIN, PRODUCTION = 0.1, 1.0  # GeV, mm from the beam


def generate_hits(number: int, seed: int = 0, pile_up: float = PILE_UP) -> Iterator[Hits]:
    """Simulates events: a pair of top quarks among soft collisions, charged particles as helices through the layers.

    Pythia 8 at 14 TeV, a field of 2 T, the four barrel layers and fourteen discs of TrackML's pixel detector, multiple
    scattering, hits anywhere in their pixel. Not simulated: noise, inefficiency, secondaries produced more than 1 mm
    from the beam, energy loss, more than half a turn. The same seed gives the same events.

    Args:
        number: of events.
        seed: of all random numbers.
        pile_up: mean number of soft collisions.

    Yields:
        Hits of one event, sorted by layer.

    Raises:
        ImportError: a library of the extra ``generate`` is not installed.
    """
    check_integer("generate_hits", "number", number, "at least 1", 1)
    check_integer("generate_hits", "seed", seed, "at least 0", 0)
    return _events(number, seed, pile_up)


def _events(number: int, seed: int, pile_up: float) -> Iterator[Hits]:
    hard = Generator(2 * seed, ENERGY, ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on"))
    soft = Generator(2 * seed + 1, ENERGY, ("SoftQCD:inelastic = on",))
    rng = np.random.default_rng([seed, 3])
    with progress(number, "event") as bar:
        for _ in range(number):
            momenta, charges, vertices = [], [], []
            for generator, events in ((hard, 1), (soft, int(rng.poisson(pile_up)))):
                if events == 0:
                    continue
                particles = generator.next(events)
                z = rng.normal(0, BEAM, particles.events)
                final = (particles.status > 0) & (np.hypot(*particles.vertex[:, :2].T) < PRODUCTION)
                charge = generator.charge(particles.pdg_id[final])
                momenta.append(particles.p4[final])
                charges.append(charge)
                vertices.append(z[particles.event[final]] + particles.vertex[final, 2])
            yield trace(np.concatenate(momenta), np.concatenate(charges), np.concatenate(vertices), rng)
            bar.update()


def trace(p4: Array, charge: Array, z0: Array, rng: np.random.Generator) -> Hits:
    """The hits of particles [n] that start at (0, 0, z0); particle k + 1 is row k of those that are charged."""
    pt, eta, phi = polar(p4)
    keep = (charge != 0) & (pt > PT_MIN)
    pt, eta, phi, charge, z0 = (a[keep] for a in (pt, eta, phi, charge, z0))
    radius = 1000 * pt / (0.3 * FIELD * np.abs(charge))  # mm
    lead = np.sinh(eta)
    angle = np.full((len(pt), len(PIXEL_LAYERS)), np.nan)  # turning angle at each layer, NaN without a hit
    for layer, barrel_radius in enumerate(BARREL_RADII):
        turn = 2 * np.arcsin(np.minimum(barrel_radius / (2 * radius), 1.0))
        inside = (barrel_radius < 2 * radius) & (np.abs(z0 + radius * turn * lead) < BARREL_HALF_LENGTH)
        angle[inside, layer] = turn[inside]
    with np.errstate(divide="ignore", invalid="ignore"):
        for side, first in ((-1, BARREL), (1, BARREL + len(DISCS))):
            for k, distance in enumerate(DISCS):
                turn = (side * distance - z0) / (radius * lead)
                reach = 2 * radius * np.sin(turn / 2)
                inside = (turn > 0) & (turn < np.pi) & (reach > DISC_RADII[0]) & (reach < DISC_RADII[1])
                angle[inside, first + k] = turn[inside]

    across, along = _scattering(angle, radius, pt, np.cosh(eta), rng)
    of, at = np.nonzero(np.isfinite(angle))  # the particle and the layer of each hit
    turn, barrel, slope = angle[of, at], at < BARREL, lead[of]
    r = 2 * radius[of] * np.sin(turn / 2)
    azimuth = phi[of] - np.sign(charge[of]) * turn / 2 + across[of, at] / r
    z = z0[of] + radius[of] * turn * slope
    # a deflection along the track's plane moves the hit along the surface: a barrel's in z, a disc's in r
    moved = along[of, at] * np.cosh(eta[of])
    z = z + np.where(barrel, moved, 0.0)
    r = r - np.where(barrel, 0.0, moved / np.where(slope == 0, 1, slope))
    across_pixel, along_pixel = (size * (rng.random(len(r)) - 0.5) for size in PIXEL)
    azimuth = azimuth + across_pixel / r
    z, r = z + np.where(barrel, along_pixel, 0.0), r + np.where(barrel, 0.0, along_pixel)

    order = np.lexsort((of, at))
    of, at, r, azimuth, z = (a[order] for a in (of, at, r, azimuth, z))
    volume, number = np.array(PIXEL_LAYERS)[at].T
    columns = (
        np.stack([r * np.cos(azimuth), r * np.sin(azimuth), z], axis=1),
        volume.astype(np.int64),
        number.astype(np.int64),
        np.arange(1, len(r) + 1),
        of + 1,
        pt[of],
    )
    return Hits(*(torch.from_numpy(np.ascontiguousarray(column)) for column in columns))


def _scattering(angle: Array, radius: Array, pt: Array, cosh: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Displacements [n, layers] in mm, across and along the track's plane, by the layers that were crossed before."""
    order = np.argsort(np.where(np.isfinite(angle), angle, np.inf), axis=1, kind="stable")
    path = np.take_along_axis(angle, order, 1) * (radius * cosh)[:, None]
    crossed = np.isfinite(path)
    path = np.where(crossed, path, 0.0)
    theta0 = 0.0136 / (pt * cosh) * np.sqrt(THICKNESS)  # Highland's formula without the logarithm
    moved = []
    for _ in range(2):
        theta = np.where(crossed, theta0[:, None] * rng.standard_normal(angle.shape), 0.0)
        shift = path * (np.cumsum(theta, 1) - theta) - (np.cumsum(theta * path, 1) - theta * path)
        out = np.zeros_like(shift)
        np.put_along_axis(out, order, shift, 1)
        moved.append(out)
    return moved[0], moved[1]


def write_trackml(prefix: Path, hits: Hits) -> None:
    """Writes ``<prefix>-hits.csv``, ``-truth.csv`` and ``-particles.csv``, which ``load_trackml`` reads. A particle's
    momentum points along x: hits know its transverse part alone."""
    whole = hits.xyz.tolist(), hits.volume.tolist(), hits.layer.tolist()
    rows = zip(hits.hit_id.tolist(), *whole, strict=True)
    owners, first = np.unique(hits.particle_id.numpy(), return_index=True)
    tables = {
        "hits": ("hit_id,x,y,z,volume_id,layer_id", [f"{i},{x!r},{y!r},{z!r},{v},{k}" for i, (x, y, z), v, k in rows]),
        "truth": (
            "hit_id,particle_id",
            [f"{i},{p}" for i, p in zip(hits.hit_id.tolist(), hits.particle_id.tolist(), strict=True)],
        ),
        "particles": (
            "particle_id,px,py",
            [
                f"{p},{pt!r},0"
                for p, pt in zip(owners.tolist(), hits.pt[torch.from_numpy(first)].tolist(), strict=True)
                if p
            ],
        ),
    }
    for kind, (header, lines) in tables.items():
        prefix.with_name(f"{prefix.name}-{kind}.csv").write_text("\n".join([header, *lines]) + "\n")
