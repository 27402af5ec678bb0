"""PELICAN as published (arXiv 2307.16506): padded [B, N, N, C] tensors and masks, all aggregates stacked, one einsum.
Padding is zero; it takes part in maxima and minima."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..models.pelican_inputs import STABILIZERS
from ..packing import unpack

# ranks -> numbers of maps of the first letter and of each further letter, and of exponents alpha of a letter
MAPS = {"2to2": (15, 10, 10), "2to1": (5, 5, 5), "1to2": (5, 5, 5), "2to0": (2, 2, 2)}


def aggregate(values: Tensor, dims: tuple[int, ...], letter: str, nobj: Tensor, nbar: float) -> Tensor:
    """Over one or two particle indices of [B, C, N, ...]."""
    if letter == "s":
        return values.sum(dims) / nbar ** len(dims)
    count = nobj.view(-1, *[1] * (values.dim() - len(dims) - 1))
    if letter == "m":
        return values.sum(dims) / count ** len(dims)
    return values.amax(dims) - count.log() if letter == "x" else values.amin(dims) + count.log()


def rows(x: Tensor) -> Tensor:
    """x_i at every pair (i, j): [..., N, N] of [..., N]."""
    return x[..., :, None].expand(*x.shape, x.shape[-1])


def columns(x: Tensor) -> Tensor:
    """x_j at every pair (i, j)."""
    return x[..., None, :].expand(*x.shape, x.shape[-1])


def maps_of_letter(
    ranks: str, x: Tensor, diagonal: Tensor, letter: str, nobj: Tensor, nbar: float, weight: Tensor | None
) -> Tensor:
    """The maps that aggregate by one letter, of x [B, C, N, N] or [B, C, N] and its diagonal: [B, C, maps, ...]."""
    size = x.shape[-1]

    def over(values: Tensor, *dims: int) -> Tensor:
        for dim in dims if weight is not None else ():
            shape = [size if d == dim else 1 for d in range(1, values.dim())]
            values = values * weight.view(-1, *shape)  # type: ignore[union-attr]
        return aggregate(values, dims, letter, nobj, nbar)

    def everywhere(values: Tensor) -> Tensor:
        return values[:, :, None].expand(-1, -1, size)

    if ranks == "1to2":
        total = everywhere(over(x, 2))
        maps = [torch.diag_embed(x), columns(x), rows(x), torch.diag_embed(total), rows(total)]
        return torch.stack(maps, dim=2)
    if ranks == "2to0":
        return torch.stack([over(x, 2, 3), over(diagonal, 2)], dim=2)
    over_rows, over_columns, trace, total = over(x, 3), over(x, 2), over(diagonal, 2), over(x, 2, 3)
    if ranks == "2to1":
        return torch.stack([diagonal, over_rows, over_columns, everywhere(trace), everywhere(total)], dim=2)
    maps = []
    for side in (over_columns, over_rows):
        maps += [torch.diag_embed(side), columns(side), rows(side)]
    for value in (trace, total):
        maps += [value[:, :, None, None].expand(-1, -1, size, size), torch.diag_embed(everywhere(value))]
    return torch.stack(maps, dim=2)


def stacked_maps(
    ranks: str,
    x: Tensor,
    config: str,
    nobj: Tensor,
    nbar: float,
    alphas: Iterable[Tensor | None] = (),
    weight: Tensor | None = None,
) -> Tensor:
    """All maps of x [B, C, N, N] or [B, C, N]: [B, C, maps, ...]. A capital letter multiplies its maps by
    (nobj / nbar) ** alpha; ``alphas`` has one for each capital letter; weight [B, N]."""
    maps, exponents = [], (alpha for alpha in alphas if alpha is not None)
    diagonal = x.diagonal(dim1=2, dim2=3) if ranks[0] == "2" else x
    if ranks == "2to2":
        own = [x, x.transpose(2, 3), torch.diag_embed(diagonal), columns(diagonal), rows(diagonal)]
        maps.append(torch.stack(own, dim=2))
    for letter in config:
        of_letter = maps_of_letter(ranks, x, diagonal, letter.lower(), nobj, nbar, weight)
        if letter.isupper():
            ones = [1] * (of_letter.dim() - 3)
            alpha = next(exponents).view(1, *of_letter.shape[1:3], *ones)
            of_letter = of_letter * (nobj.to(x.dtype) / nbar).view(-1, 1, 1, *ones) ** alpha
        maps.append(of_letter)
    return torch.cat(maps, dim=2)


def mixed(maps: Tensor, coefs: Tensor, bias: Tensor, diag_bias: Tensor | None = None) -> Tensor:
    """The linear map: maps [B, C, maps, ...], coefs [C, D, maps]; [B, ..., D]."""
    out = torch.einsum("dsb,ndb...->n...s", coefs, maps) + bias
    if diag_bias is None:
        return out
    return out + torch.eye(maps.shape[-1], dtype=out.dtype, device=out.device)[:, :, None] * diag_bias


def linear_2to2(
    T: Tensor,
    mask: Tensor,
    coefs: Tensor,
    bias: Tensor,
    diag_bias: Tensor,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Sequence[Tensor] = (),
) -> Tensor:
    """One 2 -> 2 layer: T [B, N, N, C], mask [B, N] of real particles, coefs [C, D, maps]; [B, N, N, D]."""
    maps = stacked_maps("2to2", T.permute(0, 3, 1, 2), config, mask.sum(1).to(T.dtype), nbar, alphas)
    return F.leaky_relu(mixed(maps, coefs, bias, diag_bias), 0.01) * pairs_of(mask)


def pairs_of(mask: Tensor) -> Tensor:
    """bool [B, N, N, 1] of mask [B, N]."""
    return (mask[:, :, None] & mask[:, None, :])[..., None]


class Aggregators(nn.Module):
    """One equivariant layer, between ranks "2to2", "2to1", "1to2" or "2to0"; weights are random until loaded.

    Args:
        ranks, width, out: of the maps; channels in and out.
        config: letters s, m, x, n (sum, mean, maximum, minimum); capitals have exponents alpha.
        factorize: weights are sums of products of four factors.
        activate_agg, activate_lin, activation: activation of the aggregates, and of the result.
        average_nobj: average number of particles.
        cast: nobj to the dtype of the input; integers are used as they are otherwise.
    """

    coefs: Tensor
    coefs00: Tensor
    coefs01: Tensor
    coefs10: Tensor
    coefs11: Tensor
    bias: Tensor
    diag_bias: Tensor

    def __init__(
        self,
        ranks: str,
        width: int,
        out: int,
        config: str = "s",
        factorize: bool = False,
        activate_agg: bool = False,
        activate_lin: bool = True,
        activation: nn.Module | None = None,
        average_nobj: float = 49.0,
        cast: bool = False,
    ) -> None:
        super().__init__()
        self.ranks, self.config, self.average_nobj, self.cast = ranks, config, average_nobj, cast
        self.factorize, self.activate_agg, self.activate_lin = factorize, activate_agg, activate_lin
        self.activation_fn = nn.LeakyReLU(0.01) if activation is None else activation
        first, further, exponents = MAPS[ranks]
        maps = first + further * (len(config) - 1)
        shapes: dict[str, tuple[int, ...]] = {"coefs": (width, out, maps)}
        if factorize:
            shapes = {"coefs00": (width, maps), "coefs01": (out, maps)}
            shapes |= {"coefs10": (width, out), "coefs11": (width, out)}
        shapes["bias"] = (1, out) if ranks == "2to0" else (out,)
        if ranks == "2to2":
            shapes["diag_bias"] = (out,)
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        ones = [1] * int(ranks[-1])
        alphas = [nn.Parameter(torch.rand(1, width, exponents, *ones)) if c.isupper() else None for c in config]
        self.alphas = nn.ParameterList(alphas)

    def weights(self) -> Tensor:
        """[C, D, maps]."""
        if not self.factorize:
            return self.coefs
        first = self.coefs00[:, None, :] * self.coefs10[:, :, None]
        return first + self.coefs01[None, :, :] * self.coefs11[:, :, None]

    def forward(
        self,
        inputs: Tensor,
        mask: Tensor | None = None,
        nobj: Any = None,
        softmask_ir: Tensor | None = None,
        irc_weight: Tensor | None = None,
    ) -> Tensor:
        """[B, ..., D] of inputs [B, ..., C]; mask of the output, nobj [B, 1], irc_weight [B, N]."""
        x = inputs.movedim(-1, 1)
        nobj = x.new_ones(x.shape[0], 1) if nobj is None else nobj.to(x.dtype) if self.cast else nobj
        maps = stacked_maps(self.ranks, x, self.config, nobj, self.average_nobj, self.alphas, irc_weight)
        if softmask_ir is not None:
            maps = torch.cat([maps[:, :, :3], maps[:, :, 3:] * softmask_ir], 2)
        maps = self.activation_fn(maps) if self.activate_agg else maps
        out = mixed(maps, self.weights(), self.bias, getattr(self, "diag_bias", None))
        out = self.activation_fn(out) if self.activate_lin else out
        return out if mask is None else out * mask


class MaskedBatchNorm(nn.BatchNorm2d):
    """BatchNorm of T [B, N, N, C] over the pairs of real particles; zero elsewhere."""

    def forward(self, T: Tensor, pairs: Tensor | None = None) -> Tensor:
        assert pairs is not None
        mean: Any = self.running_mean
        variance: Any = self.running_var
        if self.training:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            n = pairs.sum()
            if n > 1:
                T = T * pairs
                batch_mean = self.average(T, n)
                batch_variance = self.average(T * T, n) - batch_mean**2
                with torch.no_grad():
                    mean.lerp_(batch_mean, self.momentum)
                    variance.lerp_(batch_variance * n / (n - 1), self.momentum)
                mean, variance = batch_mean, batch_variance
        return ((T - mean) / torch.sqrt(variance + self.eps) * self.weight + self.bias) * pairs

    def average(self, T: Tensor, n: Tensor) -> Tensor:
        """Of each channel, over n pairs; T is zero at all others."""
        return T.sum((0, 1, 2)) / n


class MessageLayer(nn.Module):
    """Linear layers with activations, mask, BatchNorm."""

    def __init__(
        self,
        widths: Sequence[int],
        batchnorm: str | None = "b",
        masked: bool = True,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.batchnorm, self.masked = batchnorm, masked
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activations = nn.ModuleList(activation or nn.LeakyReLU(0.01) for _ in self.linear)
        if batchnorm:
            self.normlayer = MaskedBatchNorm(widths[-1]) if masked else nn.BatchNorm2d(widths[-1])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for linear, activation in zip(self.linear, self.activations, strict=True):
            x = activation(linear(x))
        x = x if mask is None else x * mask
        if not self.batchnorm:
            return x
        return self.normlayer(x, mask) if self.masked else self.normlayer(x.movedim(-1, 1)).movedim(1, -1)


class Net2to2(nn.Module):
    """Messages and 2 -> 2 layers in turn.

    Args:
        messages: widths of each message layer.
        outs: width of each 2 -> 2 layer's result.
        batchnorm, masked: of the message layers.
        options: of the 2 -> 2 layers.
    """

    def __init__(
        self,
        messages: Sequence[Sequence[int]],
        outs: Sequence[int],
        batchnorm: str | None = "b",
        masked: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.dropout, self.dropout_layer = True, nn.Dropout(0.0)
        self.message_layers = nn.ModuleList(MessageLayer(widths, batchnorm, masked) for widths in messages)
        sizes = [(widths[-1], out) for widths, out in zip(messages, outs, strict=True)]
        self.eq_layers = nn.ModuleList(Aggregators("2to2", *size, **options) for size in sizes)

    def forward(
        self, x: Tensor, mask: Any = None, nobj: Any = None, softmask_ir: Any = None, irc_weight: Any = None
    ) -> Tensor:
        for layer, message in zip(self.eq_layers, self.message_layers, strict=True):
            x = self.dropout_layer(message(x, mask))
            x = layer(x, mask, nobj, irc_weight=irc_weight)
        return x


class PELICANClassifier(nn.Module):
    """The published network: masked BatchNorm, LeakyReLU, spurions or none, no dropout.
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
        factorize: bool = True,
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
            self.eq1to2 = Aggregators("1to2", classes, num_channels_scalar, config_out, average_nobj=average_nobj)
        messages = [[*m, c] for m, c in zip(num_channels_m, num_channels_2to2, strict=True)]
        outs = [m[0] for m in num_channels_m[1:]] + [num_channels_m_out[0]]
        sizes: dict[str, Any] = {"config": config, "average_nobj": average_nobj, "factorize": factorize}
        self.net2to2 = Net2to2(messages, outs, **sizes)
        self.msg_2to0 = MessageLayer(num_channels_m_out)
        c, d = num_channels_m_out[-1], num_channels_out[0]
        kinds = {"activate_agg": True, "activate_lin": False}
        self.agg_2to0 = Aggregators("2to0", c, d, config_out, average_nobj=average_nobj, **kinds)  # type: ignore[arg-type]
        perceptron = [nn.Linear(a, b) for a, b in pairwise([*num_channels_out, num_classes])]
        self.mlp_out = nn.ModuleDict({"linear": nn.ModuleList(perceptron)})

    def forward(self, p4: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, num_classes] of p4 [B, N, 4] (E, px, py, pz) and mask [B, N] of real particles.

        Products of four-momenta are formed in the dtype of p4, the rest in that of the weights.
        """
        p4, mask = with_spurions(p4, mask, self.spurions)
        k, pairs = len(self.spurions), pairs_of(mask)
        T = self.encode(minkowski_products(p4).to(self.linear.weight.dtype)) * pairs
        nobj = mask.sum(1).to(T.dtype)
        if k > 0:
            labels = torch.eye(k + 1, dtype=T.dtype, device=T.device)
            onehot = labels[:1].expand(len(p4), p4.shape[1] - k, -1)
            onehot = torch.cat([labels[1:].expand(len(p4), -1, -1), onehot], dim=1) * mask[..., None]
            T = torch.cat([T, self.eq1to2(onehot, pairs, nobj)], dim=3)
        T = self.msg_2to0(self.net2to2(T, pairs, nobj), pairs)
        return self.classify(self.agg_2to0(T, nobj=nobj))

    def encode(self, products: Tensor) -> Tensor:
        """[..., 1] -> [..., width]: a learned power of each product."""
        z, t = self.linear(products), self.input_encoder["rank2_alphas"] ** 2 + 1e-6
        return torch.sign(z) * ((1 + torch.abs(z)) ** t - 1) / t

    def classify(self, y: Tensor) -> Tensor:
        for linear in self.mlp_out["linear"]:
            y = F.leaky_relu(linear(y), 0.01)
        return y

    @staticmethod
    def padded_inputs(p4: Tensor, ptr: Tensor, padded_to: int | None = None) -> tuple[Tensor, Tensor]:
        """Makes the arguments of :meth:`forward` from packed events; ``padded_to`` defaults to the longest event."""
        return unpack(p4, ptr, padded_to)


def with_spurions(p4: Tensor, mask: Tensor, spurions: Tensor) -> tuple[Tensor, Tensor]:
    """p4 and mask with spurions [k, 4] before the particles of every event."""
    if len(spurions) == 0:
        return p4, mask
    p4 = torch.cat([spurions.to(p4.dtype).expand(len(p4), -1, -1), p4], dim=1)
    return p4, torch.cat([mask.new_ones(len(mask), len(spurions)), mask], dim=1)


def minkowski_products(p4: Tensor) -> Tensor:
    """[B, N, N, 1] of p4 [B, N, 4]."""
    return ((p4 * p4.new_tensor([1.0, -1, -1, -1])) @ p4.transpose(1, 2))[..., None]
