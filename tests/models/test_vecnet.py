"""Tests VecNet: without a free stream it is the equivariant network; with one, its equivariant stream is unchanged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.models import EuclidNet, LorentzNet, VecNet, VecNetTracking

from ..support.golden import filled, jets
from ..support.hits import Hits, hits, turned
from ..support.points import close, weighted
from ..support.tools import boost

PTR = torch.tensor([0, 5, 9])


def jet_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, ptr = jets(5, 4)
    generator = torch.Generator().manual_seed(1)
    scalars, free = (torch.randn(len(x), w, dtype=torch.float64, generator=generator) for w in (2, 3))
    return x, scalars, ptr, free


def jet_model(n_free: int = 4) -> VecNet:
    return filled(VecNet(2, 6, n_free, 3, n_layers=3, c_weight=5e-3)).eval()  # type: ignore[return-value]


def hit_inputs() -> tuple[Hits, Tensor]:
    p = hits()
    return p, torch.randn(len(p.x), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def hit_model(n_free: int = 4) -> VecNetTracking:
    return filled(VecNetTracking(6, n_free, 3, n_layers=2, n_graph_iters=2, c_weight=0.1)).eval()  # type: ignore


@pytest.mark.parametrize("training", [False, True])
def test_without_a_free_stream_it_is_the_equivariant_network(training: bool, backend: str) -> None:
    """Bit for bit, gradients too, with the same state dict."""
    x, scalars, ptr, _ = jet_inputs()
    p, _ = hit_inputs()
    pairs: list[tuple[nn.Module, nn.Module, Callable[[nn.Module], Tensor]]] = [
        (
            VecNet(2, 6, 0, 3, n_layers=3, c_weight=5e-3, dropout=0.2),
            LorentzNet(2, 6, n_layers=3, c_weight=5e-3, dropout=0.2),
            lambda model: model(x, scalars, ptr),
        ),
        (
            VecNetTracking(6, 0, 3, n_layers=2, n_graph_iters=2),
            EuclidNet(6, 2, 2),
            lambda model: model(p.x, p.graph),
        ),
    ]
    for ours, plain, run in pairs:
        plain.double().load_state_dict(ours.double().state_dict())
        results = []
        for model in (ours.train(training), plain.train(training)):
            torch.manual_seed(5)
            out = run(model)
            results.append([out, *torch.autograd.grad(weighted(out), list(model.parameters()), allow_unused=True)])
        for a, b in zip(*results, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_parameter_counts() -> None:
    for n_free in (0, 1, 8):
        tagger, tracker = VecNet(2, 12, n_free, 3, n_layers=2), VecNetTracking(12, n_free, 3)
        for model, plain in ((tagger, LorentzNet(2, 12, n_layers=2)), (tracker, EuclidNet(12))):
            equivariant, free = model.parameter_counts()
            assert equivariant == sum(p.numel() for p in plain.parameters())
            assert equivariant + free == sum(p.numel() for p in model.parameters())
            assert (free == 0) == (n_free == 0)


@pytest.mark.parametrize("n_free", [0, 4])
def test_boosts_of_jets(n_free: int, backend: str) -> None:
    x, scalars, ptr, free = jet_inputs()
    model, matrix = jet_model(n_free), boost(0.8)
    at_rest, moved = (model.streams(p, scalars, ptr, free) for p in (x, x @ matrix.T))
    torch.testing.assert_close(moved[0], at_rest[0], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(moved[2], at_rest[2] @ matrix.T, rtol=1e-9, atol=1e-10)
    assert (at_rest[2] - x).abs().max() > 1e-3
    change = (model(x @ matrix.T, scalars, ptr, free) - model(x, scalars, ptr, free)).abs().max()
    assert (change > 1e-4) == (n_free > 0)


@pytest.mark.parametrize("n_free", [0, 4])
def test_rotations_of_hits(n_free: int, backend: str) -> None:
    p, free = hit_inputs()
    model, q = hit_model(n_free), turned(p, 1.1)
    h, _, v, e, _ = model.streams(p.x, p.graph, free)
    h_turned, _, v_turned, e_turned, _ = model.streams(q.x, q.graph, free)
    expected = turned(p._replace(x=torch.cat([v, p.x[:, 2:]], dim=1)), 1.1).x[:, :2]
    for result, right in ((h_turned, h), (e_turned, e), (v_turned, expected)):
        torch.testing.assert_close(result, right, rtol=1e-10, atol=1e-11)
    change = (model(q.x, q.graph, free) - model(p.x, p.graph, free)).abs().max()
    assert (change > 1e-6) == (n_free > 0)


def test_the_free_stream_never_feeds_back() -> None:
    """Other free features: the same bits of s, x and m; another output."""
    x, scalars, ptr, free = jet_inputs()
    model = jet_model()
    (s, f, moved, _), (s2, f2, moved2, _) = (model.streams(x, scalars, ptr, v) for v in (free, free + 1))
    assert torch.equal(s, s2)
    assert torch.equal(moved, moved2)
    assert not torch.equal(f, f2)
    assert not torch.equal(model(x, scalars, ptr, free), model(x, scalars, ptr, free + 1))
    p, free = hit_inputs()
    tracker = hit_model()
    one, two = (tracker.streams(p.x, p.graph, v) for v in (free, free + 1))
    assert all(torch.equal(one[k], two[k]) for k in (0, 2, 3))
    assert not torch.equal(one[1], two[1])
    assert not torch.equal(tracker(p.x, p.graph, free), tracker(p.x, p.graph, free + 1))


def test_free_layer_is_its_formula(backend: str) -> None:
    """Edge by edge, with gradients."""
    p, _ = hit_inputs()
    generator = torch.Generator().manual_seed(4)
    shapes = ((30, 4), (30, 6), (30, 2), (150, 6))
    inputs = [torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes]
    layer = filled(ek.nn.FreeStream(6, 2, 6, 4))

    def formula(f: Tensor, s: Tensor, x: Tensor, m: Tensor) -> Tensor:
        u = torch.cat([s, x, f], dim=1)
        i, j = p.graph.receiver, p.graph.sender
        g = layer.phi_g(torch.cat([u[i], u[j], m], dim=1))
        total = torch.zeros(30, 4).double().index_add(0, i, g)
        return f + layer.phi_f(torch.cat([u, total], dim=1))

    results = []
    for out in (layer(*inputs, p.graph), formula(*inputs)):
        results.append([out, *torch.autograd.grad(weighted(out), [*inputs, *layer.parameters()])])
    close(*results)


def test_permutation_and_empty_events() -> None:
    x, scalars, ptr, free = jet_inputs()
    model = jet_model()
    order = torch.cat([torch.randperm(5), 5 + torch.randperm(4)])
    out = model(x, scalars, ptr, free)
    torch.testing.assert_close(model(x[order], scalars[order], ptr, free[order]), out, rtol=1e-11, atol=1e-12)
    more = model(x, scalars, torch.tensor([0, 5, 5, 9]), free)
    torch.testing.assert_close(more[[0, 2]], out, rtol=1e-11, atol=1e-12)
    assert more.isfinite().all()


def test_compiles() -> None:
    x, scalars, ptr, free = jet_inputs()
    p, hit_free = hit_inputs()
    cases: list[tuple[nn.Module, tuple[Any, ...]]] = [
        (jet_model(), (x, scalars, ek.Graph.complete(ptr, num_nodes=9, num_edges=32), free)),
        (hit_model(), (p.x, p.graph, hit_free)),
    ]
    for model, arguments in cases:
        torch._dynamo.reset()
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(*arguments), model(*arguments), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("parameters", [3_000, 15_000, 224_000])
def test_the_dial_turns_at_constant_size(parameters: int) -> None:
    """The next narrower and the next wider network of that share are further from the size, and shares are kept."""
    for share in (0.0, 0.25, 0.5, 0.9):
        for model in (
            VecNet.of_size(parameters, share, 2, 3, n_layers=2),
            VecNetTracking.of_size(parameters, share, 3, n_layers=2),
        ):
            size = sum(p.numel() for p in model.parameters())
            n_free = model.free_encoder.out_features if hasattr(model, "free") else 0
            first: Any = model.embedding if isinstance(model, VecNet) else model.node_encoder[0]
            n_hidden = first.out_features
            assert n_free == min(round(share * (n_hidden + n_free)), n_hidden + n_free - 1)
            for width in (n_hidden + n_free - 1, n_hidden + n_free + 1):
                free = min(round(share * width), width - 1)
                other = (
                    VecNet(2, width - free, free, 3, n_layers=2)
                    if isinstance(model, VecNet)
                    else VecNetTracking(width - free, free, 3, n_layers=2)
                )
                assert abs(sum(p.numel() for p in other.parameters()) - parameters) >= abs(size - parameters)
            assert (model.parameter_counts()[1] == 0) == (share == 0)


def test_checks_are_named() -> None:
    x, scalars, ptr, free = jet_inputs()
    p, hit_free = hit_inputs()
    tagger, tracker = jet_model(), hit_model()
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: VecNet.of_size(9000, 1.0, 2), "VecNet.of_size: share: expected a number from 0 to below 1, got 1.0"),
        (lambda: VecNet.of_size(9, 0.5, 2), r"VecNet.of_size: parameters: expected at least \d+, got 9"),
        (lambda: VecNet(2, 6, -1), "VecNet: n_free: expected at least 0, got -1"),
        (lambda: VecNetTracking(6, 2, -1), "VecNetTracking: n_free_input: expected at least 0, got -1"),
        (lambda: tagger(x, scalars, ptr), r"VecNet: free: expected shape \[9, 3\], got None"),
        (lambda: tagger(x, scalars, ptr, free[1:]), r"VecNet: free: expected shape \[9, 3\], got \[8, 3\]"),
        (lambda: tagger(x[:, 1:], scalars, ptr, free), r"VecNet: x: expected shape \[n, 4\]"),
        (lambda: tracker(p.x, p.graph, hit_free[:, 1:]), r"VecNetTracking: free: expected shape \[30, 3\]"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
