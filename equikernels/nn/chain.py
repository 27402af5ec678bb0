"""Networks of the edge network op: built with the published keys, and read from anybody's modules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checks import fail
from ..ops.edge_network import EdgeLayer, EdgeNetwork, edge_network
from ..ops.edge_network.spec import NORM_EPS
from ..ops.message_passing.activations import fused_activation
from .plain import Layers, kind_of, obstacle, warn_once


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
        ValueError: another module, another order, or two slopes.
    """
    layers: list[EdgeLayer] = []
    slopes: set[float] = set()
    closed = True
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
            name, slope = fused_activation(op, argument, module, sigmoid=True)
            slopes |= {slope} if name == "leaky_relu" else set()
            layers[-1] = last._replace(activation=name)
            closed = True
    if not layers:
        fail(op, argument, "at least one Linear", repr(modules))
    return layers, one_slope(op, slopes)


def one_slope(op: str, slopes: set[float]) -> float:
    """The slope of all LeakyReLU, or the default where there is none.

    Raises:
        ValueError: they have different slopes.
    """
    if len(slopes) > 1:
        fail(op, "negative_slope", "one slope for all LeakyReLU", sorted(slopes))
    return next(iter(slopes), 0.01)


def chain_at(block: Any, path: str) -> Layers:
    """The paths and layers of the chain at ``path``, itself included, where a fused op may read them.

    Raises:
        ValueError: it is no Sequential, or :func:`chain_layers` cannot read it.
    """
    modules = block
    for name in filter(None, path.split(".")):
        modules = getattr(modules, name, None)
    if not isinstance(modules, nn.Sequential) or type(modules).forward is not nn.Sequential.forward:
        fail(type(block).__name__, path or "modules", "an nn.Sequential", type(modules).__name__)
    for k, layer in enumerate(modules):
        if not getattr(kind_of(layer), "__module__", "").startswith("torch.nn.modules."):
            fail(type(block).__name__, f"{path}.{k}".lstrip("."), "a layer of PyTorch's own", type(layer).__name__)
    chain_layers(type(block).__name__, path, modules)
    return [(path, modules), *((f"{path}.{k}".lstrip("."), layer) for k, layer in enumerate(modules))]


def chain_itself(modules: Any) -> Layers:
    """:func:`chain_at` of the chain itself."""
    return chain_at(modules, "")


class RowNetwork(NamedTuple):
    """A chain as it is applied to rows; where it is not plain, the chain itself."""

    network: EdgeNetwork | None
    slope: float
    modules: Any

    @classmethod
    def of(cls, op: str, argument: str, modules: Any) -> RowNetwork:
        if reason := obstacle(modules, chain_itself):
            warn_once(modules, f"{op}: {argument}", reason)
            return cls(None, 0.0, modules)
        layers, slope = chain_layers(op, argument, modules)
        return cls(EdgeNetwork.of(layers), slope, modules)

    def run(self, rows: Tensor, more: Tensor | None = None) -> Tensor:
        """The chain's output for each row, of ``rows`` and ``more`` side by side, in one pass."""
        if self.network is None:
            out: Tensor = self.modules(rows if more is None else torch.cat([rows, more], dim=1))
            return out
        edges = edge_network(
            self.network,
            None,
            receiver=rows,
            edge_attr=more,
            ends="inputs",
            edges_at=len(self.network.widths) - 1,
            negative_slope=self.slope,
        ).edges
        assert edges is not None
        return edges
