"""Tests the Lorentz Group Network: Clebsch-Gordan products, the published results, symmetries, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels import published
from equikernels.models import LGN
from equikernels.nn.clebsch_gordan import KEPT, VECTOR, bilinear, clebsch_gordan, four_vectors, products, squares

from ..support.golden import filled, jets
from ..support.points import close, weighted
from ..support.tools import boost, rotation


def inputs(*sizes: int, scale: float = 0.05) -> tuple[Tensor, Tensor, Tensor]:
    """(p4 with beams, labels, ptr)."""
    x, ptr, is_beam = ek.data.with_beams(*jets(*sizes))
    return scale * x, 2 * is_beam.double()[:, None] - 1, ptr


def model(**options: Any) -> LGN:
    sizes: dict[str, Any] = {"num_channels": (2, 2, 2, 2), "n_basis": 3, "scale": 1.0}
    return filled(LGN(**{**sizes, **options}))  # type: ignore[return-value]


def test_clebsch_gordan_coefficients() -> None:
    """Entries that the published code has, and orthogonality."""
    parts = clebsch_gordan(VECTOR, VECTOR)
    rows = {
        (0, 0): [{0: 0.5, 7: 0.5, 13: 0.5, 10: -0.5}],
        (0, 2): [
            {1: 0.5, 4: -0.5, 6: -0.5, 9: 0.5},
            {2: 0.5, 7: -0.5, 8: -0.5, 13: 0.5},
            {3: 0.5, 11: -0.5, 12: -0.5, 14: 0.5},
        ],
    }
    for irrep, expected in rows.items():
        matrix = np.zeros((len(expected), 16))
        for k, row in enumerate(expected):
            matrix[k, list(row)] = list(row.values())
        np.testing.assert_allclose(parts[irrep], matrix, atol=1e-14)
    for a in KEPT:
        for b in KEPT:
            whole = np.concatenate(list(clebsch_gordan(a, b).values()))
            assert whole.shape[0] == whole.shape[1]
            np.testing.assert_allclose(whole @ whole.T, np.eye(len(whole)), atol=1e-13)


def test_the_square_of_a_four_vector() -> None:
    p, _ = jets(5)
    square = squares(four_vectors(p)[:, None], VECTOR)[0]
    expected = p[:, 0] ** 2 - p[:, 1:].square().sum(1)
    torch.testing.assert_close(square.real, expected, rtol=1e-9, atol=1e-10)
    assert square.imag.abs().max() < 1e-10


def representation(matrix: Tensor) -> dict[tuple[int, int], Tensor]:
    """D^(k, n) of a Lorentz transformation, from its action on products of four-vectors."""
    basis = four_vectors(torch.eye(4).double())
    d = {VECTOR: basis @ matrix.to(basis.dtype) @ torch.linalg.inv(basis)}
    both = torch.kron(d[VECTOR], d[VECTOR])
    for irrep, h in clebsch_gordan(VECTOR, VECTOR).items():
        h = torch.from_numpy(h).to(both.dtype)
        d[irrep] = h @ both @ h.T
    return d


def test_levels_are_covariant(backend: str) -> None:
    """Every representation of every level moves by its matrix."""
    x, label, ptr = inputs(5, 4)
    matrix = boost(0.8) @ rotation(4, "minkowski")
    d, network = representation(matrix), model(pmu_in=True)
    at_rest, moved = (network.activations(p, label, ptr)[0] for p in (x, x @ matrix.T))
    assert set(at_rest[-1]) == {(0, 0), (1, 1), (2, 0), (0, 2), (2, 2)}
    for before, after in zip(at_rest, moved, strict=True):
        for irrep, part in before.items():
            expected = torch.einsum("ab,bcn->acn", d[irrep], part)
            size = float(part.detach().abs().max())
            torch.testing.assert_close(after[irrep], expected, rtol=1e-9, atol=1e-10 * (size + 1))
            places, signs = bilinear(irrep)
            assert part[0].shape[0] == 2
            assert len(places) == len(signs) == part.shape[0]


def test_products_of_one_pair_are_the_matrix() -> None:
    a, b = (torch.randn(4, 2, 3, dtype=torch.complex128) for _ in range(2))
    found = products({VECTOR: a}, {VECTOR: b})
    for irrep, (part,) in found.items():
        matrix = torch.from_numpy(clebsch_gordan(VECTOR, VECTOR)[irrep]).to(a.dtype)
        expected = torch.einsum("oab,acn,bcn->ocn", matrix.view(-1, 4, 4), a, b)
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 4518),
        ({"num_channels": (2, 3, 4, 3)}, 4646),
        ({"pmu_in": True}, 6014),
        ({"num_channels": (2, 2, 2, 2), "n_basis": 3}, 1600),
    ],
)
def test_parameter_counts(options: dict[str, Any], parameters: int) -> None:
    assert sum(p.numel() for p in LGN(**options).parameters()) == parameters
    if "pmu_in" not in options:
        assert sum(p.numel() for p in published.LGN(**options).parameters()) == parameters


def test_published_results(backend: str) -> None:
    """The release's logits; the second event is padded by one node there."""
    x, label, ptr = inputs(5, 4)
    expected = torch.tensor([[6.262810506, -1.677357858], [2.584792587, -1.565295223]], dtype=torch.float64)
    network = model(compat=True)
    torch.testing.assert_close(network(x, label, ptr), expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(network(x, label, ptr, padded_to=7), expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(model()(x, label, ptr)[:1], expected[:1], rtol=1e-7, atol=1e-8)
    assert (model()(x, label, ptr)[1] - expected[1]).abs().max() > 1e-3


@pytest.mark.parametrize("order", ["py38", "py37"])
def test_the_published_formula(order: str, backend: str) -> None:
    """Logits and gradients, on events of different lengths padded beyond the longest."""
    x, label, ptr = inputs(5, 2, 1)
    ours = model(order=order, compat=True, num_channels=(2, 3, 1, 2))
    formula = published.LGN((2, 3, 1, 2), 3, scale=1.0, order=order).double()
    formula.load_state_dict(ours.state_dict())
    results = []
    for out, network in (
        (ours(x, label, ptr, padded_to=9), ours),
        (formula(*formula.padded_inputs(x, label, ptr, 9)), formula),
    ):
        named = dict(network.named_parameters())
        results.append([out, *torch.autograd.grad(weighted(out), [named[name] for name in sorted(named)])])
    close(*results)


def test_orders_differ() -> None:
    x, label, ptr = inputs(5, 4)
    one, two = (model(order=order)(x, label, ptr) for order in ("py38", "py37"))
    assert (one - two).abs().max() > 1e-3


def test_gradients_of_four_momenta() -> None:
    x, label, ptr = inputs(2, 1)
    network = model(num_channels=(1, 1, 1), n_basis=1)
    assert torch.autograd.gradcheck(lambda p: network(p, label, ptr), x.requires_grad_(), eps=1e-7, rtol=1e-5)


@pytest.mark.parametrize(("gamma", "tolerance"), [(10.0, 1e-10), (1e2, 1e-8), (1e4, 1e-4)])
def test_boosts(gamma: float, tolerance: float) -> None:
    """To what the rounding of boosted float64 four-momenta leaves, gamma^2 of 1e-16 (measured: 2e-12, 2e-10, 1.3e-6);
    the published formula is 1e-4 off at gamma 1e2, and has no correct digit at 1e3."""
    x, label, ptr = inputs(12, 9)
    network = model()
    out = network(x, label, ptr)
    moved = network(x @ boost(math.acosh(gamma)).T, label, ptr)
    assert (moved - out).abs().max() < tolerance * out.abs().max()


def test_float32_weights_keep_the_symmetry() -> None:
    """All arithmetic is float64."""
    x, label, ptr = inputs(12, 9)
    network = model().float()
    out = network(x, label, ptr)
    assert out.dtype == torch.float32
    moved = network(x @ boost(math.acosh(100.0)).T, label, ptr)
    torch.testing.assert_close(moved, out, rtol=1e-6, atol=1e-6)


def test_permutations_and_empty_events(backend: str) -> None:
    x, label, ptr = inputs(5, 4)
    network = model()
    out = network(x, label, ptr)
    order = torch.cat([torch.randperm(7), 7 + torch.randperm(6)])
    torch.testing.assert_close(network(x[order], label[order], ptr), out, rtol=1e-11, atol=1e-12)
    more = network(x, label, torch.tensor([0, 7, 7, 13]))
    torch.testing.assert_close(more[[0, 2]], out, rtol=1e-11, atol=1e-12)
    bias = network.output_layer_atom["lin"].bias
    torch.testing.assert_close(more[1], bias, rtol=0, atol=0)
    alone = network(x[:7], label[:7], ptr[:2])
    torch.testing.assert_close(alone, out[:1], rtol=1e-11, atol=1e-12)
    nothing = network(x[:0], label[:0], torch.tensor([0, 0]))
    torch.testing.assert_close(nothing[0], bias, rtol=0, atol=0)


def test_no_tensor_of_products_of_pairs() -> None:
    """The largest tensors that the backward keeps have 2 n_basis numbers a pair: no [pairs, channels, 4, 4]."""
    p4, ptr = jets(150)
    x, ptr, is_beam = ek.data.with_beams(p4, ptr)
    sizes: list[int] = []

    def keep(t: Tensor) -> Tensor:
        sizes.append(t.numel() * (2 if t.is_complex() else 1))
        return t

    network = model(num_channels=(2, 4, 4, 2))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        network(x, 2 * is_beam.double()[:, None] - 1, ptr)
    assert max(sizes) <= 152 * 152 * 16  # radial weights of two l, four channels, two parts


def test_checks_are_named() -> None:
    x, label, ptr = inputs(5, 4)
    network, compat = model(), model(compat=True)
    graph = ek.Graph.complete(ptr)
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: LGN((2,)), r"LGN: num_channels: expected at least two numbers of at least 1, got \[2\]"),
        (lambda: LGN(order="py36"), "LGN: order: expected one of py38, py37"),
        (lambda: network(x[:, 1:], label, ptr), r"LGN: p4: expected shape \[n, 4\]"),
        (lambda: network(x, label[1:], ptr), r"LGN: scalars: expected shape \[13, 1\]"),
        (lambda: network(x, label, graph), "LGN: ptr: expected offsets of 13 nodes, or a complete graph .* self-loops"),
        (lambda: network(x, label, ptr, padded_to=9), "LGN: padded_to: expected None without compat=True, got 9"),
        (lambda: compat(x, label, ptr, padded_to=6), "LGN: padded_to: expected at least 7, the longest event, got 6"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
