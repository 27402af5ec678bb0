"""LorentzNet without equivariance: its formula, its count, and what symmetry it has left."""

from __future__ import annotations

import warnings

import pytest
import torch

from equikernels import Graph, published
from equikernels.data import top_tagging_scalars, with_beams
from equikernels.metric import psi
from equikernels.models import LorentzNet
from equikernels.nn import LGEB

from ..support.golden import filled, jets
from ..support.points import close, weighted
from ..support.tools import boost

SIZES = {"n_scalar": 2, "n_hidden": 8, "n_layers": 3, "c_weight": 5e-3, "equivariant": False}


def event() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, ptr, is_beam = with_beams(*jets(5, 4))
    return x, top_tagging_scalars(x, is_beam), ptr


@pytest.mark.parametrize(("n_scalar", "count"), [(2, 224_072), (8, 227_096)])
def test_parameters(n_scalar: int, count: int) -> None:
    """Eight columns, of two four-momenta, in place of two invariants, in each of six blocks."""
    for make in (LorentzNet, published.LorentzNet):
        model = make(n_scalar, 72, equivariant=False)
        assert sum(p.numel() for p in model.parameters()) == count + 6 * 6 * 72
    state = LorentzNet(n_scalar, 72, equivariant=False).state_dict()
    assert LorentzNet.from_state_dict(state, c_weight=5e-3).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        LorentzNet(n_scalar, 72).load_state_dict(state)


@pytest.mark.parametrize("training", [False, True])
def test_the_formula(training: bool, backend: str) -> None:
    """Outputs, running statistics and gradients."""
    results = []
    for make in (LorentzNet, published.LorentzNet):
        model = filled(make(**SIZES, readout="padded_mean")).train(training)
        x, scalars, ptr = event()
        x = (x + 0.01).requires_grad_()  # at a component of 0 the published psi has the derivative 0, ours 1
        inputs = (x, scalars, ptr)
        out = model(*(inputs if make is LorentzNet else published.LorentzNet.padded_inputs(*inputs)))
        grads = torch.autograd.grad(weighted(out), [x, *model.parameters()])
        results.append([out, *grads, *(b.double() for b in model.buffers())])
    close(*results)


def test_layers_called_one_by_one_give_the_same() -> None:
    x, scalars, ptr = event()
    model = filled(LorentzNet(**SIZES)).eval()
    expected = model(x, scalars, ptr)
    for block in model.LGEBs:
        block.phi_e.register_forward_hook(lambda *_: None)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.testing.assert_close(model(x, scalars, ptr), expected, rtol=1e-11, atol=1e-12)
    assert any("phi_e has forward hooks" in str(w.message) for w in told)


def test_attributes_of_edges() -> None:
    """They are the last columns."""
    x, _, ptr = event()
    graph = Graph.complete(ptr)
    generator = torch.Generator().manual_seed(1)
    h, a = (torch.randn(n, w, dtype=torch.float64, generator=generator) for n, w in ((len(x), 6), (graph.num_edges, 3)))
    block = filled(LGEB(6, 6, 6, n_edge_attr=3, equivariant=False)).eval()
    m = block(h, x, graph, a, return_edges=True)[2]
    i, j = graph.receiver, graph.sender
    expected = block.phi_e(torch.cat([h[i], psi(x[i]), h[j], psi(x[j]), a], dim=1))
    torch.testing.assert_close(m, expected * block.phi_m(expected), rtol=1e-11, atol=1e-12)


def test_no_boost_is_a_symmetry_and_permutations_are() -> None:
    x, scalars, ptr = event()
    model = filled(LorentzNet(**SIZES)).eval()
    out = model(x, scalars, ptr)
    assert (model(x @ boost(0.5).T, scalars, ptr) - out).abs().max() > 1e-3
    assert (model(x[:, [0, 2, 1, 3]], scalars, ptr) - out).abs().max() > 1e-3  # x and y exchanged
    order = torch.cat([torch.randperm(7), 7 + torch.randperm(6)])
    torch.testing.assert_close(model(x[order], scalars[order], ptr), out, rtol=1e-11, atol=1e-12)
