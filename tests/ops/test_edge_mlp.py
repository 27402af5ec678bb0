"""EdgeMLP.of: modules read as layers, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.ops.message_passing.edge_mlp import is_measured

from ..support.golden import filled

ENDS = ("receiver", "sender")


def test_the_modules_own_parameters_are_read() -> None:
    norm = nn.BatchNorm1d(5)
    stage = nn.Sequential(nn.Linear(4, 5, bias=False), norm, nn.SiLU(), nn.Linear(5, 6), nn.LeakyReLU(0.3))
    gate, head = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid()), [nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 1)]
    mlp = ek.EdgeMLP.of(stage, gate=gate, head=head, order=ENDS)
    assert (mlp.depth, mlp.order) == (2, ENDS)
    assert [layer.activation for layer in mlp.layers] == ["silu", "leaky_relu", "tanh", "identity"]
    assert mlp.layers[0].weight is stage[0].weight
    assert mlp.layers[0].bias is None
    assert mlp.layers[1].slope == 0.3
    assert mlp.gate is not None
    assert mlp.gate.weight is gate[0].weight
    of_norm = mlp.layers[0].norm
    assert of_norm is not None
    assert (of_norm.module, of_norm.weight, is_measured(of_norm)) == (norm, norm.weight, True)
    norm.eval()
    of_norm = ek.EdgeMLP.of(stage, order=ENDS).layers[0].norm
    assert of_norm is not None
    assert of_norm.mean is norm.running_mean
    assert not is_measured(of_norm)


def test_stages_follow_each_other_and_may_be_layers() -> None:
    first, second = [nn.Linear(4, 5), nn.ReLU()], [ek.Layer(torch.zeros(2, 5), None, "tanh")]
    mlp = ek.EdgeMLP.of(first, second)
    assert [layer.activation for layer in mlp.layers] == ["relu", "tanh"]
    assert mlp.depth == 2


CHAINS: dict[str, Callable[[], nn.Sequential]] = {
    "dropout in evaluation": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 2)).eval(),
    "dropout of nothing": lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0), nn.ReLU(), nn.Linear(5, 2)),
    "layer norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5, elementwise_affine=False), nn.Linear(5, 2)),
    "affine layer norm": lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5, eps=0.1), nn.Mish(), nn.Linear(5, 2)),
    "norm in evaluation": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ELU(), nn.Linear(5, 2)).eval(),
    "norm in training": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)),
    "norms without averages": lambda: nn.Sequential(
        nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Softplus(), nn.Linear(5, 2)
    ).eval(),
    "norm last": lambda: nn.Sequential(nn.Linear(4, 5), nn.Hardswish(), nn.Linear(5, 2), nn.BatchNorm1d(2)),
    "no activations": lambda: nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2, bias=False)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_it_does_what_the_modules_do(name: str) -> None:
    """On edges and on rows."""
    modules = filled(CHAINS[name]())
    graph = ek.Graph.from_edge_index(torch.tensor([[0, 1, 2, 4, 4], [3, 3, 0, 2, 2]]), 5)
    h = torch.randn(5, 2, dtype=torch.float64)
    rows = torch.cat([h[graph.receiver], h[graph.sender]], dim=1)
    out = ek.message_passing(ek.EdgeMLP.of(modules, order=ENDS), graph, h=h, messages="none", edges=True).edges
    torch.testing.assert_close(out, modules(rows))
    torch.testing.assert_close(ek.row_mlp(ek.EdgeMLP.of(modules), rows), modules(rows))


W = torch.zeros
LINEAR = nn.Linear(3, 2)
REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("EdgeMLP: layers: expected at least one Linear, got none", lambda: ek.EdgeMLP.of([])),
    ("EdgeMLP: layers: expected Linear, norm, activation, in this order, got ReLU", lambda: ek.EdgeMLP.of([nn.ReLU()])),
    ("EdgeMLP: layers: .* got ReLU", lambda: ek.EdgeMLP.of([LINEAR, nn.ReLU(), nn.ReLU()])),
    ("EdgeMLP: layers: .* got BatchNorm1d", lambda: ek.EdgeMLP.of([LINEAR, nn.ReLU(), nn.BatchNorm1d(2)])),
    ("EdgeMLP: activation: .* got Dropout", lambda: ek.EdgeMLP.of([LINEAR, nn.Dropout()])),
    ("EdgeMLP: activation: .* got SELU", lambda: ek.EdgeMLP.of([LINEAR, nn.SELU()])),
    ("EdgeMLP: LayerNorm: expected one over the layer's 2 channels", lambda: ek.EdgeMLP.of([LINEAR, nn.LayerNorm(3)])),
    (r"EdgeMLP: layers\[1\] weight: expected shape \[out, 2\]", lambda: ek.EdgeMLP.of([LINEAR, LINEAR])),
    (r"EdgeMLP: layers\[0\] bias: expected shape \[2\]", lambda: ek.EdgeMLP.of([ek.Layer(W(2, 3), W(3))])),
    (
        r"EdgeMLP: layers\[0\] bias: expected dtype float32, got float64",
        lambda: ek.EdgeMLP.of([ek.Layer(W(2, 3), W(2).double())]),
    ),
    (r"EdgeMLP: layers\[0\] activation: expected one of", lambda: ek.EdgeMLP.of([ek.Layer(W(2, 3), None, "swish")])),
    (
        r"EdgeMLP: layers\[0\] norm: expected one of batch, layer",
        lambda: ek.EdgeMLP.of([ek.Layer(W(2, 3), norm=ek.Norm("group"))]),
    ),
    (
        r"EdgeMLP: layers\[0\] norm: expected mean and variance together",
        lambda: ek.EdgeMLP.of([ek.Layer(W(2, 3), norm=ek.Norm("batch", mean=W(2)))]),
    ),
    (
        r"EdgeMLP: layers\[0\] norm weight: expected shape \[2\]",
        lambda: ek.EdgeMLP.of([LINEAR, nn.BatchNorm1d(3)]),
    ),
    ("EdgeMLP: gate: expected Linear, Sigmoid", lambda: ek.EdgeMLP.of([LINEAR], gate=[nn.Linear(2, 1)])),
    (
        r"EdgeMLP: gate weight: expected shape \[1, 2\]",
        lambda: ek.EdgeMLP.of([LINEAR], gate=[nn.Linear(3, 1), nn.Sigmoid()]),
    ),
    ("EdgeMLP: head: expected a last layer of width 1, got 2", lambda: ek.EdgeMLP.of([LINEAR], head=[nn.Linear(2, 2)])),
    ("EdgeMLP: order: expected one of receiver", lambda: ek.EdgeMLP.of([LINEAR], order=["nodes"])),
    ("EdgeMLP: order: expected each part once", lambda: ek.EdgeMLP.of([LINEAR], order=["sender", "sender"])),
]


@pytest.mark.parametrize(("message", "make"), REFUSED, ids=[str(k) for k in range(len(REFUSED))])
def test_refusals_name_the_part(message: str, make: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        make()


def test_a_row_network_has_neither_gate_nor_head() -> None:
    rows: Tensor = torch.zeros(4, 3)
    gate, head = [nn.Linear(2, 1), nn.Sigmoid()], [nn.Linear(2, 1)]
    for made in (ek.EdgeMLP.of([LINEAR], gate=gate), ek.EdgeMLP.of([LINEAR], head=head)):
        with pytest.raises(ValueError, match="row_mlp: mlp: expected layers alone, got a gate or a head"):
            ek.row_mlp(made, rows)
