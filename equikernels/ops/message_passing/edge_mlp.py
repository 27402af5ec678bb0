"""EdgeMLP: the layers of a network on edges or rows, with their own parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ...checks import check_choice, check_number, check_tensor, fail
from .activations import ACTIVATIONS, fused_activation
from .known import recall, remember

PARTS = ("receiver", "sender", "invariants", "edge_attr")


class Norm(NamedTuple):
    """A norm between a linear layer and its activation.

    Attributes:
        kind: "batch" (over all edges or rows) or "layer" (over the channels of one).
        weight, bias: [C], or None.
        eps: added to the variance.
        mean, variance: of a batch norm, [C]: the statistics to use; None: those of the batch are measured.
        module: whose running averages are kept where statistics are measured, or None.
    """

    kind: str
    weight: Tensor | None = None
    bias: Tensor | None = None
    eps: float = 1e-5
    mean: Tensor | None = None
    variance: Tensor | None = None
    module: Any = None


def is_measured(norm: Norm) -> bool:
    """Whether the op measures its statistics. PyTorch 2.10 does not compile a property of a named tuple."""
    return norm.kind == "batch" and norm.mean is None


class Layer(NamedTuple):
    """y = activation(norm(W x + b)).

    Attributes:
        weight: W [out, in], as nn.Linear holds it.
        bias: b [out] or None.
        activation: a name, as :func:`message_passing` lists them.
        slope: of leaky_relu.
        norm: between the linear map and the activation, or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    activation: str = "identity"
    slope: float = 0.01
    norm: Norm | None = None


@dataclass(frozen=True, eq=False)
class EdgeMLP:
    """Layers, what leaves them as the message, a gate on it and a head behind it.

    Attributes:
        layers: all of them, those of the head last.
        depth: how many layers make the message; the rest is the head, which ends in one number.
        gate: a layer of one number w . m + b, through a sigmoid, that multiplies the message m; or None.
        order: the columns of the first layer's weight: "receiver", "sender", "invariants", "edge_attr", those there
            are.
    """

    layers: tuple[Layer, ...]
    depth: int
    gate: Layer | None = None
    order: tuple[str, ...] = PARTS
    calls: dict[Any, Any] = field(default_factory=dict, repr=False)  # what was worked out for calls with this network

    @classmethod
    def of(
        cls,
        *stages: Iterable[nn.Module] | Iterable[Layer],
        gate: Iterable[nn.Module] | Layer | None = None,
        head: Iterable[nn.Module] | Iterable[Layer] | None = None,
        order: Iterable[str] = PARTS,
        output: str | None = None,
    ) -> EdgeMLP:
        """Of modules as networks hold them: nn.Sequential of Linear, BatchNorm1d or LayerNorm, activations.

        The modules' own parameters are read; nothing is copied.

        Args:
            stages: the message's layers, in one part or several.
            gate: Linear to one number, Sigmoid; or a Layer.
            head: layers behind the message, the last one of width 1.
            order: see :class:`EdgeMLP`.
            output: the activation of the last layer, where the modules have none.

        Raises:
            ValueError, TypeError: layers that do not fit each other, or without a fused form; the message names them.
        """
        order = order if isinstance(order, tuple) else tuple(order)
        arguments = (*stages, gate, head, order, output)
        known: EdgeMLP | None = recall(arguments)
        if known is not None:
            return known
        made = [layer for stage in stages for layer in layers_of(stage)]
        depth = len(made)
        if head is not None:
            made += layers_of(head)
        if output is not None and made[-1].activation == "identity":
            made[-1] = made[-1]._replace(activation=output)
        if not isinstance(gate, Layer | None):
            gate = gate_of(gate)
        mlp = cls(tuple(made), depth, gate, order)
        mlp.check("EdgeMLP")
        remember(arguments, mlp)
        return mlp

    def signature(self) -> tuple[Any, ...]:
        """Everything but the numbers: networks of one signature run alike."""
        parts: list[Any] = [self.depth, self.order]
        for layer in self.layers if self.gate is None else (self.gate, *self.layers):
            weight, bias, activation, slope, norm = layer
            parts += (
                weight.shape,
                weight.dtype,
                weight.device,
                None if bias is None else bias.shape,
                activation,
                slope,
            )
            if norm is not None:
                shapes = [None if t is None else t.shape for t in (norm.weight, norm.bias, norm.mean, norm.variance)]
                parts += (norm.kind, norm.eps, *shapes)
        return tuple(parts)

    def check(self, op: str) -> None:
        """Raises ValueError or TypeError where the parts do not fit each other."""
        if not 1 <= self.depth <= len(self.layers):
            fail(op, "depth", f"1 to {len(self.layers)}, the layers", self.depth)
        for part in self.order:
            check_choice(op, "order", part, PARTS)
        if len(set(self.order)) != len(self.order):
            fail(op, "order", "each part once", self.order)
        first = self.layers[0].weight
        width: int | str = "in"
        for k, layer in enumerate(self.layers):
            name = f"layers[{k}]"
            check_tensor(op, f"{name} weight", layer.weight, ["out", width], like=first)
            width = layer.weight.shape[0]
            _check_vectors(op, name, width, first, bias=layer.bias)
            check_choice(op, f"{name} activation", layer.activation, ACTIVATIONS)
            if layer.activation == "leaky_relu":
                check_number(op, f"{name} slope", layer.slope)
            norm = layer.norm
            if norm is None:
                continue
            check_choice(op, f"{name} norm", norm.kind, ("batch", "layer"))
            check_number(op, f"{name} norm eps", norm.eps)
            _check_vectors(op, f"{name} norm", width, first, weight=norm.weight, bias=norm.bias)
            _check_vectors(op, f"{name} norm", width, first, mean=norm.mean, variance=norm.variance)
            if (norm.mean is None) != (norm.variance is None):
                fail(op, f"{name} norm", "mean and variance together", "one of them")
        if self.gate is not None:
            message = self.layers[self.depth - 1].weight.shape[0]
            check_tensor(op, "gate weight", self.gate.weight, [1, message], like=first)
            _check_vectors(op, "gate", 1, first, bias=self.gate.bias)
        if len(self.layers) > self.depth and self.layers[-1].weight.shape[0] != 1:
            fail(op, "head", "a last layer of width 1", self.layers[-1].weight.shape[0])

    def measured(self) -> list[Norm]:
        """The batch norms whose statistics the op measures, first layer first."""
        found: list[Norm] | None = self.calls.get("measured")
        if found is None:
            found = [layer.norm for layer in self.layers if layer.norm is not None and is_measured(layer.norm)]
            self.calls["measured"] = found
        return found

    def shape(self, attributes: int = 0) -> tuple[int, ...]:
        """The layers as the choice of a kernel depends on them: gate, inputs, bytes of a number, columns of edge
        attributes, then width, bias, affine norm of each."""
        first = self.layers[0].weight
        size = max(first.element_size(), 4)  # 16-bit numbers come as float32
        shape = [int(self.gate is not None), first.shape[1], size, attributes]
        for layer in self.layers:
            affine = layer.norm is not None and (layer.norm.weight is not None or layer.norm.bias is not None)
            shape += [layer.weight.shape[0], int(layer.bias is not None), int(affine)]
        return tuple(shape)

    def tensors(self) -> list[Tensor | None]:
        """The parameters, in the order of the op: the gate's two, then six of each layer."""
        known: list[Tensor | None] | None = self.calls.get("tensors")
        if known is not None:
            return known
        found: list[Tensor | None] = [None, None] if self.gate is None else [self.gate.weight, self.gate.bias]
        for layer in self.layers:
            norm = layer.norm
            found += [layer.weight, layer.bias]
            found += [None] * 4 if norm is None else [norm.weight, norm.bias, norm.mean, norm.variance]
        self.calls["tensors"] = found
        return found


def _check_vectors(op: str, name: str, width: int, like: Tensor, **vectors: Tensor | None) -> None:
    for what, vector in vectors.items():
        if vector is not None:
            check_tensor(op, f"{name} {what}", vector, [width], like=like)


def layers_of(modules: Iterable[Any]) -> list[Layer]:
    """Modules as layers: Linear, then a norm, then an activation, the last two where there are any.

    Raises:
        ValueError: another module, or another order.
    """
    if isinstance(modules, nn.Linear):
        return [Layer(modules.weight, modules.bias)]
    layers: list[Layer] = []
    stage = 2  # what the current layer has: 0 its linear map, 1 its norm, 2 its activation
    for module in modules:
        if isinstance(module, Layer):
            layers.append(module)
            stage = 2
        elif isinstance(module, nn.Linear):
            layers.append(Layer(module.weight, module.bias))
            stage = 0
        elif isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm) and stage == 0:
            layers[-1] = layers[-1]._replace(norm=norm_of(module, layers[-1].weight.shape[0]))
            stage = 1
        elif isinstance(module, nn.Dropout) and (not module.training or module.p == 0):
            continue
        elif stage < 2:
            name, slope = fused_activation("EdgeMLP", "activation", module)
            layers[-1] = layers[-1]._replace(activation=name, slope=slope if name == "leaky_relu" else 0.01)
            stage = 2
        else:
            fail("EdgeMLP", "layers", "Linear, norm, activation, in this order", type(module).__name__)
    if not layers:
        fail("EdgeMLP", "layers", "at least one Linear", "none")
    return layers


def norm_of(module: Any, width: int) -> Norm:
    """A module's norm as it works now."""
    if isinstance(module, nn.LayerNorm):
        if tuple(module.normalized_shape) != (width,):
            fail("EdgeMLP", "LayerNorm", f"one over the layer's {width} channels", tuple(module.normalized_shape))
        return Norm("layer", module.weight, module.bias, module.eps, module=module)
    if module.training or module.running_mean is None or module.running_var is None:
        return Norm("batch", module.weight, module.bias, module.eps, module=module)
    return Norm("batch", module.weight, module.bias, module.eps, module.running_mean, module.running_var, module)


def gate_of(modules: Iterable[Any]) -> Layer:
    """The gate's layer, of Linear and Sigmoid."""
    layers = layers_of(modules)
    if len(layers) != 1 or layers[0].activation != "sigmoid" or layers[0].norm is not None:
        fail("EdgeMLP", "gate", "Linear, Sigmoid", [layer.activation for layer in layers])
    return layers[0]


@torch.no_grad()
def keep_running(mlp: EdgeMLP, means: Tensor, variances: Tensor, count: Any) -> None:
    """Updates the running averages of all measured norms, whose means and unbiased variances lie side by side."""
    at = 0
    for layer in mlp.layers:
        if layer.norm is None or not is_measured(layer.norm):
            continue
        width = layer.weight.shape[0]
        part = (means, variances) if width == means.shape[0] else (means[at : at + width], variances[at : at + width])
        update_running(layer.norm.module, *part, count)
        at += width


def update_running(norm: Any, mean: Tensor, variance: Tensor, count: Any) -> None:
    """The running averages of a batch norm in training, as PyTorch keeps them.

    Args:
        norm: an nn.BatchNorm1d or its kin; nothing is done for None.
        mean, variance: [C], mean and unbiased variance of the batch.
        count: how many rows the batch had; with none the averages stay.
    """
    if norm is None or not norm.training or not norm.track_running_stats:
        return
    if norm.running_mean is None or norm.running_var is None:
        return
    momentum: Any = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if momentum is None:  # a plain average over all batches
            momentum = 1 / norm.num_batches_tracked
    if isinstance(count, int) and count == 0:
        return
    dtype = norm.running_mean.dtype
    now = [mean, variance] if mean.dtype == dtype else [mean.to(dtype), variance.to(dtype)]
    if isinstance(momentum, float) and torch._C._functorch.maybe_current_level() is None:
        torch._foreach_lerp_([norm.running_mean, norm.running_var], now, momentum)
        return
    for buffer, value in zip((norm.running_mean, norm.running_var), now, strict=True):
        buffer.lerp_(value, torch.as_tensor(momentum, dtype=value.dtype, device=value.device))
