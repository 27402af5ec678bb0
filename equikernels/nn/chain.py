"""Networks of the edge network op: built with the published keys, and read from anybody's modules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from ..checks import fail
from ..ops.edge_network import EdgeLayer, EdgeNetwork, edge_network
from ..ops.edge_network.spec import NORM_EPS
from .activation import fused_activation


def chain(widths: Sequence[int], activation: nn.Module, norm: bool, end: nn.Module | None = None) -> nn.Sequential:
    """Linear layers from widths[0] to widths[-1]; between them (LayerNorm without affine and) the activation; after
    the last one the same with ``end``, if there is one."""
    modules: list[nn.Module] = []
    for k, (n_in, n_out) in enumerate(pairwise(widths)):
        modules.append(nn.Linear(n_in, n_out))
        after = activation if k < len(widths) - 2 else end
        if after is not None:
            modules += [*([nn.LayerNorm(n_out, elementwise_affine=False)] if norm else []), after]
    return nn.Sequential(*modules)


def chain_layers(op: str, argument: str, modules: Any) -> tuple[list[EdgeLayer], float]:
    """The layers of a Sequential of Linear, LayerNorm (no affine) and activations, and the slope of its LeakyReLU.

    Raises:
        ValueError: another module, or another order.
    """
    layers: list[EdgeLayer] = []
    slope, closed = 0.01, True
    for module in modules:
        last = layers[-1] if layers else None
        if isinstance(module, nn.Linear):
            layers.append(EdgeLayer(module.weight, module.bias))
            closed = False
        elif last is None or closed:
            fail(op, argument, "Linear, LayerNorm, activation, in this order", repr(modules))
        elif isinstance(module, nn.LayerNorm):
            plain = module.weight is None and module.eps == NORM_EPS
            if last.norm or not plain or tuple(module.normalized_shape) != (last.weight.shape[0],):
                fail(op, argument, f"LayerNorm over the layer, without affine, eps {NORM_EPS}", repr(module))
            layers[-1] = last._replace(norm=True)
        else:
            name, slope_here = fused_activation(op, argument, module, sigmoid=True)
            slope = slope_here if name == "leaky_relu" else slope
            layers[-1] = last._replace(activation=name)
            closed = True
    if not layers:
        fail(op, argument, "at least one Linear", repr(modules))
    return layers, slope


def row_network(op: str, argument: str, modules: Any) -> EdgeNetwork:
    """A chain as it is applied to rows."""
    return EdgeNetwork.of(chain_layers(op, argument, modules)[0])


def apply_rows(network: EdgeNetwork, rows: Tensor, more: Tensor | None = None) -> Tensor:
    """The chain's output for each row, of ``rows`` and ``more`` side by side, in one pass."""
    last = len(network.widths) - 1
    out = edge_network(network, None, receiver=rows, edge_attr=more, ends="inputs", edges_at=last).edges
    assert out is not None
    return out
