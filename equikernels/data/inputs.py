"""Inputs of LorentzNet (arXiv 2201.08187). Four-momenta are (E, px, py, pz) in GeV."""

from __future__ import annotations

import torch
from torch import Tensor

from ..checks import REAL, check_tensor, fail
from ..graph import Graph
from ..metric import minkowski_square, psi
from ..packing import check_offsets, prepend
from .order import warn_of_order

# The particle species of quark/gluon tagging, in the order of their one-hot columns: e, mu, gamma, K_L, pi, K, n, p.
PDG_IDS = (11, 13, 22, 130, 211, 321, 2112, 2212)


def invariant_mass(p4: Tensor) -> Tensor:
    """sqrt(|E^2 - p^2|) of each row.

    The square is computed as in :func:`equikernels.pairwise_invariants`: for float32 numbers in float64, for float64
    numbers in twice that precision. The result is the mass of the given numbers. A massless particle whose momentum was
    rounded to float32 has a mass of about 3e-4 E, rounded to float64 of about 1e-8 E.

    Args:
        p4: [n, 4], float32 or float64, GeV.

    Returns:
        [n] in the dtype of p4, GeV; NaN if a component is NaN. The derivative at mass 0, which does not exist, is set
        to 0.
    """
    check_tensor("invariant_mass", "p4", p4, ["n", 4], REAL)
    mass2 = minkowski_square(p4).abs()
    zero = mass2 == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, mass2).sqrt()).to(p4.dtype)


def with_beams(p4: Tensor, ptr: Tensor, *, validate: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Prepends the two beams, (sqrt 2, 0, 0, +1) and (sqrt 2, 0, 0, -1) of unit mass, to every jet.

    LorentzNet on jets with beams is invariant under Lorentz transformations of jets and beams together.

    Args:
        p4: [n, 4] constituents, float32 or float64.
        ptr: int64 [B + 1].
        validate: check the values of ``ptr`` (on CUDA this synchronises with the device; ``torch.compile`` and
            ``torch.export`` skip it). Without it nothing is copied to the host, and a wrong ``ptr`` is undefined
            behaviour.

    Returns:
        (x [n + 2 B, 4], ptr int64 [B + 1] of x, is_beam bool [n + 2 B]).

    Raises:
        ValueError, TypeError: wrong shape, dtype or device; ``ptr`` does not start at 0, decreases or does not end at
            n.

    Warns:
        UserWarning: most rows have E < |p|, as in (px, py, pz, E). Checked on the CPU only.
    """
    op = "with_beams"
    check_tensor(op, "p4", p4, ["n", 4], REAL)
    check_offsets(op, ptr, p4, validate=validate and not torch.compiler.is_compiling())
    warn_of_order(op, "p4", p4)
    jets = Graph.complete(ptr, True, num_nodes=p4.shape[0], validate=False)
    beams = p4.new_tensor([[2**0.5, 0, 0, 1], [2**0.5, 0, 0, -1]])
    table = jets.table
    (x, is_beam), both = prepend(jets, (p4, beams), (table.new_zeros(p4.shape[0], 1), table.new_ones(2, 1)))
    assert both.ptr is not None
    return x, both.ptr, is_beam.squeeze(1).bool()


def top_tagging_scalars(x: Tensor, is_beam: Tensor) -> Tensor:
    """Scalars of LorentzNet for top tagging: psi(onehot * mass), columns (constituent, beam).

    Args:
        x: [n, 4] four-momenta with beams (:func:`with_beams`), float32 or float64, GeV.
        is_beam: bool [n].

    Returns:
        [n, 2] in the dtype of x: (psi(m), 0) for constituents, (0, ln 2) for beams.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device.

    Warns:
        UserWarning: as :func:`with_beams`.
    """
    op = "top_tagging_scalars"
    check_tensor(op, "x", x, ["n", 4], REAL)
    check_tensor(op, "is_beam", is_beam, [x.shape[0]], [torch.bool])
    if is_beam.device != x.device:
        fail(op, "is_beam", f"device {x.device}", is_beam.device)
    warn_of_order(op, "x", x)
    kind = torch.stack([~is_beam, is_beam], dim=1)
    return psi(kind * invariant_mass(x).unsqueeze(1))


def particle_scalars(pdg_id: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The 12 scalars of a particle that PELICAN reads with ``dataset="qg"``, from its PDG id alone.

    Args:
        pdg_id: integers [n].
        dtype: of the result.

    Returns:
        [n, 12]: charge -1, 0 or +1 (one-hot); charged hadron, neutral hadron, photon, electron, muon (one-hot); four
        zeros where JetClass has impact parameters.

    Raises:
        TypeError: not integers.
    """
    op = "particle_scalars"
    check_tensor(op, "pdg_id", pdg_id, ["n"], [torch.int64, torch.int32, torch.int16])
    kind = pdg_id.abs()
    electron, muon, photon = kind == 11, kind == 13, kind == 22
    neutral = (kind == 130) | (kind == 310) | (kind == 2112) | (kind == 3122) | (kind == 3322)
    hadron = ~(electron | muon | photon | neutral)
    # negatively charged: e-, mu-, and baryons and mesons of an id below 0, but for Sigma-, Xi- and Omega-
    negative = torch.where(electron | muon | (kind == 3112) | (kind == 3312) | (kind == 3334), pdg_id > 0, pdg_id < 0)
    charged = electron | muon | hadron
    columns = (charged & negative, ~charged, charged & ~negative, hadron, neutral, photon, electron, muon)
    known = torch.stack(columns, dim=1).to(dtype)
    return torch.nn.functional.pad(known, (0, 4))


def quark_gluon_scalars(pdg_id: Tensor, dtype: torch.dtype = torch.float32, *, validate: bool = True) -> Tensor:
    """Scalars of LorentzNet for quark/gluon tagging: one-hot |PDG id| over :data:`PDG_IDS`.

    Args:
        pdg_id: integers [n].
        dtype: of the result.
        validate: reject other ids (on CUDA this synchronises with the device); without it their rows are 0.

    Returns:
        [n, 8].

    Raises:
        ValueError: an id that is not in the list.
        TypeError: not integers.
    """
    op = "quark_gluon_scalars"
    check_tensor(op, "pdg_id", pdg_id, ["n"], [torch.int64, torch.int32, torch.int16])
    one_hot = pdg_id.abs().unsqueeze(1) == torch.tensor(PDG_IDS, device=pdg_id.device)
    if validate and not bool(one_hot.any(1).all()):
        unknown = sorted(set(pdg_id[~one_hot.any(1)].tolist()))
        fail(op, "pdg_id", f"|id| in {list(PDG_IDS)}", unknown[:8])
    return one_hot.to(dtype)
