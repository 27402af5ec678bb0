"""Networks on inputs of another dtype than their weights: the result of the cast input, or an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.data import load_sample_jets, top_tagging_scalars, with_beams

JETS = load_sample_jets()[:3]
X, PTR, IS_BEAM = with_beams(JETS.p4, JETS.ptr)
N = X.shape[0]
GRAPH = ek.Graph.from_edge_index(torch.arange(40).view(2, 20).flip(0) % 12, 12)
POINTS = torch.linspace(0.2, 2.0, 36).sin().view(12, 3)
ROWS, EDGES = torch.linspace(-1, 1, 36).view(12, 3), torch.linspace(-1, 1, 80).view(20, 4)
WIDTHS = {"num_channels_m": [[5]], "num_channels_2to2": [4], "num_channels_out": [6], "num_channels_m_out": [5, 4]}

# name -> (network, its inputs, those it casts, those that must be of the dtype of the weights)
Case = tuple[Callable[[], nn.Module], dict[str, Any], tuple[str, ...], tuple[str, ...]]
CASES: dict[str, Case] = {
    "LorentzNet": (
        lambda: ek.models.LorentzNet(2, 8, n_layers=2),
        {"x": X, "scalars": top_tagging_scalars(X, IS_BEAM), "ptr": PTR},
        ("scalars",),
        (),
    ),
    "VecNet": (
        lambda: ek.models.VecNet(2, 8, 4, 3, n_layers=2),
        {"x": X, "scalars": top_tagging_scalars(X, IS_BEAM), "free": X[:, :3], "ptr": PTR},
        ("scalars", "free"),
        (),
    ),
    "LGN": (
        lambda: ek.models.LGN((1, 2, 1), n_basis=2),
        {"p4": X, "scalars": torch.linspace(-1, 1, N)[:, None], "ptr": PTR},
        ("scalars",),
        (),
    ),
    "PELICANClassifier": (
        lambda: ek.models.PELICANClassifier(num_channels_scalar=2, dataset="jc", **WIDTHS),
        {"p4": JETS.p4, "scalars": JETS.p4.repeat(1, 3), "ptr": JETS.ptr},
        ("scalars",),
        (),
    ),
    "PELICANNano": (lambda: ek.models.PELICANNano(2), {"p4": JETS.p4, "ptr": JETS.ptr}, (), ()),
    "EGNN": (
        lambda: ek.models.EGNN(3, 8, 8, 4, n_layers=2),
        {"h": ROWS, "x": POINTS, "graph": GRAPH, "edge_attr": EDGES},
        (),
        ("h", "edge_attr"),
    ),
    "EGNNVelocity": (
        lambda: ek.models.EGNNVelocity(3, 4, 8, n_layers=2),
        {"h": ROWS, "x": POINTS, "graph": GRAPH, "vel": ROWS, "edge_attr": EDGES},
        (),
        ("h", "edge_attr"),
    ),
    "RadialField": (
        lambda: ek.models.RadialField(8, 4, n_layers=2),
        {"x": POINTS, "graph": GRAPH, "vel": ROWS, "edge_attr": EDGES},
        (),
        ("edge_attr",),
    ),
    "EuclidNet": (lambda: ek.models.EuclidNet(8), {"x": POINTS, "graph": GRAPH}, (), ()),
    "EuclidNetSO3": (lambda: ek.models.EuclidNetSO3(8), {"x": POINTS, "graph": GRAPH}, (), ()),
    "InteractionNetwork": (
        lambda: ek.models.InteractionNetwork(8),
        {"x": POINTS, "graph": GRAPH, "edge_attr": EDGES},
        (),
        ("x", "edge_attr"),
    ),
    "VecNetTracking": (
        lambda: ek.models.VecNetTracking(8, 4, 3),
        {"x": POINTS, "graph": GRAPH, "free": ROWS},
        ("free",),
        (),
    ),
}


def built(name: str) -> tuple[nn.Module, dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    make, inputs, cast, strict = CASES[name]
    torch.manual_seed(0)
    return make().eval(), inputs, cast, strict


def logits(network: nn.Module, inputs: dict[str, Any]) -> Tensor:
    out = network(**inputs)
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("name", CASES)
def test_features_are_used_in_the_dtype_of_the_weights(name: str) -> None:
    network, inputs, cast, _ = built(name)
    for argument in cast:
        for dtype in (torch.float64, torch.float16, torch.bfloat16):
            given = {**inputs, argument: inputs[argument].to(dtype)}
            rounded = {**inputs, argument: given[argument].float()}
            out = logits(network, given)
            assert out.dtype == torch.float32
            assert torch.equal(out, logits(network, rounded))
        with pytest.raises(TypeError, match=f"{name}: {argument}: expected dtype float32 or float64 or .*, got int64"):
            network(**{**inputs, argument: inputs[argument].long()})


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_other_inputs_of_another_dtype_are_refused_by_name(name: str, dtype: torch.dtype) -> None:
    network, inputs, _, strict = built(name)
    for argument in strict:
        with pytest.raises(TypeError, match=rf"\w+: {argument}: expected .*dtype float32"):
            network(**{**inputs, argument: inputs[argument].to(dtype)})


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_16_bits_are_refused_by_name(name: str, dtype: torch.dtype) -> None:
    network, inputs, _, _ = built(name)
    network.to(dtype)
    low = {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in inputs.items()}
    coordinates = {k: v if k in ("x", "p4", "vel") else low[k] for k, v in inputs.items()}
    if name == "RadialField":  # its products are PyTorch's own
        assert logits(network, coordinates).isfinite().all()
        return
    for given in (inputs, coordinates):
        with pytest.raises(TypeError, match=f"{name}: weights: expected dtype float32 or float64 .*autocast.*float16"):
            network(**given)
    with pytest.raises(TypeError, match=rf"{name}: \w+: expected dtype float32 or float64"):
        network(**low)


@pytest.mark.parametrize("name", CASES)
def test_autocast_takes_what_it_took(name: str) -> None:
    network, inputs, cast, _ = built(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for argument in (None, *cast):
            given = inputs if argument is None else {**inputs, argument: inputs[argument].bfloat16()}
            assert logits(network, given).isfinite().all()


def test_float64_momenta_from_jets_to_logits() -> None:
    """The quick start with float64 four-momenta: a light particle keeps its mass, the network its dtype."""
    p4 = JETS.p4.double().requires_grad_()
    x, ptr, is_beam = with_beams(p4, JETS.ptr)
    scalars = top_tagging_scalars(x, is_beam)
    assert x.dtype == scalars.dtype == torch.float64
    network, inputs, _, _ = built("LorentzNet")
    for readout in ("masked_mean", "padded_mean"):
        network.readout = readout
        for training in (False, True):
            network.train(training)
            out = network(x, scalars, ptr)
            assert out.dtype == torch.float32
            torch.testing.assert_close(out, network(**inputs), rtol=1e-3, atol=1e-4)
    (grad,) = torch.autograd.grad(out.sum(), p4)
    assert grad.dtype == torch.float64
    assert grad.isfinite().all()


@pytest.mark.parametrize("argument", ["h", "node_attr", "edge_attr"])
@pytest.mark.parametrize("kind", [ek.nn.LGEB, ek.nn.EGCL])
def test_layers_name_what_is_of_another_dtype(kind: type[nn.Module], argument: str) -> None:
    widths = {"n_node_attr": 2, "n_edge_attr": 1} if kind is ek.nn.LGEB else {"nodes_att_dim": 2, "edges_in_d": 1}
    layer = kind(4, 4, 4, **widths)
    graph = ek.Graph.complete(torch.tensor([0, 3]))
    tables = {"h": torch.randn(3, 4), "node_attr": torch.randn(3, 2), "edge_attr": torch.randn(6, 1)}
    x = torch.randn(3, 4)
    layer(**tables, x=x, graph=graph)
    tables[argument] = tables[argument].double()
    with pytest.raises(TypeError, match=rf"^\w+: {argument}: expected dtype float32, got float64$"):
        layer(**tables, x=x, graph=graph)
