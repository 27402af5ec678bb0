"""Tests sample jets and the networks' inputs from them."""

from __future__ import annotations

import math
import warnings
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

from ..support.golden import jets as golden_jets
from ..support.tools import boost


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
    with pytest.raises(ValueError, match=r"Jets.batches: size: expected at least 1, got 0"):
        next(jets.batches(0))


def exact_square(row: list[float]) -> Fraction:
    e, *p = (Fraction(v) for v in row)
    return e * e - sum(v * v for v in p)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rapidity", [0.0, 4.0, 12.0])
def test_mass_is_that_of_the_numbers_given(dtype: torch.dtype, rapidity: float) -> None:
    """Masses over nine orders of magnitude, at momenta up to 1e8 times as large."""
    generator = torch.Generator().manual_seed(0)
    momenta = torch.randn(300, 3, generator=generator, dtype=torch.float64) * 10 ** (
        6 * torch.rand(300, 1, generator=generator, dtype=torch.float64) - 3
    )
    masses = 10 ** (9 * torch.rand(300, generator=generator, dtype=torch.float64) - 6)
    rows = torch.cat([(momenta.square().sum(1) + masses.square()).sqrt()[:, None], momenta], dim=1)
    rows = (rows @ boost(rapidity).T).to(dtype)
    mass = invariant_mass(rows)
    assert mass.dtype == dtype
    for row, value in zip(rows.tolist(), mass.tolist(), strict=True):
        exact = math.sqrt(abs(exact_square(row)))
        # the square is that of twice the precision: half of 2^-52, and 2^-104 of E^2; of float32, 2^-52 of E^2
        rounding = 2.0**-52 if dtype == torch.float32 else 2.0**-100
        slack = 1e-7 if dtype == torch.float32 else 4e-16
        assert abs(value - exact) <= slack * exact + rounding * row[0] ** 2 / max(exact, 1e-300)


def test_mass_of_an_electron_of_3_tev() -> None:
    p = torch.tensor([[0.6, 0.0, 0.8], [1 / 3, 2 / 3, 2 / 3], [0.0, 0.0, 1.0]], dtype=torch.float64) * 3000.0
    rows = torch.cat([(p.square().sum(1) + 0.000511**2).sqrt()[:, None], p], dim=1)
    pairs = ek.pairwise_invariants(rows, ek.Graph.from_edge_index(torch.arange(3).repeat(2, 1), 3), psi=False)[:, 1]
    for row, mass, pair in zip(rows.tolist(), invariant_mass(rows).tolist(), pairs.tolist(), strict=True):
        exact = math.sqrt(exact_square(row))
        assert mass == pytest.approx(exact, rel=4e-16)
        assert mass == pytest.approx(math.sqrt(pair), rel=4e-16)


def test_mass_of_numbers_that_are_no_particles() -> None:
    rows = [[math.inf, 0, 0, 1], [1e301, 0, 0, 1], [1e153, 0, 0, 1e152], [math.nan, 0, 0, 1], [1, 0, math.nan, 0]]
    mass = invariant_mass(torch.tensor(rows, dtype=torch.float64))
    assert mass[:2].tolist() == [math.inf, math.inf]
    assert mass[2].item() == pytest.approx(1e153 * math.sqrt(0.99), rel=4e-16)
    assert mass[3:].isnan().all()
    assert invariant_mass(torch.tensor(rows[3:])).isnan().all()


def test_mass_of_a_massless_particle() -> None:
    p4 = torch.tensor([[5.0, 3.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0], [13.0, 3.0, 4.0, 0.0]], requires_grad=True)
    mass = invariant_mass(p4)
    assert mass.tolist() == [0, 0, 12]
    mass.sum().backward()
    assert not p4.grad[:2].any()
    assert torch.allclose(p4.grad[2], torch.tensor([13.0, -3.0, -4.0, 0.0]) / 12)
    massive = golden_jets(5)[0].requires_grad_()
    assert torch.autograd.gradcheck(invariant_mass, (massive,))
    assert torch.autograd.gradgradcheck(invariant_mass, (massive,))
    torch.testing.assert_close(torch.func.vmap(lambda p: invariant_mass(p[None])[0])(massive), invariant_mass(massive))


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
    *(
        (lambda ptr=ptr: with_beams(torch.ones(10, 4), torch.tensor(ptr)), ValueError, f"with_beams: ptr: expected {m}")
        for ptr, m in (
            ([0, 3, 12, 10], "entries that do not decrease, got 12 before 10 at entry 3"),
            ([1, 10], "a first entry of 0, got 1"),
            ([-1, 10], "a first entry of 0, got -1"),
            ([0, 9], "a last entry of 10, got 9"),
            ([0, 11], "a last entry of 10, got 11"),
            ([0, -3, 10], "entries that do not decrease, got 0 before -3"),
            ([0], "a last entry of 10, got 0"),
        )
    ),
    (lambda: with_beams(ROWS, PTR[:0]), ValueError, "with_beams: ptr: expected at least one entry"),
    (lambda: with_beams(ROWS, PTR[None]), ValueError, r"with_beams: ptr: expected shape \[B \+ 1\], got \[1, 2\]"),
    (lambda: with_beams(ROWS, [0, 3]), TypeError, "with_beams: ptr: expected a tensor, got list"),
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


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message[:50] for _, _, message in ERRORS])
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


@pytest.fixture
def no_warning_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equikernels.data.order._warned", set())


def readers(p4: torch.Tensor) -> list:
    """Functions and networks that take four-momenta."""
    n = p4.shape[0]
    ptr, rows = torch.tensor([0, n]), torch.zeros(n, dtype=torch.bool)
    widths = {"num_channels_scalar": 1, "num_channels_m": [[3]], "num_channels_2to2": [2]}
    widths |= {"num_channels_out": [2], "num_channels_m_out": [3, 2]}
    classifier, nano = ek.models.PELICANClassifier(**widths), ek.models.PELICANNano(1)
    return [
        ("with_beams", lambda: with_beams(p4, ptr)),
        ("top_tagging_scalars", lambda: top_tagging_scalars(p4, rows)),
        ("PELICANClassifier", lambda: classifier(p4, ptr)),
        ("PELICANNano", lambda: nano(p4, ptr)),
        ("LorentzNet", lambda: ek.models.LorentzNet(1, 4, n_layers=1).eval()(p4, p4[:, :1], ptr)),
    ]


@pytest.mark.usefixtures("no_warning_yet")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energy_in_the_last_column_gets_a_warning(dtype: torch.dtype) -> None:
    p4 = load_sample_jets()[:1].p4.to(dtype)
    turned = p4[:, [1, 2, 3, 0]]
    for name, call in readers(turned):
        with pytest.warns(UserWarning, match=rf"^{name}: \w+: expected \(E, px, py, pz\), got E < \|p\|") as caught:
            call()
        assert str(caught[0].message).endswith("[:, [3, 0, 1, 2]]")
        with warnings.catch_warnings():  # once
            warnings.simplefilter("error")
            call()
    assert torch.equal(turned[:, [3, 0, 1, 2]], p4)


@pytest.mark.usefixtures("no_warning_yet")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e30])
def test_four_momenta_get_no_warning(dtype: torch.dtype, scale: float) -> None:
    """Massless to rounding, at rest, smeared, zero: no warning about the order."""
    p4 = load_sample_jets()[:20].p4
    smeared = p4 * torch.tensor([0.9999, 1, 1, 1])
    half = torch.cat([p4[:10], p4[:10, [1, 2, 3, 0]]])
    for rows in (p4, p4.half().to(dtype), smeared, half, torch.zeros(5, 4), p4[:0], torch.full((3, 4), math.nan)):
        for _, call in readers(scale * rows.to(dtype)):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                call()


@pytest.mark.usefixtures("no_warning_yet")
def test_no_warning_while_a_graph_is_traced() -> None:
    p4, ptr = torch.tensor([[0.0, 0.0, 0.0, 5.0]]), torch.tensor([0, 1])

    def inputs(p4: torch.Tensor) -> torch.Tensor:
        return with_beams(p4, ptr)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        torch.compile(inputs, fullgraph=True, backend="eager")(p4)
        torch.func.vmap(invariant_mass)(p4[None])
        torch.func.jvp(inputs, (p4,), (p4,))
        with torch.device("meta"):
            top_tagging_scalars(torch.empty(3, 4), torch.empty(3, dtype=torch.bool))
    with pytest.warns(UserWarning, match="with_beams"):
        inputs(p4)
