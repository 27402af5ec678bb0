"""Tests the taggers without Lorentz symmetry: published numbers, permutations, frames, single events, gradients."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import models, published
from equikernels.data import energy_flow, jet_images, kinematic_features
from equikernels.data.kinematics import STANDARD
from equikernels.models.efp import efps, polynomial
from equikernels.models.efp_graphs import canonical, connected_graphs, products
from equikernels.models.particlenet import nearest_graph

from ..support.golden import filled, jets
from ..support.points import weighted
from ..support.tools import boost

SMALL_PART: dict[str, Any] = {
    "embed": (8, 16, 8), "pair_embed": (6, 6), "heads": 2, "n_blocks": 2, "n_class_blocks": 1,
}  # fmt: skip
Run = Callable[[nn.Module, Tensor, Tensor], Tensor]


def of_features(network: nn.Module, p4: Tensor, ptr: Tensor) -> Tensor:
    return network(kinematic_features(p4, ptr), ptr)


def of_flow(network: nn.Module, p4: Tensor, ptr: Tensor) -> Tensor:
    return network(energy_flow(p4, ptr), ptr)


# name -> (a small network, how it runs)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Run]] = {
    "ParticleNet": (lambda: models.ParticleNet(7, 3, ((4, 4, 4), (10, 10, 10), (12, 6, 6)), 5), of_features),
    "ParT": (lambda: models.ParT(**SMALL_PART), lambda net, p4, ptr: net(kinematic_features(p4, ptr), p4, ptr)),
    "PFN": (lambda: models.PFN(3, (8, 6), (5,)), of_flow),
    "EFN": (lambda: models.EFN((8, 6), (5,)), of_flow),
    "EFP": (lambda: models.EFP(3), lambda net, p4, ptr: net(p4, ptr)),
    "MLP": (lambda: models.MLP(6, 8), lambda net, p4, ptr: net(p4, ptr)),
    "PCNN": (lambda: models.PCNN(7, 8), of_features),
    "ResNeXt": (models.ResNeXt, lambda net, p4, ptr: net(jet_images(p4, ptr))),
}
ORDERED = ("MLP", "PCNN")


def network(name: str) -> nn.Module:
    return filled(NETWORKS[name][0]()).eval()


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_numbers_of_parameters() -> None:
    assert size(models.ParticleNet()) == 366_160
    assert size(models.ParticleNet(n_class=10)) == 368_216
    assert size(models.ParticleNet(k=7, widths=((32,) * 3, (64,) * 3), n_hidden=128)) == 26_416
    assert size(models.ParT()) == size(published.ParT()) == 2_141_134
    assert size(models.ParT(17, 10)) == 2_143_486
    assert size(models.PFN()) == 82_458
    assert size(models.PFN(4)) == 82_558
    assert size(models.EFP()) == 1000
    assert size(models.ResNeXt()) == 1_457_314
    assert size(models.PCNN()) == 349_456


# --- Published results ----------------------------------------------------------------------------------------------


def test_particlenet_gives_the_released_results(backend: str) -> None:
    p4, ptr = jets(6, 5)
    net = filled(models.ParticleNet(k=3, widths=((4, 4, 4), (6, 6, 6)), n_hidden=5)).eval()
    expected = torch.tensor([[0.08147959835, -0.4673218636], [0.08958959983, -0.4730309306]], dtype=torch.float64)
    torch.testing.assert_close(of_features(net, p4, ptr), expected, rtol=1e-8, atol=1e-8)


def test_part_gives_the_released_results(backend: str) -> None:
    p4, ptr = jets(6, 5)
    features = kinematic_features(p4, ptr)
    padded, _ = ek.unpack(features, ptr)
    momenta, mask = ek.data.to_weaver(p4, ptr)
    ours, theirs = (filled(network(**SMALL_PART)).eval() for network in (models.ParT, published.ParT))
    assert size(ours) == 3470
    expected = torch.tensor([[0.7978050563, 0.5239768963], [0.8378984586, 0.5429322358]], dtype=torch.float64)
    logits = ours(features, p4, ptr)
    torch.testing.assert_close(logits, expected, rtol=1e-7, atol=0)
    torch.testing.assert_close(logits, theirs(padded.transpose(1, 2), momenta, mask), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("last_activation", [False, True])
def test_networks_are_the_padded_formulas(last_activation: bool) -> None:
    """In evaluation, with different sizes of events in any order, with gradients; PFN in training too."""
    p4, ptr = jets(7, 12, 5, 7, 12)
    features = kinematic_features(p4, ptr)
    padded, _ = ek.unpack(features, ptr)
    momenta, mask = ek.data.to_weaver(p4, ptr)
    padded = padded.transpose(1, 2)
    part = {**SMALL_PART, "last_activation": last_activation}
    net: dict[str, Any] = {"k": 3, "widths": ((4, 4, 4), (10, 10, 10), (6, 6, 6)), "n_hidden": 5}
    pairs: list[tuple[nn.Module, tuple[Any, ...], nn.Module, tuple[Any, ...]]] = [
        (models.ParT(**part), (features, p4, ptr), published.ParT(**part), (padded, momenta, mask)),
        (models.ParticleNet(**net), (features, ptr), published.ParticleNet(**net), (padded, mask)),
        (models.PFN(7), (features, ptr), published.PFN(7), (padded, mask)),
    ]
    for ours, packed, theirs, batch in pairs:
        filled(ours).eval(), filled(theirs).eval()
        results = []
        for model, arguments in ((ours, packed), (theirs, batch)):
            out = model(*arguments)
            results.append([out, *torch.autograd.grad(weighted(out), list(model.parameters()))])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a.flatten(), b.flatten(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["ParticleNet", "ParT"])
def test_training_is_the_padded_formula_without_padding(name: str) -> None:
    """Where all events have one size: the same logits, gradients and running averages."""
    p4, ptr = jets(8, 8, 8)
    features = kinematic_features(p4, ptr)
    padded, _ = ek.unpack(features, ptr)
    momenta, mask = ek.data.to_weaver(p4, ptr)
    padded = padded.transpose(1, 2)
    if name == "ParT":
        ours, theirs = (filled(kind(**SMALL_PART, dropout=0.0)) for kind in (models.ParT, published.ParT))
        results = ours(features, p4, ptr), theirs(padded, momenta, mask)
    else:
        options: dict[str, Any] = {"k": 3, "widths": ((4, 4, 4), (6, 6, 6)), "n_hidden": 5}
        ours, theirs = (filled(kind(**options)) for kind in (models.ParticleNet, published.ParticleNet))
        ours.fc[0][2].p = theirs.fc[0][2].p = 0.0  # type: ignore[index, union-attr]
        results = ours(features, ptr), theirs(padded, mask)
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-10)
    grads = [
        torch.autograd.grad(weighted(r), list(m.parameters())) for r, m in zip(results, (ours, theirs), strict=True)
    ]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a.flatten(), b.flatten(), rtol=1e-7, atol=1e-8)
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_weights_of_the_release() -> None:
    state = models.ParticleNet(6, 4, ((5, 6), (7, 8)), 9, 3).state_dict()
    other = models.ParticleNet.from_state_dict(state, k=4)
    other.load_state_dict(state)
    assert other.fc[1].weight.shape == (3, 9)
    shapes = {key: value.shape for key, value in models.ParT().state_dict().items()}
    assert shapes["pair_embed.embed.1.weight"] == (64, 4, 1)
    assert shapes == {key: value.shape for key, value in published.ParT().state_dict().items()}


# --- Energy flow polynomials ------------------------------------------------------------------------------------------


def test_numbers_of_multigraphs() -> None:
    """As arXiv 1712.07124, table I."""
    assert [len(connected_graphs(d)) for d in range(1, 8)] == [1, 2, 5, 12, 33, 103, 333]
    assert [len(products(d)) for d in range(1, 8)] == [2, 5, 13, 36, 102, 314, 1000]


def test_graphs_differ_and_have_one_form() -> None:
    generator = torch.Generator().manual_seed(0)
    forms = set()
    for edges in connected_graphs(5):
        n = 1 + max(map(max, edges))
        matrix = torch.zeros(n, n, dtype=torch.int64)
        for a, b in edges:
            matrix[a, b] += 1
            matrix[b, a] += 1
        order = torch.randperm(n, generator=generator)
        both = [canonical(tuple(map(tuple, m.tolist()))) for m in (matrix, matrix[order][:, order])]
        assert both[0] == both[1]
        forms.add(both[0])
    assert len(forms) == 33


def test_polynomials_are_their_sums() -> None:
    """All connected graphs up to five edges, and the complete one of four vertices, against sums over particles."""
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(2, 4, dtype=torch.float64, generator=generator)
    theta = torch.rand(2, 4, 4, dtype=torch.float64, generator=generator)
    theta = theta + theta.mT
    powers = [theta**m for m in range(1, 8)]
    graphs = [edges for d in range(1, 6) for edges in connected_graphs(d)]
    complete = tuple(itertools.combinations(range(4), 2))
    for edges in [*graphs, complete, (*complete, (0, 4)), (*complete, (0, 1))]:
        letters = "abcdefgh"
        n = 1 + max(map(max, edges))
        terms = [*(f"Z{letters[v]}" for v in range(n)), *(f"Z{letters[a]}{letters[b]}" for a, b in edges)]
        expected = torch.einsum(f"{','.join(terms)}->Z", *[z] * n, *[theta] * len(edges))
        torch.testing.assert_close(polynomial(edges, z, powers), expected, rtol=1e-12, atol=0)


def test_columns_of_the_polynomials() -> None:
    p4, ptr = jets(6, 3)
    found = efps(p4, ptr, 3, beta=2.0)
    assert found.shape == (2, 13)
    flow = energy_flow(p4, ptr)
    for b in range(2):
        z, y, phi = flow[ptr[b] : ptr[b + 1]].unbind(1)
        turn = ek.data.kinematics.wrapped(phi[:, None] - phi)
        theta = (y[:, None] - y) ** 2 + turn**2
        line = torch.einsum("a,b,ab->", z, z, theta)
        assert found[b, 0] == 1
        torch.testing.assert_close(found[b, 1], line)
        assert (found[b, 2:] - line**2).abs().min() < 1e-12 * line**2  # a disconnected graph
        assert (found[b, 2:] - line**3).abs().min() < 1e-12 * line**3


def test_soft_and_collinear_particles_change_no_polynomial() -> None:
    p4, ptr = jets(6)
    p4[:, 0] = p4[:, 1:].norm(dim=1)
    split = torch.cat([p4[:-1], 0.3 * p4[-1:], 0.7 * p4[-1:], 1e-9 * p4[:1]])
    torch.testing.assert_close(efps(split, torch.tensor([0, 8]), 4), efps(p4, ptr, 4), rtol=1e-6, atol=1e-9)
    efn = network("EFN")
    torch.testing.assert_close(of_flow(efn, split, torch.tensor([0, 8])), of_flow(efn, p4, ptr), rtol=1e-6, atol=1e-7)


def test_fisher_separates() -> None:
    sample = ek.data.load_sample_jets()[:240]
    net = models.EFP(2)
    features = efps(sample.p4, sample.ptr, 2)
    net.eval().fisher(features, sample.label, ridge=1e-2)
    score = net(sample.p4, sample.ptr).softmax(1)[:, 1]
    assert ek.metrics.auc(score, sample.label) > 0.9
    swapped = models.EFP(2).eval()
    swapped.fisher(features, 1 - sample.label, ridge=1e-2)
    torch.testing.assert_close(swapped.classify(features), -net.classify(features), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"EFP\.fisher: label: expected both 0 and 1"):
        net.fisher(features, torch.ones_like(sample.label))


# --- What holds for all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_permutations(name: str) -> None:
    p4, ptr = jets(5, 4)
    net, run = network(name), NETWORKS[name][1]
    order = torch.tensor([3, 0, 4, 1, 2, 8, 7, 5, 6])
    a, b = run(net, p4, ptr), run(net, p4[order], ptr)
    if name in ORDERED:
        assert (a - b).abs().max() > 1e-5
    else:
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_boosts_change_logits(name: str) -> None:
    p4, ptr = jets(9, 7)
    net, run = network(name), NETWORKS[name][1]
    assert (run(net, p4 @ boost(0.8).T, ptr) - run(net, p4, ptr)).abs().max() > 1e-4


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_is_its_events_also_without_particles(name: str) -> None:
    p4, ptr = jets(5, 0, 1, 9, 5, 2)
    net, run = network(name), NETWORKS[name][1]
    whole = run(net, p4, ptr)
    assert whole.isfinite().all()
    for b, (first, last) in enumerate(itertools.pairwise(ptr.tolist())):
        alone = run(net, p4[first:last], torch.tensor([0, last - first]))
        torch.testing.assert_close(whole[b : b + 1], alone, rtol=1e-9, atol=1e-10)
    assert run(net, p4[:0], torch.tensor([0])).shape == (0, 2)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_finite(name: str, training: bool) -> None:
    p4, ptr = jets(5, 0, 1, 9, 5, 2)
    net, run = NETWORKS[name][0]().train(training), NETWORKS[name][1]
    run(net, p4.float(), ptr).square().sum().backward()
    grads = [p.grad for p in net.parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)
    assert sum(bool(g.abs().max() > 0) for g in grads if g is not None) > len(grads) / 2


def test_neighbours_in_many_dimensions() -> None:
    """As knn_graph finds them in eight."""
    ptr = torch.tensor([0, 6, 6, 7, 9, 16])
    x = torch.randn(16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([x, torch.zeros(16, 3).double()], dim=1)
    events = ek.Graph.complete(ptr)
    a, b = (nearest_graph(points, 4, events).edge_index for points in (x, wide))
    assert torch.equal(a, b)


def test_boosts_of_training_events() -> None:
    p4, ptr = jets(5, 4)
    beta = torch.tensor([0.6, -0.3], dtype=torch.float64)
    moved = ek.data.boosted(p4, ptr, beta)
    torch.testing.assert_close(ek.data.boosted(moved, ptr, -beta), p4)
    torch.testing.assert_close(moved[0, 0], 1.25 * (p4[0, 0] - 0.6 * p4[0, 1]))
    net = filled(models.MLP(6, 8, max_beta=0.9)).eval()
    assert torch.equal(net(p4, ptr), net(p4, ptr))
    net.train()
    assert not torch.equal(net(p4, ptr), net(p4, ptr))


# --- Inputs ---------------------------------------------------------------------------------------------------------


def test_features_of_a_jet() -> None:
    p4, ptr = jets(6, 5)
    p4[2, 2] = -abs(p4[2, 2])
    features = kinematic_features(p4, ptr)
    for b, (first, last) in enumerate(itertools.pairwise(ptr.tolist())):
        event = p4[first:last]
        jet = event.sum(0)
        angles, axis = ek.eta_phi(event), ek.eta_phi(jet[None])
        deta, dphi = (angles - axis).unbind(1)
        dphi = torch.atan2(dphi.sin(), dphi.cos())
        pt = event[:, 1:3].norm(dim=1)
        expected = [pt.log(), event[:, 0].log(), (pt / jet[1:3].norm()).log(), (event[:, 0] / jet[0]).log()]
        expected += [(deta**2 + dphi**2).sqrt(), deta, dphi]
        torch.testing.assert_close(features[first:last], torch.stack(expected, 1), msg=f"event {b}")
    centre, scale = torch.tensor(STANDARD, dtype=torch.float64).unbind(1)
    torch.testing.assert_close(kinematic_features(p4, ptr, standardised=True), (features - centre) * scale)


def test_aligned_events() -> None:
    p4, ptr = jets(6, 5)
    found = ek.data.aligned(p4, ptr)
    for first, last in itertools.pairwise(ptr.tolist()):
        before, after = p4[first:last].sum(0), found[first:last].sum(0)
        torch.testing.assert_close(after[2:], torch.zeros(2).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(after[1], before[1:3].norm())
    metric = torch.diag(torch.tensor([1.0, -1, -1, -1], dtype=torch.float64))
    torch.testing.assert_close(found[:6] @ metric @ found[:6].T, p4[:6] @ metric @ p4[:6].T)


def test_images() -> None:
    sample = ek.data.load_sample_jets()[:5]
    images = jet_images(sample.p4.double(), sample.ptr)
    assert images.shape == (5, 1, 64, 64)
    total = images.sum((1, 2, 3))
    assert (total > 0.9).all()
    assert (total < 1 + 1e-12).all()
    first = sample[:1]
    pt, (eta, phi) = first.p4[:, 1:3].norm(dim=1), kinematic_features(first.p4.double(), first.ptr)[:, 5:].T
    weights = (pt / pt.sum()).double().numpy()
    expected = np.histogram2d(eta.numpy(), phi.numpy(), bins=64, range=[[-0.8, 0.8]] * 2, weights=weights)[0]
    torch.testing.assert_close(images[0, 0], torch.from_numpy(expected), rtol=1e-6, atol=1e-9)
    assert torch.equal(jet_images(sample.p4[:0], torch.tensor([0, 0])), torch.zeros(1, 1, 64, 64))
    one = jet_images(sample.p4[:1], torch.tensor([0, 1]), pixels=3)
    assert one[0, 0, 1, 1] == 1


def test_errors_are_named() -> None:
    p4, ptr = jets(5, 4)
    features = kinematic_features(p4, ptr)
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: models.ParticleNet(1), "ParticleNet: n_features: expected at least 2"),
        (lambda: models.ParT(heads=7), "ParT: heads: expected a divisor of the width 128, got 7"),
        (lambda: models.MLP(max_beta=1.0), "MLP: max_beta: expected a velocity from 0 to below 1"),
        (lambda: models.MLP(0), "MLP: n_particles: expected a number >= 1"),
        (lambda: models.EFP(0), "EFP: degree: expected a number >= 1"),
        (lambda: models.PCNN(7, 0), "PCNN: length: expected a number >= 1"),
        (lambda: network("ParticleNet")(features[:, 1:], ptr), r"ParticleNet: features: expected shape \[9, 7\]"),
        (lambda: network("ParT")(features[1:], p4, ptr), r"ParT: features: expected shape \[9, 7\], got \[8, 7\]"),
        (lambda: network("ParT")(features, p4[:, 1:], ptr), r"ParT: p4: expected shape \[n, 4\]"),
        (lambda: network("PFN")(features[:, :3], ptr[:-1]), r"Graph.complete: ptr"),
        (lambda: network("EFN")(features, ptr), r"EFN: features: expected shape \[n, 3\]"),
        (lambda: network("ResNeXt")(features), r"ResNeXt: images: expected shape \[B, 1, H, W\]"),
        (lambda: efps(p4, ptr, 0), "efps: degree: expected a number >= 1"),
        (lambda: jet_images(p4, ptr, width=0.0), "jet_images: width: expected a finite number > 0"),
        (lambda: ek.data.boosted(p4, ptr, torch.zeros(3)), r"boosted: beta: expected shape \[2\], got \[3\]"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="ParT: p4: expected a tensor"):
        network("ParT")(features, None, ptr)
