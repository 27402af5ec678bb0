"""pairwise_invariants beyond the generic checks: the mass at high boost, and messages of errors."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

import equikernels as ek

from ..support.tools import boost


def exact_invariants(x: Tensor, graph: ek.Graph) -> list[list[Fraction]]:
    """Exact rational arithmetic on the given numbers."""
    rows = [[Fraction(v) for v in row] for row in x.tolist()]
    sign = [1, -1, -1, -1]
    result = []
    for j, i in graph.edge_index.t().tolist():
        d = [a - b for a, b in zip(rows[i], rows[j], strict=True)]
        interval = sum(s * v * v for s, v in zip(sign, d, strict=True))
        result.append([interval, sum(s * a * b for s, a, b in zip(sign, rows[i], rows[j], strict=True))])
    return result


@pytest.mark.parametrize("gamma", [1.0, 10.0, 1e2, 1e3, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_light_particle_keeps_its_mass_at_high_boost(gamma: float, dtype: torch.dtype, backend: str) -> None:
    momenta = torch.randn(6, 3, dtype=torch.float64) * 0.2
    mass = torch.tensor([0.000511, 0.13957, 0.93827, 0.13957, 0.4937, 0.0])[:, None]
    rest = torch.cat([(momenta.square().sum(-1, keepdim=True) + mass.square()).sqrt(), momenta], dim=-1)
    x = (rest @ boost(torch.tensor(gamma).acosh().item()).T).to(dtype)
    graph = ek.Graph.complete(torch.tensor([0, 6]), self_loops=True)
    result = ek.pairwise_invariants(x, graph, psi=False).tolist()
    # The result is the exact one rounded, up to what twice the working precision leaves at the scale of the energies.
    eps = torch.finfo(dtype).eps
    leftover = 8 * 2.0**-53 if dtype == torch.float32 else 16 * eps * eps
    scale = x[:, 0].double().square().max().item()
    for row, exact_row in zip(result, exact_invariants(x, graph), strict=True):
        for value, exact in zip(row, exact_row, strict=True):
            assert abs(Fraction(value) - exact) <= eps * abs(exact) + leftover * scale, (value, float(exact))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_plain_formula_loses_what_the_kernel_keeps(dtype: torch.dtype) -> None:
    pion = torch.tensor([[0.13957, 0.0, 0.0, 0.0]], dtype=torch.float64) @ boost(9.9).T  # gamma = 1e4
    x = pion.to(dtype)
    graph = ek.Graph.complete(torch.tensor([0, 1]), self_loops=True)
    exact = float(exact_invariants(x, graph)[0][1])
    plain = float(x[0, 0] * x[0, 0] - x[0, 1] * x[0, 1] - x[0, 2] * x[0, 2] - x[0, 3] * x[0, 3])
    result = ek.pairwise_invariants(x, graph, psi=False)[0, 1].item()
    assert abs(result - exact) <= torch.finfo(dtype).eps * abs(exact) * 2
    assert abs(plain - exact) > 100 * abs(result - exact)


def test_a_self_loop_has_interval_zero_and_the_mass_as_product() -> None:
    x = torch.tensor([[5.0, 0.0, 3.0, 0.0]])
    out = ek.pairwise_invariants(x, ek.Graph.complete(torch.tensor([0, 1]), self_loops=True), psi=False)
    assert out.tolist() == [[0.0, 16.0]]


def test_psi_of_large_and_tiny_values(backend: str) -> None:
    for z in (1e-30, 1e-8, 0.5, 3.0, 1e10, 1e30):
        x = torch.tensor([[z, 0.0], [1.0, 0.0]])
        graph = ek.Graph.from_csr(torch.tensor([0, 1, 1]), torch.tensor([1]))
        out = ek.pairwise_invariants(x, graph, metric=(1.0, 1.0))[0, 1]
        expected = torch.log1p(torch.tensor(z, dtype=torch.float32).double()).float()
        torch.testing.assert_close(out, expected, rtol=2e-7, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(3)}, ValueError, r"pairwise_invariants: x: expected shape \[n, D\], got \[3\]"),
        ({"x": torch.zeros(3, 4).long()}, TypeError, "pairwise_invariants: x: expected dtype float32 or float64"),
        ({"x": torch.zeros(3, 4).half()}, TypeError, "pairwise_invariants: x: expected dtype float32 or float64"),
        ({"x": torch.zeros(2, 4)}, ValueError, "pairwise_invariants: graph: expected 2 nodes, got 3"),
        ({"x": torch.zeros(3, 9)}, ValueError, "pairwise_invariants: x: expected 2 to 8 coordinates, got 9"),
        ({"x": [1.0]}, TypeError, "pairwise_invariants: x: expected a tensor, got list"),
        ({"x": torch.zeros(3, 4, device="meta")}, ValueError, "pairwise_invariants: graph: expected device meta"),
        ({"metric": "lorentz"}, ValueError, "pairwise_invariants: metric: expected minkowski, euclidean"),
        ({"metric": [1.0, -1.0]}, ValueError, "pairwise_invariants: metric: expected 4 entries, got 2"),
        ({"graph": torch.zeros(2, 3)}, TypeError, "pairwise_invariants: graph: expected an equikernels.Graph"),
    ],
)
def test_errors_name_the_argument(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments = {"x": torch.zeros(3, 4), "graph": ek.Graph.complete(torch.tensor([0, 3])), **change}
    with pytest.raises(error, match=message):
        ek.pairwise_invariants(**arguments)
