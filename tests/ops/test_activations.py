"""Tests the fused ops' activations against PyTorch's modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.ops.message_passing.activations import ACTIVATIONS, fused_activation
from equikernels.ops.message_passing.reference import activate

from ..support.golden import filled

NAN, INF = float("nan"), float("inf")


WAYS = ("channels", "edges", "layers")  # lanes across channels, across rows; a product and a pass over its rows


def applied(name: str, z: Tensor, way: str = "edges") -> Tensor:
    """act(z) of a column."""
    width = 60 if way == "layers" else 1  # too wide for lanes across rows
    layer = ek.Layer(torch.ones(width, 1, dtype=z.dtype), None, name, 0.2)
    if way != "channels":
        return ek.row_mlp(ek.EdgeMLP.of([layer]), z)[:, :1]
    graph = ek.Graph.from_edge_index(torch.arange(len(z)).expand(2, -1), len(z))
    out = ek.message_passing(ek.EdgeMLP.of([layer], order=("sender",)), graph, h=z).messages
    assert out is not None
    return out


def with_slope(f: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    z = z.clone().requires_grad_()
    out = f(z)
    return out.detach(), torch.autograd.grad(out.sum(), z)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_slopes_to_a_few_roundings(name: str, dtype: torch.dtype, way: str, backend: str) -> None:
    around = torch.linspace(-12, 12, 4801, dtype=torch.float64)
    far = torch.cat([torch.logspace(-30, 4, 500, dtype=torch.float64)] * 2) * torch.tensor([1.0, -1.0]).double().repeat(
        500
    )
    z = torch.cat([around, far, torch.tensor([-3.0, 3.0, 20.0, -20.0, 40.0, 88.0, -88.0, 709.0, -746.0])])
    z = z.to(dtype)[:, None]
    expected = with_slope(lambda z: activate(z, name, 0.2), z.double())
    for found, right in zip(with_slope(lambda z: applied(name, z, way), z), expected, strict=True):
        error = (found.double() - right).abs() / right.abs().clamp(min=1.0 if dtype == torch.float64 else 1e-1)
        assert float(error.max()) <= (1e-12 if dtype == torch.float64 else 16 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n != "gelu"])  # PyTorch's loops differ in gelu(inf)
def test_bad_values_are_those_of_torch(name: str, dtype: torch.dtype, backend: str) -> None:
    z = torch.tensor([NAN, INF, -INF, 0.0, -0.0], dtype=dtype).repeat(16)[:, None]  # the length of PyTorch's vectors
    (found, slope), (right, wanted) = (
        with_slope(f, z) for f in (lambda z: applied(name, z), lambda z: activate(z, name, 0.2))
    )
    torch.testing.assert_close(found, right, equal_nan=True)
    known = wanted.isfinite()
    torch.testing.assert_close(slope[known & ~z.isnan()], wanted[known & ~z.isnan()])
    assert not slope[~known & ~z.isnan()].isfinite().any()


MODULES: list[tuple[nn.Module, str]] = [
    (nn.Identity(), "identity"),
    (nn.ReLU(), "relu"),
    (nn.ReLU(inplace=True), "relu"),
    (nn.LeakyReLU(0.3), "leaky_relu"),
    (nn.SiLU(), "silu"),
    (nn.GELU(), "gelu"),
    (nn.GELU(approximate="tanh"), "gelu_tanh"),
    (nn.Tanh(), "tanh"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.ELU(), "elu"),
    (nn.CELU(), "elu"),
    (nn.Softplus(), "softplus"),
    (nn.Mish(), "mish"),
    (nn.Hardswish(), "hardswish"),
    (nn.PReLU(init=0.35).requires_grad_(False), "leaky_relu"),
    (nn.PReLU(init=-0.5).requires_grad_(False), "leaky_relu"),
]


@pytest.mark.parametrize(("module", "name"), MODULES, ids=[repr(m) for m, _ in MODULES])
def test_modules_have_the_fused_form_of_their_name(module: nn.Module, name: str) -> None:
    found, slope = fused_activation("op", "act", module)
    assert found == name
    z = torch.linspace(-5, 5, 101)[:, None]
    torch.testing.assert_close(activate(z, found, slope), module(z.clone()))


class Shifted(nn.Mish):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z) - 0.5


UNKNOWN: list[Any] = [
    nn.ELU(0.5), nn.CELU(2.0), nn.Softplus(2.0), nn.Softplus(threshold=10.0), nn.SELU(), nn.Hardsigmoid(), nn.PReLU(),
    nn.PReLU(3).requires_grad_(False), nn.PReLU().to("meta").requires_grad_(False), Shifted(), torch.relu, nn.ReLU,
    None,
]  # fmt: skip


@pytest.mark.parametrize("module", UNKNOWN, ids=lambda m: getattr(m, "__name__", type(m).__name__))
def test_others_have_none(module: Any) -> None:
    with pytest.raises(ValueError, match=r"op: act: expected one of SiLU, .* needs no gradient, got "):
        fused_activation("op", "act", module)


def test_a_prelu_is_fused_where_nobody_asks_for_its_gradient() -> None:
    module = nn.PReLU(init=0.1)
    with pytest.raises(ValueError, match="needs no gradient"):
        fused_activation("op", "act", module)
    with torch.no_grad():
        assert fused_activation("op", "act", module) == ("leaky_relu", float(module.weight))
        module.weight.fill_(0.7)
        assert fused_activation("op", "act", module) == ("leaky_relu", float(module.weight))
    with torch.inference_mode():
        assert fused_activation("op", "act", module)[0] == "leaky_relu"


@pytest.mark.parametrize("act", [nn.ELU(), nn.Softplus(), nn.Mish(), nn.Hardswish(), nn.GELU(approximate="tanh")])
def test_layers_take_them(act: nn.Module) -> None:
    """By the layer's fused op, and by its modules written out."""
    torch.manual_seed(0)
    layer = filled(ek.nn.EGCL(4, 4, 6, act_fn=act, clamp=None))
    h, x = torch.randn(5, 4).double(), torch.randn(5, 3).double()
    graph = ek.Graph.complete(torch.tensor([0, 5]))
    i, j = graph.receiver, graph.sender
    d = x[i] - x[j]
    m = layer.edge_mlp(torch.cat([h[i], h[j], (d * d).sum(1, keepdim=True)], dim=1))
    total = torch.zeros(5, 6).double().index_add(0, i, m)
    moved = x + torch.zeros_like(x).index_add(0, i, d * layer.coord_mlp(m)) / 4
    expected = h + layer.node_mlp(torch.cat([h, total], dim=1)), moved
    torch.testing.assert_close(layer(h, x, graph), expected, rtol=1e-12, atol=1e-12)
