"""Tests PELICAN with strict_irc: invariance under soft particles and collinear splittings, also of one particle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.data import load_sample_jets
from equikernels.models import PELICANClassifier, PELICANRegressor
from equikernels.models.pelican_inputs import strict_jet_frame

from ..support.golden import filled
from ..support.pelican import relative, small
from ..support.tools import boost

JETS = load_sample_jets()[:12]
# float32 momenta: parts of a particle are rounded apart by 1e-7, which angles between them enter squared, but angles to
# other particles linearly; a float32 network adds the rounding of its own sums
TOLERANCES = {
    (torch.float64, torch.float64): 1e-12,
    (torch.float64, torch.float32): 1e-7,
    (torch.float32, torch.float32): 2e-6,
}


def massless(p4: Tensor, dtype: torch.dtype) -> Tensor:
    p = p4[:, 1:].to(dtype)
    return torch.cat([p.double().norm(dim=1, keepdim=True).to(dtype), p], dim=1)


def network(kind: type[torch.nn.Module], letter: str, dtype: torch.dtype, **options: Any) -> torch.nn.Module:
    return filled(kind(**small(config=letter, config_out=letter, strict_irc=True, **options))).eval().to(dtype)


def results(model: torch.nn.Module, p4: Tensor, ptr: Tensor) -> Tensor:
    out = model(p4, ptr)
    return (out[0] if isinstance(out, tuple) else out).double().detach()


def singles(dtype: torch.dtype) -> Tensor:
    """200 massless particles of 20 to 520 GeV in all directions."""
    generator = torch.Generator().manual_seed(1)
    p = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    energy = 20 + 500 * torch.rand(200, 1, generator=generator, dtype=torch.float64)
    p = p / p.norm(dim=1, keepdim=True) * energy
    return massless(torch.cat([energy, p], dim=1), dtype)


def split(p4: Tensor, ptr: Tensor, parts: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Splits one particle of each event into random fractions of its momentum, each rounded."""
    generator = torch.Generator().manual_seed(2)
    events = []
    for event in p4.double().split(ptr.diff().tolist()):
        k = int(torch.randint(len(event), (1,), generator=generator))
        fractions = torch.rand(parts, 1, generator=generator, dtype=torch.float64) + 1e-3
        pieces = fractions / fractions.sum() * event[k]
        event = torch.cat([event[:k], pieces, event[k + 1 :]])
        events.append(event[torch.randperm(len(event), generator=generator)])
    packed, new_ptr = ek.pack_list(events)
    return massless(packed, dtype), new_ptr


@pytest.mark.parametrize("dtypes", TOLERANCES, ids=str)
@pytest.mark.parametrize("letter", ["s", "m", "M", "S"])
def test_splittings_of_a_particle(letter: str, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """In a jet of many particles, and as the only particle."""
    classifier = network(PELICANClassifier, letter, dtypes[0])
    alone = singles(dtypes[1])[:40], torch.arange(41)
    for p4, ptr in ((massless(JETS.p4, dtypes[1]), JETS.ptr), alone):
        out = results(classifier, p4, ptr)
        for parts in (2, 3, 6):
            again = results(classifier, *split(p4, ptr, parts, dtypes[1]))
            assert relative(again, out) < TOLERANCES[dtypes]


@pytest.mark.parametrize("dtypes", TOLERANCES, ids=str)
@pytest.mark.parametrize("letter", ["s", "m", "M", "S"])
def test_single_particles_all_give_one_result(letter: str, dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """Neither energy, direction nor the sign of a rounded squared mass enters."""
    classifier = network(PELICANClassifier, letter, dtypes[0])
    p4 = singles(dtypes[1])
    moved = p4.clone()
    moved[:, 0] *= 1 + torch.linspace(-1e-6, 1e-6, 200, dtype=p4.dtype)
    for given in (p4, moved):
        out = results(classifier, given, torch.arange(201))
        assert relative(out, out[:1].expand_as(out)) < min(TOLERANCES[dtypes], 1e-6)
    empty = results(classifier, p4[:0], torch.tensor([0, 0]))
    assert relative(out[:1], empty) > 1e-4  # its weight is 1, not 0


@pytest.mark.parametrize("letter", ["s", "m", "M", "S"])
def test_soft_particles(letter: str) -> None:
    """The result converges to that without soft particles as their energy goes to 0."""
    classifier = network(PELICANClassifier, letter, torch.float64)
    p4, ptr = massless(JETS.p4, torch.float64), JETS.ptr
    out = results(classifier, p4, ptr)
    generator = torch.Generator().manual_seed(3)
    extra = torch.randn(len(JETS), 4, generator=generator, dtype=torch.float64)
    changes = []
    for energy in (1e-2, 1e-6, 1e-10, 1e-14, 0.0):
        soft = massless(energy * extra, torch.float64)
        events = [torch.cat([event, soft[b : b + 1]]) for b, event in enumerate(p4.split(ptr.diff().tolist()))]
        changes.append(relative(results(classifier, *ek.pack_list(events)), out))
    assert changes == sorted(changes, reverse=True)
    assert changes[1] < 1e-4
    assert changes[2] < 1e-8
    assert changes[3] < 1e-12
    assert changes[4] < 1e-13


def test_the_regressor_is_as_safe() -> None:
    regressor = network(PELICANRegressor, "s", torch.float64, num_targets=2)
    alone = singles(torch.float64)[:20], torch.arange(21)
    for p4, ptr in ((massless(JETS.p4, torch.float64), JETS.ptr), alone):
        assert relative(results(regressor, *split(p4, ptr, 3, torch.float64)), results(regressor, p4, ptr)) < 1e-12


def test_parts_have_the_scalars_of_the_whole() -> None:
    classifier = filled(PELICANClassifier(**small(config="s", config_out="s", strict_irc=True, dataset="jc"))).eval()
    p4, ptr = massless(JETS.p4[:5], torch.float64), torch.tensor([0, 5])
    scalars = torch.randn(5, 12, dtype=torch.float64)
    parts = torch.cat([0.2 * p4[2:3], 0.8 * p4[2:3]])
    out = classifier(p4, ptr, scalars)
    order = [0, 1, 2, 2, 3, 4]
    again = classifier(torch.cat([p4[:2], parts, p4[3:]]), torch.tensor([0, 6]), scalars[order])
    assert relative(again, out) < 1e-12


def test_frames_do_not_matter() -> None:
    classifier = network(PELICANClassifier, "s", torch.float64)
    p4 = massless(JETS.p4, torch.float64)
    assert relative(results(classifier, p4 @ boost(1.0).t(), JETS.ptr), results(classifier, p4, JETS.ptr)) < 1e-10


def test_angles_between_near_particles_are_those_of_their_momenta() -> None:
    """Products of massless particles a hundredth of a degree apart, to all digits; E_i E_j - p_i p_j keeps few."""
    theta = 1e-4
    directions = torch.tensor([[1.0, 0, 0, 1], [1, torch.tensor(theta).sin(), 0, torch.tensor(theta).cos()]])
    p4 = massless(directions * torch.tensor([[300.0], [200.0]]), torch.float32).double().requires_grad_()
    model = network(PELICANClassifier, "s", torch.float64)
    pairs = ek.Graph.complete(torch.tensor([0, 2]), True)
    weight, angles, dots = strict_jet_frame(p4, pairs)
    exact = p4[0, 1:].norm() * p4[1, 1:].norm() - (p4[0, 1:] * p4[1, 1:]).sum()
    assert dots[1].item() == pytest.approx(exact.item(), rel=1e-6)
    assert dots[1].item() == pytest.approx(300 * 200 * theta**2 / 2, rel=1e-3)
    assert dots[0] == dots[3] == 0
    torch.testing.assert_close(weight, torch.full((2,), 0.5, dtype=torch.float64))
    torch.testing.assert_close(angles[1:3], torch.full((2, 1), 4.0, dtype=torch.float64))
    for event in (p4, p4[:1]):
        (grad,) = torch.autograd.grad(model(event, torch.tensor([0, len(event)])).sum(), p4)
        assert grad.isfinite().all()
