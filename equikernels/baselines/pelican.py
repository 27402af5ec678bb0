"""PELICAN as published (arXiv 2307.16506): padded [B, N, N, C] tensors and masks, all aggregators stacked, one einsum.
Padding is zero; it takes part in maxima and minima."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.pelican_inputs import STABILIZERS
from ..packing import unpack


def aggregate(values: Tensor, dims: tuple[int, ...], letter: str, nobj: Tensor, nbar: float) -> Tensor:
    """Over one or two particle indices of [B, C, N, ...]."""
    count = nobj.view(-1, *[1] * (values.dim() - len(dims) - 1))
    if letter == "s":
        return values.sum(dims) / nbar ** len(dims)
    if letter == "m":
        return values.sum(dims) / count ** len(dims)
    return values.amax(dims) - count.log() if letter == "x" else values.amin(dims) + count.log()


def maps_2to2(
    T: Tensor, nobj: Tensor, config: str = "s", nbar: float = 49.0, alphas: Sequence[Tensor] | None = None
) -> Tensor:
    """The 15 + 10 (len(config) - 1) maps of T [B, C, N, N], stacked: [B, C, maps, N, N]."""
    size = T.shape[-1]

    def everywhere(x: Tensor) -> Tensor:
        return x[:, :, None, None].expand(-1, -1, size, size)

    def rows(x: Tensor) -> Tensor:
        return x[:, :, :, None].expand(-1, -1, -1, size)

    def columns(x: Tensor) -> Tensor:
        return x[:, :, None, :].expand(-1, -1, size, -1)

    def on_diagonal(x: Tensor) -> Tensor:
        return torch.diag_embed(x)

    diagonal = T.diagonal(dim1=2, dim2=3)
    maps = [torch.stack([T, T.transpose(2, 3), on_diagonal(diagonal), columns(diagonal), rows(diagonal)], dim=2)]
    rest = iter(alphas or ())
    for letter in config:
        kind = letter.lower()
        over_rows, over_columns = aggregate(T, (3,), kind, nobj, nbar), aggregate(T, (2,), kind, nobj, nbar)
        trace, total = aggregate(diagonal, (2,), kind, nobj, nbar), aggregate(T, (2, 3), kind, nobj, nbar)
        of_letter = torch.stack(
            [
                on_diagonal(over_columns),
                columns(over_columns),
                rows(over_columns),
                on_diagonal(over_rows),
                columns(over_rows),
                rows(over_rows),
                everywhere(trace),
                on_diagonal(trace[:, :, None].expand(-1, -1, size)),
                everywhere(total),
                on_diagonal(total[:, :, None].expand(-1, -1, size)),
            ],
            dim=2,
        )
        if letter.isupper():
            alpha = next(rest).view(1, -1, 10, 1, 1)
            of_letter = of_letter * (nobj / nbar).view(-1, 1, 1, 1, 1) ** alpha
        maps.append(of_letter)
    return torch.cat(maps, dim=2)


def linear_2to2(
    T: Tensor,
    mask: Tensor,
    coefs: Tensor,
    bias: Tensor,
    diag_bias: Tensor,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Sequence[Tensor] | None = None,
) -> Tensor:
    """One 2 -> 2 layer: T [B, N, N, C], mask [B, N] of real particles, coefs [C, D, maps]; [B, N, N, D]."""
    nobj = mask.sum(1).to(T.dtype)
    maps = maps_2to2(T.permute(0, 3, 1, 2), nobj, config, nbar, alphas)
    out = torch.einsum("dsb,ndbij->nijs", coefs, maps)
    size = T.shape[1]
    out = out + bias + torch.eye(size, dtype=T.dtype, device=T.device)[:, :, None] * diag_bias
    return F.leaky_relu(out, 0.01) * pairs_of(mask)


def linear_1to2(
    x: Tensor,
    mask: Tensor,
    coefs: Tensor,
    bias: Tensor,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Sequence[Tensor] | None = None,
) -> Tensor:
    """The 1 -> 2 layer: x [B, N, C], mask [B, N], coefs [C, D, 5]; [B, N, N, D]."""
    nobj, size = mask.sum(1).to(x.dtype), x.shape[1]
    x = x.transpose(1, 2)
    total = aggregate(x, (2,), config.lower(), nobj, nbar)[:, :, None].expand(-1, -1, size)
    rows, columns = x[:, :, :, None].expand(-1, -1, -1, size), x[:, :, None, :].expand(-1, -1, size, -1)
    everywhere = total[:, :, :, None].expand(-1, -1, -1, size)
    maps = torch.stack([torch.diag_embed(x), columns, rows, torch.diag_embed(total), everywhere], dim=2)
    if config.isupper():
        maps = maps * (nobj / nbar).view(-1, 1, 1, 1, 1) ** next(iter(alphas or ()))
    out = torch.einsum("dsb,ndbij->nijs", coefs, maps) + bias
    return F.leaky_relu(out, 0.01) * pairs_of(mask)


def linear_2to0(
    T: Tensor,
    mask: Tensor,
    coefs: Tensor,
    bias: Tensor,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Sequence[Tensor] | None = None,
) -> Tensor:
    """The last layer: T [B, N, N, C], mask [B, N], coefs [C, D, 2 letters]; aggregates are activated; [B, D]."""
    nobj = mask.sum(1).to(T.dtype)
    T = T.permute(0, 3, 1, 2)
    diagonal, rest, maps = T.diagonal(dim1=2, dim2=3), iter(alphas or ()), []
    for letter in config:
        kind = letter.lower()
        both = aggregate(T, (2, 3), kind, nobj, nbar), aggregate(diagonal, (2,), kind, nobj, nbar)
        of_letter = torch.stack(both, dim=2)
        maps.append(of_letter * (nobj / nbar).view(-1, 1, 1) ** next(rest) if letter.isupper() else of_letter)
    return torch.einsum("dsb,ndb->ns", coefs, F.leaky_relu(torch.cat(maps, dim=2), 0.01)) + bias


def pairs_of(mask: Tensor) -> Tensor:
    """bool [B, N, N, 1] of mask [B, N]."""
    return (mask[:, :, None] & mask[:, None, :])[..., None]


class MaskedBatchNorm(nn.BatchNorm1d):
    """BatchNorm of T [B, N, N, C] over the pairs of real particles; zero elsewhere."""

    def forward(self, T: Tensor, pairs: Tensor | None = None) -> Tensor:
        assert pairs is not None
        mean, variance = self.running_mean, self.running_var
        assert mean is not None
        assert variance is not None
        if self.training:
            T = T * pairs
            n = pairs.sum()
            batch_mean = T.sum((0, 1, 2)) / n
            batch_variance = (T * T).sum((0, 1, 2)) / n - batch_mean**2
            with torch.no_grad():
                mean.lerp_(batch_mean, 0.1)
                variance.lerp_(batch_variance * n / (n - 1), 0.1)
            mean, variance = batch_mean, batch_variance
        return ((T - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias) * pairs


class MessageLayer(nn.Module):
    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.normlayer = MaskedBatchNorm(widths[-1])

    def forward(self, T: Tensor, pairs: Tensor) -> Tensor:
        for linear in self.linear:
            T = F.leaky_relu(linear(T), 0.01)
        return self.normlayer(T * pairs, pairs)


class Equivariant(nn.Module):
    """Parameters of one equivariant layer, all zero until a state dict is loaded."""

    coefs: Tensor
    coefs00: Tensor
    coefs01: Tensor
    coefs10: Tensor
    coefs11: Tensor
    bias: Tensor
    diag_bias: Tensor

    def __init__(self, config: str, alpha: tuple[int, ...], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        upper = [str(k) for k, letter in enumerate(config) if letter.isupper()]
        self.alphas = nn.ParameterDict({k: nn.Parameter(torch.zeros(alpha)) for k in upper})
        self.config = config

    def weights(self) -> Tensor:
        """W [C, D, maps], from its factors."""
        first = self.coefs00[:, None, :] * self.coefs10[:, :, None]
        return first + self.coefs01[None, :, :] * self.coefs11[:, :, None]


class PELICANClassifier(nn.Module):
    """The published network: factorised 2 -> 2 layers, masked BatchNorm, LeakyReLU, spurions or none, no dropout.
    State-dict keys and results are the published ones; weights are to be loaded.

    Args: as :class:`equikernels.models.PELICANClassifier`; spurions are prepended unless ``stabilizer`` is "so13".
    """

    spurions: Tensor
    mlp_out: Any

    def __init__(
        self,
        *,
        num_channels_scalar: int,
        num_channels_m: Sequence[Sequence[int]],
        num_channels_2to2: Sequence[int],
        num_channels_out: Sequence[int],
        num_channels_m_out: Sequence[int],
        stabilizer: str = "so13",
        config: str = "s",
        config_out: str = "s",
        average_nobj: float = 49,
        num_classes: int = 2,
    ) -> None:
        super().__init__()
        spurions = torch.tensor(STABILIZERS[stabilizer].spurions, dtype=torch.float).view(-1, 4)
        self.register_buffer("spurions", spurions, persistent=False)
        self.nbar, classes = average_nobj, 1 + len(spurions)
        encoded = num_channels_m[0][0] - (num_channels_scalar if classes > 1 else 0)
        self.linear = nn.Linear(1, encoded)
        self.input_encoder = nn.ParameterDict({"rank2_alphas": nn.Parameter(torch.linspace(0.05, 0.5, encoded))})
        if classes > 1:
            shapes: Any = {"coefs": (classes, num_channels_scalar, 5), "bias": (num_channels_scalar,)}
            self.eq1to2 = Equivariant(config_out, (1, classes, 5, 1, 1), **shapes)
        maps = 15 + 10 * (len(config) - 1)
        widths = [m[0] for m in num_channels_m] + [num_channels_m_out[0]]
        messages = [MessageLayer([*m, c]) for m, c in zip(num_channels_m, num_channels_2to2, strict=True)]
        layers = [
            Equivariant(
                config,
                (1, c, 10, 1, 1),
                coefs00=(c, maps),
                coefs01=(d, maps),
                coefs10=(c, d),
                coefs11=(c, d),
                bias=(d,),
                diag_bias=(d,),
            )
            for c, d in zip(num_channels_2to2, widths[1:], strict=True)
        ]
        self.net2to2 = nn.ModuleDict({"message_layers": nn.ModuleList(messages), "eq_layers": nn.ModuleList(layers)})
        self.msg_2to0 = MessageLayer(num_channels_m_out)
        c, d = num_channels_m_out[-1], num_channels_out[0]
        shape_out = (c, d, 2 * len(config_out))
        self.agg_2to0 = Equivariant(config_out, (1, c, 2), coefs=shape_out, bias=(1, d))
        perceptron = [nn.Linear(a, b) for a, b in pairwise([*num_channels_out, num_classes])]
        self.mlp_out = nn.ModuleDict({"linear": nn.ModuleList(perceptron)})

    def forward(self, p4: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, num_classes] of p4 [B, N, 4] (E, px, py, pz) and mask [B, N] of real particles.

        Products of four-momenta are formed in the dtype of p4, the rest in that of the weights.
        """
        k = self.spurions.shape[0]
        if k > 0:
            p4 = torch.cat([self.spurions.to(p4.dtype).expand(len(p4), -1, -1), p4], dim=1)
            mask = torch.cat([mask.new_ones(len(mask), k), mask], dim=1)
        pairs = pairs_of(mask)
        momenta = p4 * p4.new_tensor([1.0, -1, -1, -1])
        T = self.encode((momenta @ p4.transpose(1, 2))[..., None].to(self.linear.weight.dtype)) * pairs
        if k > 0:
            labels = torch.eye(k + 1, dtype=T.dtype, device=T.device)
            onehot = labels[:1].expand(len(p4), p4.shape[1] - k, -1)
            onehot = torch.cat([labels[1:].expand(len(p4), -1, -1), onehot], dim=1) * mask[..., None]
            layer = self.eq1to2
            scalars = linear_1to2(onehot, mask, layer.coefs, layer.bias, **self.options(layer))
            T = torch.cat([T, scalars], dim=3)
        for message, layer in self.blocks():
            T = message(T, pairs)
            T = linear_2to2(T, mask, layer.weights(), layer.bias, layer.diag_bias, **self.options(layer))
        T, layer = self.msg_2to0(T, pairs), self.agg_2to0
        y = linear_2to0(T, mask, layer.coefs, layer.bias, **self.options(layer))
        return self.classify(y)

    def encode(self, products: Tensor) -> Tensor:
        """[..., 1] -> [..., width]: a learned power of each product."""
        z, t = self.linear(products), self.input_encoder["rank2_alphas"] ** 2 + 1e-6
        return torch.sign(z) * ((1 + torch.abs(z)) ** t - 1) / t

    def blocks(self) -> list[tuple[Any, Any]]:
        return list(zip(self.net2to2["message_layers"], self.net2to2["eq_layers"], strict=True))  # type: ignore[call-overload]

    def options(self, layer: Equivariant) -> dict[str, Any]:
        return {"config": layer.config, "nbar": self.nbar, "alphas": list(layer.alphas.values())}

    def classify(self, y: Tensor) -> Tensor:
        for linear in self.mlp_out["linear"]:
            y = F.leaky_relu(linear(y), 0.01)
        return y

    @staticmethod
    def padded_inputs(p4: Tensor, ptr: Tensor, padded_to: int | None = None) -> tuple[Tensor, Tensor]:
        """Makes the arguments of :meth:`forward` from packed events; ``padded_to`` defaults to the longest event."""
        return unpack(p4, ptr, padded_to)
