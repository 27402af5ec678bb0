"""Sample jets, and the inputs networks make of them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

import equikernels as ek
from equikernels.data import (
    PDG_IDS,
    invariant_mass,
    load_sample_jets,
    quark_gluon_scalars,
    top_tagging_scalars,
    with_beams,
)

from .golden import jets as golden_jets
from .tools import boost


def test_sample_jets_are_jets() -> None:
    jets = load_sample_jets()
    assert len(jets) == 2000
    assert jets.p4.dtype == torch.float32
    assert (jets.ptr.dtype, jets.label.dtype) == (torch.int64, torch.int64)
    assert jets.label.sum() == 1000
    counts = jets.ptr.diff()
    assert (jets.ptr[0], jets.ptr[-1]) == (0, jets.p4.shape[0])
    assert (int(counts.min()), int(counts.max())) == (6, 132)
    jet = torch.zeros(2000, 4, dtype=torch.float64).index_add_(0, torch.repeat_interleave(counts), jets.p4.double())
    pt = jet[:, 1:3].norm(dim=1)
    assert ((pt > 545) & (pt < 655)).all()
    mass = invariant_mass(jet)
    assert 165 < mass[jets.label == 1].median() < 178  # a top quark weighs 173 GeV
    assert mass[jets.label == 0].median() < 90
    falling = jets.p4[:, 1:3].norm(dim=1).diff() <= 0
    falling[jets.ptr[1:-1] - 1] = True
    assert falling.all()


def test_slices_and_batches() -> None:
    jets = load_sample_jets()
    part = jets[3:7]
    assert len(part) == 4
    for b in range(4):
        expected = jets.p4[jets.ptr[3 + b] : jets.ptr[4 + b]]
        assert torch.equal(part.p4[part.ptr[b] : part.ptr[b + 1]], expected)
    assert torch.equal(part.label, jets.label[3:7])
    batches = list(jets[:250].batches(100))
    assert [len(batch) for batch in batches] == [100, 100, 50]
    assert torch.equal(torch.cat([batch.p4 for batch in batches]), jets[:250].p4)
    assert all(batch.ptr[0] == 0 and batch.ptr[-1] == batch.p4.shape[0] for batch in batches)
    for empty in (jets[5:5], jets[7:3], jets[2000:]):
        assert len(empty) == 0
        assert empty.p4.shape == (0, 4)
        assert empty.label.shape == (0,)
    assert len(jets[-2:]) == 2
    with pytest.raises(TypeError, match="Jets: jets: expected a slice"):
        jets[3]
    with pytest.raises(ValueError, match="Jets: jets: expected a slice of step 1, got 2"):
        jets[::2]
    with pytest.raises(ValueError, match=r"Jets.batches: size: expected at least 1, got 0"):
        next(jets.batches(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mass_is_that_of_the_numbers_given(dtype: torch.dtype) -> None:
    rows = golden_jets(6)[0] @ boost(4.0).T
    rows = rows.to(dtype)
    mass = invariant_mass(rows)
    assert mass.dtype == dtype
    for row, value in zip(rows.tolist(), mass.tolist(), strict=True):
        e, *p = (Fraction(v) for v in row)
        exact = math.sqrt(abs(e * e - sum(v * v for v in p)))
        # float64 products of float64 numbers are themselves rounded: E^2 eps / m^2 of relative error
        slack = 1e-6 if dtype == torch.float32 else 4e-16 * row[0] ** 2 / exact**2 + 1e-15
        assert value == pytest.approx(exact, rel=slack)


def test_mass_of_a_massless_particle() -> None:
    p4 = torch.tensor([[5.0, 3.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0], [13.0, 3.0, 4.0, 0.0]], requires_grad=True)
    mass = invariant_mass(p4)
    assert mass.tolist() == [0, 0, 12]
    mass.sum().backward()
    assert not p4.grad[:2].any()
    assert torch.allclose(p4.grad[2], torch.tensor([13.0, -3.0, -4.0, 0.0]) / 12)
    massive = golden_jets(5)[0].requires_grad_()
    assert torch.autograd.gradcheck(invariant_mass, (massive,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(5, 4), (3, 0, 1), (0,), ()])
def test_beams_come_first(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    ptr = torch.tensor([0, *sizes]).cumsum(0)
    p4 = torch.randn(sum(sizes), 4, dtype=dtype)
    x, new_ptr, is_beam = with_beams(p4, ptr)
    assert x.dtype == dtype
    assert new_ptr.diff().tolist() == [n + 2 for n in sizes]
    assert torch.equal(x[~is_beam], p4)
    beams = torch.tensor([[2**0.5, 0, 0, 1], [2**0.5, 0, 0, -1]], dtype=dtype)
    for b, n in enumerate(sizes):
        event = slice(int(new_ptr[b]), int(new_ptr[b + 1]))
        assert torch.equal(x[event][:2], beams)
        assert is_beam[event].tolist() == [True] * 2 + [False] * n
    if p4.numel() and dtype == torch.float64:
        assert torch.autograd.gradcheck(lambda t: with_beams(t, ptr)[0], (p4.requires_grad_(),))


def test_top_tagging_scalars() -> None:
    p4, ptr = golden_jets(5, 4)
    x, _, is_beam = with_beams(p4, ptr)
    scalars = top_tagging_scalars(x, is_beam)
    assert scalars.dtype == torch.float64
    i = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3])
    expected = torch.log1p(0.1 * (1 + i % 3).double())
    torch.testing.assert_close(scalars[~is_beam, 0], expected, rtol=1e-11, atol=0)
    assert not scalars[~is_beam, 1].any()
    assert not scalars[is_beam, 0].any()
    torch.testing.assert_close(scalars[is_beam, 1], torch.full((4,), math.log(2), dtype=torch.float64))


def test_quark_gluon_scalars() -> None:
    ids = torch.tensor([211, -211, 22, -11, 13, 130, 321, -2112, 2212])
    scalars = quark_gluon_scalars(ids)
    assert scalars.dtype == torch.float32
    assert scalars.argmax(1).tolist() == [PDG_IDS.index(abs(i)) for i in ids.tolist()]
    assert torch.equal(scalars.sum(1), torch.ones(9))
    assert quark_gluon_scalars(ids[:0], torch.float64).shape == (0, 8)
    with pytest.raises(ValueError, match=r"quark_gluon_scalars: pdg_id: expected \|id\| in .*, got \[0, 111\]"):
        quark_gluon_scalars(torch.tensor([111, 211, 0]))
    assert not quark_gluon_scalars(torch.tensor([111]), validate=False).any()


ROWS, PTR = torch.zeros(3, 4), torch.tensor([0, 3])
ERRORS = [
    (lambda: with_beams(ROWS[:, :3], PTR), ValueError, r"with_beams: p4: expected shape \[n, 4\]"),
    (lambda: with_beams(ROWS.half(), PTR), TypeError, "with_beams: p4: expected dtype float32 or float64"),
    (lambda: with_beams(ROWS, PTR.int()), TypeError, "with_beams: ptr: expected dtype int64"),
    (lambda: with_beams(ROWS, PTR.to("meta")), ValueError, "with_beams: ptr: expected device cpu, got meta"),
    (lambda: top_tagging_scalars(ROWS, ROWS[:, 0]), TypeError, "top_tagging_scalars: is_beam: expected dtype bool"),
    (
        lambda: top_tagging_scalars(ROWS, torch.ones(2, dtype=torch.bool)),
        ValueError,
        r"top_tagging_scalars: is_beam: expected shape \[3\], got \[2\]",
    ),
    (lambda: invariant_mass(ROWS.long()), TypeError, "invariant_mass: p4: expected dtype float32 or float64"),
    (lambda: quark_gluon_scalars(ROWS[:, 0]), TypeError, "quark_gluon_scalars: pdg_id: expected dtype int64"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message[:40] for _, _, message in ERRORS])
def test_errors_name_the_argument(call, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()


def test_beams_compile_with_changing_sizes() -> None:
    def inputs(p4: torch.Tensor, ptr: torch.Tensor) -> torch.Tensor:
        x, _, is_beam = with_beams(p4, ptr)
        return torch.cat([x, top_tagging_scalars(x, is_beam)], dim=1)

    compiled = torch.compile(inputs, fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in ((5, 4), (3, 0, 1), (7,)):
        p4, ptr = golden_jets(*sizes)
        assert torch.equal(compiled(p4, ptr), inputs(p4, ptr))


def test_the_package_offers_them() -> None:
    assert ek.data.load_sample_jets is load_sample_jets
