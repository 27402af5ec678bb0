"""The published PELICAN layers (arXiv 2307.16506) on padded tensors [B, N, N, C]: aggregators, messages, both in turn.

A layer of aggregators sees its padding: its own forward does too, whatever stands there. Messages set theirs to zero,
so that where messages and aggregators alternate, all runs on packed pairs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..graph import Graph
from ..models.pelican_nano import BASIS
from ..ops.pairs import Aggregation, PairBatch, linear_1to2, linear_2to0, linear_2to1, linear_2to2
from .edges import GraphCache
from .pairs import all_pairs, padded_rows
from .probe import Numbers, Probe, odd_mask, probe_mask
from .recipe import NotRecognisedError, OwnForward, Recipe, expect
from .takes import can_pack, takes_nobj, takes_rank2

ARGUMENTS = ("mask", "nobj", "softmask_ir", "irc_weight")  # behind the tensor
EXTREMA = frozenset("xnXN")
# ranks -> the op, the maps of the first letter and of each further one, maps that a soft mask leaves alone
LAYERS: dict[str, tuple[Callable[..., Tensor], int, int, int]] = {
    "2to2": (linear_2to2, 15, 10, 3),
    "2to1": (linear_2to1, 5, 0, 3),
    "1to2": (linear_1to2, 5, 0, 3),
    "2to0": (linear_2to0, 2, 2, 2),
}


@dataclass
class Aggregators(Recipe):
    """forward(x, mask, nobj[, softmask_ir], irc_weight) of Eq2to2, Eq2to1, Eq2to0 and Eq1to2."""

    name = "PELICAN aggregators"
    attributes = ("config", "average_nobj", "alphas", "bias", "activation_fn")

    ranks: str = "2to2"
    basis: tuple[int, ...] | None = None  # numbers (from 1) of the maps there are, of a layer that has not all
    own_dtype: bool = True  # whether ln nobj is of the tensor's dtype; else of torch's default one, as of any integer

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        config = module.config
        if not isinstance(config, str) or not config or not set(config) <= set("smxnSMXN"):
            raise NotRecognisedError(f"config is {config!r}")
        activation, _ = fused_activation(module)
        if activation is None and module.activate_agg:
            raise NotRecognisedError(f"aggregates are activated by {type(module.activation_fn).__name__}")
        expect_arguments(module)
        shape = coefficients(module).shape
        found = [
            ranks
            for ranks, (_, maps, further, _) in LAYERS.items()
            if shape[-1] == maps + further * (len(config) - 1) and (further or len(config) == 1)
        ]
        maps: list[tuple[str, tuple[int, ...] | None]] = [(ranks, None) for ranks in found]
        if len(shape) == 3 and shape[-1] == len(BASIS) and len(config) == 1:
            maps.append(("2to2", BASIS))  # PELICAN-nano
        if len(shape) != 3 or not maps:
            raise NotRecognisedError(f"coefs of shape {list(shape)} do not belong to config {config!r}")
        kinds = dtypes(module) if set(config) & EXTREMA else [True]
        return [cls(cache, ranks=ranks, basis=basis, own_dtype=own) for ranks, basis in maps for own in kinds]

    def known(self) -> set[int]:
        return {k for k, p in enumerate(self.parameters) if k == 0 or p.name in ARGUMENTS}

    def called(self, module: Any) -> tuple[str, ...]:
        return () if fused_activation(module)[0] else ("activation_fn",)

    def run(self, module: Any, arguments: list[Any]) -> Any:
        x, *_ = arguments
        given = self.named(arguments)
        mask = given.get("mask")
        in_dims = 2 + int(self.ranks[0])
        expect(self.takes(module, given))
        expect(isinstance(x, Tensor) and x.dim() == in_dims and x.shape[1] == x.shape[in_dims - 2], "its input's shape")
        takes_rank2(x, module.bias, coefficients(module).shape[0])
        events, size = x.shape[:2]
        expect(takes_nobj(module, given.get("nobj"), events), "nobj of another shape than [B, 1]")
        out = self.packed(
            module,
            x.reshape(-1, x.shape[-1]),
            all_pairs(events, size, x.device),
            given.get("nobj"),
            given.get("irc_weight"),
            soft=given.get("softmask_ir"),
        )
        out = out.view(events, *[size] * int(self.ranks[-1]), -1)
        return (out if mask is None else out * mask,)

    def takes(self, module: Any, given: dict[str, Any]) -> bool:
        """Whether there is a fused form with these arguments."""
        letters, soft = set(module.config), given.get("softmask_ir")
        return (
            (given.get("nobj") is not None or letters == {"s"})
            and (given.get("irc_weight") is None or not letters & EXTREMA)
            and (soft is None or (len(module.config) == 1 and not module.activate_agg))
        )

    def packed(
        self,
        module: Any,
        rows: Tensor,
        pairs: Graph,
        nobj: Tensor | None,
        weight: Tensor | None,
        padded_to: int | None = None,
        soft: Tensor | None = None,
    ) -> Tensor:
        """The layer on packed rows, before the mask."""
        if set(module.config) == {"s"}:
            nobj = None  # it is not looked at
        if nobj is not None:
            nobj = nobj.reshape(-1).to(rows.dtype) if self.own_dtype else nobj.reshape(-1)
        linear, _, _, free = LAYERS[self.ranks]
        activation, slope = fused_activation(module)
        batch = PairBatch(pairs, None if weight is None else weight.reshape(-1), nobj, padded_to)
        how = Aggregation(
            module.config,
            float(module.average_nobj),
            [alpha for alpha in module.alphas if alpha is not None],
            self.basis,
            activation if activation and module.activate_agg else "identity",
        )
        options: dict[str, Any] = {"how": how, "negative_slope": slope}
        biases = {"bias": module.bias.flatten()}
        if getattr(module, "diag_bias", None) is not None:
            biases["diag_bias"] = module.diag_bias.flatten()
        coefs = coefficients(module)
        if soft is None:
            options["activation"] = activation if activation and module.activate_lin else "identity"
            out = linear(rows, batch, coefs, **biases, **options)
            return module.activation_fn(out) if module.activate_lin and not activation else out
        places = torch.arange(coefs.shape[2], device=coefs.device)
        if self.basis is not None:
            places = torch.tensor(self.basis, device=coefs.device) - 1
        masked = (places >= free).to(coefs.dtype)
        out = linear(rows, batch, coefs * (1 - masked), **biases, **options)
        soft = soft.expand(-1, 1, 1, *[-1] * int(self.ranks[-1])).reshape(-1, 1)
        out = out + soft * linear(rows, batch, coefs * masked, **options)
        return module.activation_fn(out) if module.activate_lin else out

    def probes(self, module: Any) -> Iterator[Probe]:
        real, pairs = probe_mask(module.bias.device)
        numbers = Numbers(module.bias.device)
        events, size = real.shape
        rank_in, rank_out = int(self.ranks[0]), int(self.ranks[-1])
        x = numbers.table(events * size**rank_in, coefficients(module).shape[0])
        if self.basis is not None:  # of a layer for symmetric tensors
            x = x.view(events, size, size, -1)
            x = x + x.transpose(1, 2)
        weight = numbers.table(events, size).abs()
        soft = numbers.table(events, size**rank_out).view(events, 1, 1, *[size] * rank_out)
        given = {
            "mask": {2: pairs, 1: real[..., None], 0: None}[rank_out],
            "nobj": real.sum(-1, keepdim=True),
        }
        _, *parameters = self.parameters
        names = [p.name for p in parameters]
        x = x.reshape(events, *[size] * rank_in, -1)
        tried: list[dict[str, Any]] = [{}, {"mask": None}, {"nobj": None}, {"mask": None, "nobj": None}]
        tried += [{"irc_weight": weight}, {"softmask_ir": soft}, {"softmask_ir": soft, "irc_weight": weight}]
        for other in tried:
            case = given | other
            if set(other) <= set(names) and self.takes(module, case):
                values = [case.get(name, self.fixed.get(k)) for k, name in enumerate(names, 1)]
                kind = "" if self.basis is None else "a symmetric tensor "
                yield Probe(
                    [x, *values], f"{kind}with {', '.join(n for n in names if case.get(n) is not None) or 'x alone'}"
                )


@dataclass
class Messages(Recipe):
    """forward(x, mask) of MessageNet: linear layers with activations, then masked BatchNorm, or none."""

    name = "PELICAN messages"
    attributes = ("linear", "activations", "masked")

    own_dtype: bool = True  # whether 1 / rows is of the tensor's dtype; else of torch's default one

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        if not isinstance(module.linear, nn.ModuleList) or not all(isinstance(m, nn.Linear) for m in module.linear):
            raise NotRecognisedError("linear has other layers than the published block")
        if len(module.activations) != len(module.linear):
            raise NotRecognisedError("an activation for each linear layer was expected")
        norm = normalisation(module)
        if norm is None and not len(module.linear):
            raise NotRecognisedError("it has no layers")
        if norm is not None and not (isinstance(norm, _BatchNorm) and norm.running_mean is not None):
            raise NotRecognisedError(f"its norm is {type(norm).__name__}, not one over the pairs of a batch")
        return [cls(cache, own_dtype=own) for own in (dtypes(module) if norm is not None else [True])]

    def known(self) -> set[int]:
        return {0, 1}

    def called(self, module: Any) -> tuple[str, ...]:
        return ("linear", "activations")

    def run(self, module: Any, arguments: list[Any]) -> Any:
        x, mask = arguments[:2]
        expect(can_pack(x, mask))
        rows = padded_rows(mask, self.cache)
        return (rows.unpack(self.packed(module, rows.pack(x)), x.shape),)

    def packed(self, module: Any, rows: Tensor) -> Tensor:
        for linear, activation in zip(module.linear, module.activations, strict=True):
            rows = activation(linear(rows))
        norm = normalisation(module)
        return rows if norm is None else batch_norm(norm, rows, self.own_dtype)

    def probes(self, module: Any) -> Iterator[Probe]:
        layers = module.linear
        width = layers[0].in_features if len(layers) else normalisation(module).num_features
        device = next(module.parameters()).device
        for seed, pairs in enumerate((probe_mask(device)[1], odd_mask(device))):
            x = Numbers(device, seed).table(*pairs.shape[:3], width)
            yield Probe([x, pairs, *self.fixed.values()], "pairs" if seed == 0 else "a mask that is not one of pairs")


@dataclass
class Alternating(Recipe):
    """forward(x, mask, nobj[, softmask_ir], irc_weight) of Net2to2: messages, dropout, aggregators, on packed pairs."""

    name = "PELICAN stack"
    attributes = ("message_layers", "eq_layers")

    messages: list[Messages] = field(default_factory=list)
    aggregators: list[Aggregators] = field(default_factory=list)

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        expect_arguments(module)
        if not len(module.message_layers) == len(module.eq_layers) > 0:
            raise NotRecognisedError("it has not as many message_layers as eq_layers")
        messages = [variants(part, Messages, cache) for part in module.message_layers]
        aggregators = [variants(part, Aggregators, cache) for part in module.eq_layers]
        return [
            cls(
                cache,
                messages=[m[i % len(m)] for m in messages],
                aggregators=[a[k % len(a)] for a in aggregators],
            )
            for i in range(max(map(len, messages)))
            for k in range(max(map(len, aggregators)))
        ]

    def known(self) -> set[int]:
        return {k for k, p in enumerate(self.parameters) if k == 0 or p.name in ARGUMENTS}

    def called(self, module: Any) -> tuple[str, ...]:
        inside = ["dropout_layer"]
        for k, (messages, aggregators) in enumerate(zip(self.messages, self.aggregators, strict=True)):
            inside += [f"message_layers.{k}.{path}" for path in messages.called(module.message_layers[k])]
            inside += [f"eq_layers.{k}.{path}" for path in aggregators.called(module.eq_layers[k])]
        return tuple(inside)

    def run(self, module: Any, arguments: list[Any]) -> Any:
        x, *_ = arguments
        given = self.named(arguments)
        mask: Any = given.get("mask")
        nobj, weight = given.get("nobj"), given.get("irc_weight")
        parts = list(zip(module.message_layers, self.messages, module.eq_layers, self.aggregators, strict=True))
        expect(can_pack(x, mask) and given.get("softmask_ir") is None and x.dim() == 4)
        expect(all(recipe.takes(part, given) for _, _, part, recipe in parts))
        expect(all(takes_nobj(part, nobj, x.shape[0]) for _, _, part, _ in parts), "nobj of another shape than [B, 1]")
        where = padded_rows(mask, self.cache)
        if where.pairs is None or where.particles is None:
            raise OwnForward
        if weight is not None:
            weight = weight.reshape(-1)[where.particles]
        rows = where.pack(x)
        for message_layer, message, layer, aggregators in parts:
            rows = message.packed(message_layer, rows)
            if getattr(module, "dropout", False):
                rows = module.dropout_layer(rows)
            rows = aggregators.packed(layer, rows, where.pairs, nobj, weight, padded_to=x.shape[1])
        return (where.unpack(rows, x.shape),)

    def probes(self, module: Any) -> Iterator[Probe]:
        x = next(self.messages[0].probes(module.message_layers[0])).arguments[0]
        first = self.aggregators[0]
        first.parameters, first.fixed = self.parameters, self.fixed
        for probe in first.probes(module.eq_layers[0]):
            given = self.named(probe.arguments)
            if given.get("softmask_ir") is None and given.get("mask") is not None:
                yield Probe([x, *probe.arguments[1:]], probe.label)


def coefficients(module: Any) -> Tensor:
    """W [C, D, maps], of four factors where there are such."""
    if getattr(module, "coefs00", None) is None:
        coefs: Tensor = module.coefs
        return coefs
    first = module.coefs00[:, None, :] * module.coefs10[:, :, None]
    product: Tensor = first + module.coefs01[None, :, :] * module.coefs11[:, :, None]
    return product


def fused_activation(module: Any) -> tuple[str | None, float]:
    """How the ops name a layer's activation, and its slope; None where they have none such."""
    activation = module.activation_fn
    if isinstance(activation, nn.LeakyReLU) and activation.negative_slope > 0:
        return "leaky_relu", activation.negative_slope
    return ("relu" if isinstance(activation, nn.ReLU) else None), 0.01


def normalisation(module: Any) -> Any:
    return module.normlayer if getattr(module, "batchnorm", None) else None


def batch_norm(norm: Any, rows: Tensor, own_dtype: bool = True) -> Tensor:
    """Masked BatchNorm without anything to mask; running statistics are used for a single row, and kept."""
    momentum, n = norm.momentum or 0.0, rows.shape[0]
    mean, variance, eps = norm.running_mean, norm.running_var, norm.eps
    rows = rows.to(mean.dtype)  # from autocast
    if norm.training:
        norm.num_batches_tracked += 1
        if norm.momentum is None:
            momentum = 1.0 / float(norm.num_batches_tracked)
    batch = norm.training and n > 1
    if own_dtype or not batch:
        return F.batch_norm(rows, mean, variance, norm.weight, norm.bias, batch, momentum, eps)
    share = (1 / torch.tensor(n)).item()
    batch_mean = share * rows.sum(0)
    batch_variance = share * rows.square().sum(0) - batch_mean.square()
    with torch.no_grad():
        mean.lerp_(batch_mean, momentum)
        variance.lerp_(batch_variance * n / (n - 1), momentum)
    scale = (batch_variance + eps).rsqrt()
    if norm.weight is None:
        return (rows - batch_mean) * scale
    return (rows - batch_mean) * (scale * norm.weight) + norm.bias


def dtypes(module: Any) -> list[bool]:
    """Whether integers become numbers of the tensor's dtype, or of torch's default one. In float64, in which blocks are
    compared, these are two formulas."""
    return [False, True] if torch.get_default_dtype() != torch.float64 else [True]


def variants(module: Any, kind: type[Any], cache: GraphCache) -> list[Any]:
    """The recipes of a layer of a stack."""
    for attribute in kind.attributes:
        if getattr(module, attribute, None) is None:
            raise NotRecognisedError(f"one of its layers has no {attribute}")
    found = [recipe for recipe in kind.read(module, cache) if getattr(recipe, "ranks", "2to2") == "2to2"]
    if not found:
        raise NotRecognisedError("one of its eq_layers is not from pairs to pairs")
    return found


def expect_arguments(module: Any) -> None:
    _, *names = inspect.signature(module.forward).parameters
    unknown = [name for name in names if name not in ARGUMENTS]
    if unknown:
        raise NotRecognisedError(f"its forward takes {', '.join(unknown)}, which the published layer does not")
