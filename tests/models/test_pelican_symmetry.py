"""PELICAN under permutations, Lorentz transformations, padding, soft and collinear splittings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.models import PELICANClassifier, PELICANRegressor
from equikernels.models.pelican_inputs import STABILIZERS, rank2_inputs
from equikernels.models.softdrop import softdrop_multiplicity

from ..support.golden import filled, jets
from ..support.pelican import METRIC, SPURIONS, massless, relative, small
from ..support.tools import boost


def generator(name: str, method: str, spread: float = 0.4) -> Tensor:
    """A random Lorentz transformation that keeps the network's spurions; the identity if there is none."""
    s = STABILIZERS[name]
    kept = torch.tensor(s.spurions if method == "spurions" else s.functionals).reshape(-1, 4).double()
    if method == "input":
        kept = kept @ METRIC  # a covector as a vector
    algebra = []
    for a in range(4):
        for b in range(a):
            omega = torch.zeros(4, 4, dtype=torch.float64)
            omega[a, b], omega[b, a] = 1, -1
            algebra.append(omega @ METRIC)
    moved = torch.stack([(kept @ g.t()).flatten() for g in algebra], dim=1)
    values, vectors = torch.linalg.eigh(moved.t() @ moved)
    vectors = vectors[:, values < 1e-9]
    coefficients = vectors @ torch.randn(vectors.shape[1], dtype=torch.float64)
    return torch.linalg.matrix_exp(spread * sum(c * g for c, g in zip(coefficients, algebra, strict=True)))


ROWS = [
    (name, method) for name in STABILIZERS for method in ("input", "spurions") if (name, method) != ("so13", "spurions")
]
GROUPLESS = ("1", "11", "1_0", "11_0")


@pytest.mark.parametrize(("name", "method"), ROWS)
def test_stabilizer(name: str, method: str) -> None:
    """Invariant, and momenta covariant, under the group that is kept; under no larger one."""
    p4, ptr = jets(5, 0, 4)
    options = small(stabilizer=name, method=method)
    classifier = filled(PELICANClassifier(**options)).eval()
    regressor = filled(PELICANRegressor(**options, num_targets=2)).eval()
    kept, other = generator(name, method), boost(0.3)
    assert (name in GROUPLESS) == torch.equal(kept, torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(kept.t() @ METRIC @ kept, METRIC)

    logits, (momenta, weights) = classifier(p4, ptr), regressor(p4, ptr)
    assert relative(classifier(p4 @ kept.t(), ptr), logits) < 1e-11
    turned, same_weights = regressor(p4 @ kept.t(), ptr)
    assert relative(turned, momenta @ kept.t()) < 1e-11
    assert relative(same_weights, weights) < 1e-11
    assert (relative(classifier(p4 @ other.t(), ptr), logits) > 1e-6) == (name != "so13")

    if method == "spurions":  # the spurions are transformed as well
        for network in (classifier, regressor):
            network.spurion_vectors = tuple(map(tuple, (network.spurions.double() @ other.t()).tolist()))
        assert relative(classifier(p4 @ other.t(), ptr), logits) < 1e-11
        assert relative(regressor(p4 @ other.t(), ptr)[0], momenta @ other.t()) < 1e-11


def test_published_se2_is_not_covariant() -> None:
    p4, ptr = jets(5, 4)
    regressor = filled(PELICANRegressor(**small(stabilizer="se2", compat=True))).eval()
    kept = generator("se2", "input")
    assert relative(regressor(p4 @ kept.t(), ptr)[0], regressor(p4, ptr)[0] @ kept.t()) > 1e-3


@pytest.mark.parametrize("options", [{"stabilizer": "so13"}, {"stabilizer": "so2", **SPURIONS, "config": "sMxn"}])
def test_permutation(options: dict[str, Any]) -> None:
    p4, ptr = jets(5, 4)
    order = torch.cat([torch.randperm(5), 5 + torch.randperm(4)])
    classifier = filled(PELICANClassifier(**small(**options), dataset="jc")).eval()
    regressor = filled(PELICANRegressor(**small(**options), dataset="jc")).eval()
    scalars = torch.randn(9, 12, dtype=torch.float64)
    assert relative(classifier(p4[order], ptr, scalars[order]), classifier(p4, ptr, scalars)) < 1e-12
    momenta, weights = regressor(p4, ptr, scalars)
    again, permuted = regressor(p4[order], ptr, scalars[order])
    assert relative(again, momenta) < 1e-12
    k = len(classifier.spurions)
    rows = torch.cat([torch.arange(k, 5 + k), torch.arange(5 + 2 * k, 9 + 2 * k)])
    assert relative(permuted[rows], weights[rows][order]) < 1e-12
    assert relative(classifier(p4, ptr, scalars.flip(1)), classifier(p4, ptr, scalars)) > 1e-3


def test_first_batch() -> None:
    """One seed: all input-method networks but 1_0 start from the same function."""
    p4, ptr = jets(5, 4)
    logits = {}
    for name in STABILIZERS:
        torch.manual_seed(3)
        logits[name] = PELICANClassifier(**small(stabilizer=name)).double().eval()(p4, ptr)
    reference = logits.pop("so13")
    assert relative(logits.pop("1_0"), reference) > 1e-3
    for out in logits.values():
        assert torch.equal(out, reference)


def test_inputs_without_symmetry() -> None:
    """Inputs are products of components, with weights, without E_i E_j."""
    p4, ptr = jets(5, 4)
    pairs = ek.Graph.complete(ptr, True)
    network = PELICANClassifier(**small(stabilizer="1")).double()
    torch.nn.init.normal_(network.linear.weight)
    products = p4[pairs.receiver] * p4[pairs.sender]
    expected = products @ network.linear.weight.detach().t()
    out = network.linear(rank2_inputs(p4, pairs, STABILIZERS["1"])).detach()
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


def test_padding() -> None:
    """Results do not depend on the rest of the batch; with compat only maxima and minima depend on padding."""
    (p4, ptr), (alone, its_ptr) = jets(5, 4), (jets(5, 4)[0][5:], torch.tensor([0, 4]))
    for config in ("sMxn", "XN"):
        options = small(stabilizer="so2", **SPURIONS, config=config)
        network = filled(PELICANClassifier(**options)).eval()
        assert relative(network(alone, its_ptr), network(p4, ptr)[1:]) < 1e-12
        compat = filled(PELICANClassifier(**options, compat=True)).eval()
        assert relative(compat(alone, its_ptr), network(alone, its_ptr)) < 1e-12
        assert relative(compat(alone, its_ptr, padded_to=5), compat(p4, ptr)[1:]) < 1e-12
        assert relative(compat(alone, its_ptr, padded_to=5), network(alone, its_ptr)) > 1e-6
        with pytest.raises(ValueError, match="PELICANClassifier: padded_to"):
            network(p4, ptr, padded_to=5)
    for config in "smSM":
        compat = filled(PELICANClassifier(**small(config=config, compat=True))).eval()
        assert torch.equal(compat(p4, ptr, padded_to=9), compat(p4, ptr))


@pytest.mark.parametrize("letter", ["s", "m", "M", "S"])
@pytest.mark.parametrize("strict", [False, True])
def test_infrared_and_collinear_safety(letter: str, strict: bool) -> None:
    p4, ptr = massless(6)
    options = small(config=letter, config_out=letter, irc_safe=True, strict_irc=strict)
    classifier = filled(PELICANClassifier(**options)).eval()
    regressor = filled(PELICANRegressor(**options)).eval()
    soft = torch.cat([p4, 1e-14 * p4[:1].flip(0) + p4.new_tensor([[1e-14, 0, 1e-14, 0]])])
    split = torch.cat([p4[:2], 0.3 * p4[2:3], 0.7 * p4[2:3], p4[3:]])
    longer = torch.tensor([0, 7])
    for run in (classifier, lambda *event: regressor(*event)[0]):
        out = run(p4, ptr)
        assert relative(run(soft, longer), out) < 1e-10
        change = relative(run(split, longer), out)
        assert change < 1e-11 if strict else 1e-9 < change < 0.1
    names = set(classifier.state_dict())
    assert ("net2to2.eq_layers.0.diag_bias" in names) != strict


def test_softdrop_multiplicity() -> None:
    def event(*directions: tuple[float, float, float], energies: list[float]) -> Tensor:
        n = torch.tensor(directions, dtype=torch.float64)
        return torch.tensor(energies, dtype=torch.float64)[:, None] * torch.cat([torch.ones(len(n), 1), n], dim=1)

    two = event((0, 0, 1), (0, 0, -1), energies=[50, 50])  # z = 1/2, theta^2 = 4
    # each prong with a fifth at 0.3 from it: 0.2 > 0.005 * 0.8 / 0.3; only the harder branch is followed
    c, s = math.cos(0.3), math.sin(0.3)
    four = event((0, 0, 1), (s, 0, c), (0, 0, -1), (-s, 0, -c), energies=[40, 10, 40, 10])
    # soft and wide: 0.001 < 0.005 * 0.8 / 1.4
    balanced = event((0, 0, 1), (0, 0, -1), (1, 0, 0), (-1, 0, 0), energies=[50, 50, 0.05, 0.05])
    events = [two, four, balanced, two[:1], two[:0]]
    p4, ptr = torch.cat(events), torch.tensor([0, *(len(e) for e in events)]).cumsum(0)
    pairs = ek.Graph.complete(ptr, True)
    dots = ek.pairwise_invariants(p4, pairs, psi=False)[:, 1:]
    assert softdrop_multiplicity(dots, pairs).tolist() == [1, 2, 1, 0, 0]
    turned = ek.pairwise_invariants(p4 @ boost(1.5).t(), pairs, psi=False)[:, 1:]
    assert softdrop_multiplicity(turned, pairs).tolist() == [1, 2, 1, 0, 0]


def test_scalars_with_spurions() -> None:
    """Both networks take labels of spurions and scalars of particles."""
    p4, ptr = jets(5, 4)
    scalars = torch.randn(9, 12, dtype=torch.float64)
    for kind in (PELICANClassifier, PELICANRegressor):
        network = kind(**small(stabilizer="so2", **SPURIONS, dataset="jc")).double()
        assert network.eq1to2.coefs.shape == (15, 2, 5)
        out = network(p4, ptr, scalars)
        loss = out.square().sum() if isinstance(out, Tensor) else out[0].square().sum()
        loss.backward()
        used = network.eq1to2.coefs.grad.abs().amax((1, 2))
        assert (used > 0).all()
