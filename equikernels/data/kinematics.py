"""Features of particles in the frame of the detector, for networks without Lorentz symmetry.

All are functions of packed four-momenta (E, px, py, pz) in GeV, computed in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import REAL, check_integer, check_number, check_tensor
from ..graph import Graph
from ..ops.segment import segment_reduce
from ..packing import check_offsets
from .order import warn_of_order

TINY = 1e-8  # GeV: the lowest transverse momentum and energy of logarithms and angles

# (centre, scale) of the columns of kinematic_features in weaver's configurations for top tagging: (x - centre) * scale
STANDARD = ((1.7, 0.7), (2.0, 0.7), (-4.7, 0.7), (-4.7, 0.7), (0.2, 4.0), (0.0, 1.0), (0.0, 1.0))


class Cylindrical(NamedTuple):
    """float64 [n] each: transverse momentum, energy, pseudorapidity, rapidity, azimuth."""

    pt: Tensor
    energy: Tensor
    eta: Tensor
    rapidity: Tensor
    phi: Tensor


def cylindrical(p4: Tensor) -> Cylindrical:
    """Of four-momenta [n, 4]; pT and E are at least 1e-8 GeV, and so are E + pz and E - pz in the rapidity."""
    e, px, py, pz = p4.double().unbind(-1)
    pt = torch.stack([px, py], dim=1).norm(dim=1).clamp(min=TINY)
    rapidity = 0.5 * ((e + pz).clamp(min=TINY) / (e - pz).clamp(min=TINY)).log()
    return Cylindrical(pt, e.clamp(min=TINY), torch.asinh(pz / pt), rapidity, torch.atan2(py, px))


def wrapped(phi: Tensor) -> Tensor:
    """Angles in [-pi, pi)."""
    return torch.remainder(phi + math.pi, 2 * math.pi) - math.pi


def kinematic_features(p4: Tensor, ptr: Tensor, *, standardised: bool = False, validate: bool = True) -> Tensor:
    r"""The seven features of particles that ParticleNet (arXiv 1902.08570), P-CNN and ParT read.

    .. math:: \ln p_T, \; \ln E, \; \ln(p_T / p_T^{jet}), \; \ln(E / E^{jet}), \; \Delta R, \; \Delta\eta, \; \Delta\phi

    with the pseudorapidity eta and phi relative to the axis of the jet, the sum of its particles; Delta phi is in
    [-pi, pi).

    Args:
        p4: [n, 4] particles, float32 or float64.
        ptr: int64 [B + 1].
        standardised: (x - centre) * scale by the numbers of :data:`STANDARD`, as the published configurations do.
        validate: check the values of ``ptr`` (on CUDA this synchronises).

    Returns:
        [n, 7] in the dtype of p4.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device.
    """
    events = _events("kinematic_features", p4, ptr, validate)
    p, jet = cylindrical(p4), cylindrical(_jets(p4, events))
    of = events.receiver
    eta, phi = p.eta - jet.eta[of], wrapped(p.phi - jet.phi[of])
    away = torch.stack([eta, phi], dim=1).norm(dim=1)
    logs = [p.pt.log(), p.energy.log(), (p.pt / jet.pt[of]).log(), (p.energy / jet.energy[of]).log()]
    features = torch.stack([*logs, away, eta, phi], dim=1)
    if standardised:
        centre, scale = features.new_tensor(STANDARD).unbind(1)
        features = (features - centre) * scale
    return features.to(p4.dtype)


def energy_flow(p4: Tensor, ptr: Tensor, *, validate: bool = True) -> Tensor:
    """(z, Delta y, Delta phi) of every particle: its share of the event's summed pT, and its rapidity and azimuth
    relative to the jet's, the sum of the particles. The inputs of PFN, EFN (arXiv 1810.05165) and EFPs.

    Args:
        p4: [n, 4], float32 or float64.
        ptr: int64 [B + 1].
        validate: check the values of ``ptr`` (on CUDA this synchronises).

    Returns:
        [n, 3] in the dtype of p4; Delta phi is in [-pi, pi).

    Raises:
        ValueError, TypeError: wrong shape, dtype or device.
    """
    events = _events("energy_flow", p4, ptr, validate)
    p, jet = cylindrical(p4), cylindrical(_jets(p4, events))
    of = events.receiver
    z = p.pt / segment_reduce(p.pt, events)[of]
    return torch.stack([z, p.rapidity - jet.rapidity[of], wrapped(p.phi - jet.phi[of])], dim=1).to(p4.dtype)


def jet_images(p4: Tensor, ptr: Tensor, pixels: int = 64, width: float = 1.6, *, validate: bool = True) -> Tensor:
    """Images of jets: the share of the event's summed pT in every pixel of a square around the jet's axis.

    Args:
        p4: [n, 4], float32 or float64.
        ptr: int64 [B + 1].
        pixels: along each side.
        width: of the square, in Delta eta and Delta phi; 64 pixels of 0.025 by default. Particles outside are left out.
        validate: check the values of ``ptr`` (on CUDA this synchronises).

    Returns:
        [B, 1, pixels, pixels] in the dtype of p4; rows are Delta eta, columns Delta phi.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device.
    """
    op = "jet_images"
    check_integer(op, "pixels", pixels, "a number >= 1", 1)
    check_number(op, "width", width, 0)
    events = _events(op, p4, ptr, validate)
    p, jet = cylindrical(p4), cylindrical(_jets(p4, events))
    of = events.receiver
    z = p.pt / segment_reduce(p.pt, events)[of]
    away = torch.stack([p.eta - jet.eta[of], wrapped(p.phi - jet.phi[of])], dim=1)
    cell = torch.floor((away / width + 0.5) * pixels)
    inside = ((cell >= 0) & (cell < pixels)).all(1)
    row, column = torch.where(inside[:, None], cell, 0).long().unbind(1)
    place = (of * pixels + row) * pixels + column
    # sums over a graph of particles and pixels, which have one order on every device
    into = Graph.from_edge_index(torch.stack([place, place]), events.num_nodes * pixels * pixels, validate=False)
    image = segment_reduce(torch.where(inside, z, 0.0), into)
    return image.view(events.num_nodes, 1, pixels, pixels).to(p4.dtype)


def boosted(p4: Tensor, ptr: Tensor, beta: Tensor, *, validate: bool = True) -> Tensor:
    r"""Events in a frame that moves along x.

    .. math:: E' = \gamma (E - \beta p_x), \quad p_x' = \gamma (p_x - \beta E), \quad \gamma = 1 / \sqrt{1 - \beta^2}

    Args:
        p4: [n, 4], float32 or float64.
        ptr: int64 [B + 1].
        beta: [B], the velocity for every event, between -1 and 1, in units of that of light.
        validate: check the values of ``ptr`` (on CUDA this synchronises).

    Returns:
        [n, 4] in the dtype of p4.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device.
    """
    op = "boosted"
    events = _events(op, p4, ptr, validate)
    check_tensor(op, "beta", beta, [events.num_nodes], REAL)
    beta = beta.double()[events.receiver]
    gamma = (1 - beta * beta).rsqrt()
    e, px, py, pz = p4.double().unbind(1)
    return torch.stack([gamma * (e - beta * px), gamma * (px - beta * e), py, pz], dim=1).to(p4.dtype)


def aligned(p4: Tensor, ptr: Tensor, *, validate: bool = True) -> Tensor:
    """Events turned about the beam and boosted along it, so that the sum of the particles is along +x and has pz = 0.

    Args:
        p4: [n, 4], float32 or float64.
        ptr: int64 [B + 1].
        validate: check the values of ``ptr`` (on CUDA this synchronises).

    Returns:
        [n, 4] in the dtype of p4.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device.
    """
    events = _events("aligned", p4, ptr, validate)
    jet = cylindrical(_jets(p4, events))
    cos, sin, cosh, sinh = (
        t[events.receiver] for t in (jet.phi.cos(), jet.phi.sin(), jet.rapidity.cosh(), jet.rapidity.sinh())
    )
    e, px, py, pz = p4.double().unbind(1)
    rows = [e * cosh - pz * sinh, px * cos + py * sin, py * cos - px * sin, pz * cosh - e * sinh]
    return torch.stack(rows, dim=1).to(p4.dtype)


def _events(op: str, p4: Tensor, ptr: Tensor, validate: bool) -> Graph:
    check_tensor(op, "p4", p4, ["n", 4], REAL)
    check_offsets(op, ptr, p4, validate=validate and not torch.compiler.is_compiling())
    warn_of_order(op, "p4", p4)
    return Graph.complete(ptr, num_nodes=p4.shape[0], validate=False).events


def _jets(p4: Tensor, events: Graph) -> Tensor:
    return segment_reduce(p4.double(), events)
