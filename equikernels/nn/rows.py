"""Linear layers and batch norms over rows whose numbers do not depend on the number of threads.

PyTorch's own products and batch norms are split among threads, so that their last bits depend on how many there are.
The kernels of PELICAN's pairs sum in one order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import REAL
from ..ops.pairs.rows import pairwise_affine, pairwise_linear, pairwise_moments
from .linear import weight_and_bias
from .plain import Layers, kind_of, obstacle

FEW = 256  # rows, up to which a layer's time is that of starting it

_FUSED: dict[Any, str] = {nn.ReLU.forward: "relu", nn.LeakyReLU.forward: "leaky_relu"}
_CALLED = {
    kind.forward for kind in (nn.SiLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.Dropout, nn.Identity, nn.ELU, nn.Softplus)
}


def linear_rows(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``; in training on a CPU, and in deterministic mode, the same numbers on any number of threads."""
    return _product(rows, weight, bias) if _steady(rows, weight) else F.linear(rows, weight, bias)


def apply_linear(layer: Any, rows: Tensor, few: int = FEW) -> Tensor:
    """A linear layer on rows [n, K]; of fewer rows than ``few`` by PyTorch's product, outside deterministic mode."""
    if not _steady(rows, layer.weight, few) or obstacle(layer, _itself):
        out: Tensor = layer(rows)
        return out
    return _product(rows, *weight_and_bias(layer))


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = pairwise_linear(rows, weight, bias)
    assert isinstance(out, Tensor)
    return out


def apply_layers(modules: Any, rows: Tensor, few: int = FEW) -> Tensor:
    """An nn.Sequential of linear layers, batch norms and activations on rows [n, K]; ``few`` as in
    :func:`apply_linear`."""
    first = next((m for m in modules if isinstance(m, nn.Linear)), None)
    if first is None or not _steady(rows, weight_and_bias(first)[0], few) or obstacle(modules, _sequence, _unknown):
        result: Tensor = modules(rows)
        return result
    layers = list(modules)
    while layers:
        layer = layers.pop(0)
        forward = kind_of(layer)
        if forward is nn.BatchNorm1d.forward:
            rows = normed_rows(layer, rows, None)
        elif forward is not nn.Linear.forward:
            rows = layer(rows)
        else:
            following = kind_of(layers[0]) if layers else None
            slope = getattr(layers[0], "negative_slope", 0.01) if following in _FUSED else 0.01
            activation = _FUSED.get(following, "identity")
            normed = following is nn.BatchNorm1d.forward and _of_batch(layers[0])
            out = pairwise_linear(rows, *weight_and_bias(layer), activation, slope, moments=normed)
            if activation != "identity":
                layers.pop(0)
            if isinstance(out, tuple):
                rows = normed_rows(layers.pop(0), *out)
            else:
                rows = out
    return rows


def normed_rows(norm: Any, rows: Tensor, moments: Tensor | None) -> Tensor:
    """nn.BatchNorm1d of rows [n, C], whose mean and biased variance are ``moments``, if they are known."""
    n = rows.shape[0]
    if _of_batch(norm):
        if n < 2:
            out: Tensor = norm(rows)  # which refuses them
            return out
        mean, variance = (pairwise_moments(rows) if moments is None else moments).unbind()
        update_running(norm, mean.detach(), variance.detach(), n)
    else:
        mean, variance = norm.running_mean.double(), norm.running_var.double()
    scale = (variance + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -mean * scale if norm.bias is None else norm.bias - mean * scale
    return pairwise_affine(rows, scale.to(rows.dtype), shift.to(rows.dtype))


def _of_batch(norm: Any) -> bool:
    """Whether a norm takes the statistics of the batch."""
    return bool(norm.training or norm.running_mean is None or norm.running_var is None)


@torch.no_grad()
def update_running(norm: Any, mean: Tensor, variance: Tensor, rows: int) -> None:
    """The running statistics of a norm in training, as PyTorch keeps them, from mean and biased variance of rows."""
    if not norm.training or norm.running_mean is None or norm.running_var is None:
        return
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    momentum = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    for running, now in ((norm.running_mean, mean), (norm.running_var, variance * (rows / (rows - 1)))):
        running.lerp_(now.to(running.dtype), momentum)


def _steady(rows: Tensor, weight: Any, few: int = FEW) -> bool:
    """Whether rows pass a layer on a CPU, in full precision, that is trained on many rows or has to be deterministic.
    Elsewhere PyTorch's product is as good, and starts sooner."""
    trained = torch.is_grad_enabled() and (rows.requires_grad or getattr(weight, "requires_grad", False))
    return (
        ((trained and rows.shape[0] >= few) or torch.are_deterministic_algorithms_enabled())
        and isinstance(weight, Tensor)
        and rows.device.type == "cpu"
        and rows.dim() == 2
        and rows.dtype in REAL
        and weight.dtype == rows.dtype
        and not torch.is_autocast_enabled("cpu")
    )


def _itself(layer: Any) -> Layers:
    return [("the layer", layer)]


def _sequence(modules: Any) -> Layers:
    return [("the layers", modules), *((str(k), layer) for k, layer in enumerate(modules))]


def _unknown(layers: Layers) -> str | None:
    known = {nn.Sequential.forward, nn.Linear.forward, nn.BatchNorm1d.forward, *_FUSED, *_CALLED}
    for path, layer in layers:
        if type(layer).forward not in known:
            return f"{path} is a {type(layer).__name__}"
    return None
