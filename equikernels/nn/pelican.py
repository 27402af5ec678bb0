"""PELICAN's layers (arXiv 2307.16506) on packed pairs: rank-2 tensors T [n_pairs, C], row-major inside each event."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import check_choice, fail
from ..ops.encode import encode_invariants
from ..ops.message_passing.edge_mlp import update_running
from ..ops.message_passing.synchronised import is_synchronised, over_processes
from ..ops.pairs import (
    Aggregation,
    PairBatch,
    PairNorm,
    Pairs,
    linear_1to2,
    linear_2to0,
    linear_2to1,
    linear_2to2,
    pairwise_affine,
    pairwise_linear,
    pairwise_network,
    rank2_broadcast,
)
from ..ops.pairs.basis import aggregate_2to0
from .plain import Layers, attached, obstacle, warn_once

ACTIVATIONS = {"leakyrelu": "leaky_relu", "relu": "relu"}  # published name -> that of the ops
NEGATIVE_SLOPE = 0.01
NORMS = ("b", "i", "l")
MEAN = Aggregation("m")


class _Equivariant(nn.Module):
    """A linear map of aggregators: parameters and options of all four layers.

    coefs [in_dim, out_dim, maps], or the four factors of it: W_dsb = A_db B_ds + A'_sb B'_ds with coefs00 = A, coefs01
    = A', coefs10 = B, coefs11 = B'.
    """

    maps = 0  # of the first letter of config
    further = 0  # of each further one; 0 where config is one letter
    alpha_maps = 0
    random_alphas = False
    gain = 2.0  # coefs start from N(0, sqrt(gain / (in_dim maps))), coefs1x from N(0, sqrt(gain / (2 in_dim)))
    linear: Callable[..., Tensor]

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        activate_agg: bool = False,
        activate_lin: bool = True,
        activation: str = "leakyrelu",
        config: str = "s",
        factorize: bool = False,
        average_nobj: float = 49,
        basis: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        check_choice(name, "activation", activation, tuple(ACTIVATIONS))
        if not config or any(letter not in "smxnSMXN" for letter in config):
            fail(name, "config", "letters from smxnSMXN", repr(config))
        if len(config) > 1 and not self.further:
            fail(name, "config", "one letter", repr(config))
        all_maps = self.maps + self.further * (len(config) - 1)
        kept = list(range(1, self.maps + 1)) if basis is None else list(basis)
        if not kept or sorted(set(kept)) != kept or kept[0] < 1 or kept[-1] > self.maps:
            fail(name, "basis", f"rising numbers from 1 to {self.maps}", basis)
        first_aggregated = self.maps - self.further
        index = [k - 1 for k in kept]
        for letter in range(1, len(config)):
            index += [k - 1 + self.further * letter for k in kept if k > first_aggregated]
        self.in_dim, self.out_dim = in_dim, out_dim
        self.config, self.average_nobj, self.factorize = config, average_nobj, factorize
        self.basis = None if len(index) == all_maps else [k + 1 for k in index]
        self.activate_agg, self.activate_lin, self.activation = activate_agg, activate_lin, ACTIVATIONS[activation]

        maps = len(index)
        if factorize:
            self.coefs00 = nn.Parameter(_normal(1 / maps, in_dim, maps))
            self.coefs01 = nn.Parameter(_normal(1 / maps, out_dim, maps))
            self.coefs10 = nn.Parameter(_normal(self.gain / 2 / in_dim, in_dim, out_dim))
            self.coefs11 = nn.Parameter(_normal(self.gain / 2 / in_dim, in_dim, out_dim))
        else:
            self.coefs = nn.Parameter(_normal(self.gain / (in_dim * maps), in_dim, out_dim, maps))
        self.bias = nn.Parameter(torch.zeros(*self._bias_shape(out_dim)))
        make = torch.rand if self.random_alphas else torch.zeros
        shape = self._alpha_shape(in_dim)
        self.alphas = nn.ParameterDict({str(k): make(*shape) for k, letter in enumerate(config) if letter.isupper()})

    def _bias_shape(self, out_dim: int) -> tuple[int, ...]:
        return (out_dim,)

    def _alpha_shape(self, in_dim: int) -> tuple[int, ...]:
        return (1, in_dim, self.alpha_maps, 1, 1)

    def biases(self) -> tuple[Tensor | None, ...]:
        return (self.bias.flatten(),)

    def forward(self, T: Tensor, ptr: Pairs | PairBatch, **of_input: Tensor) -> Tensor:
        """The layer on one batch; ptr, and affine (not of :class:`Eq1to2`), as in :func:`equikernels.linear_2to2`."""
        coefs = (self.coefs00, self.coefs01, self.coefs10, self.coefs11) if self.factorize else self.coefs
        how = Aggregation(
            self.config,
            self.average_nobj,
            tuple(self.alphas.values()) if self.alphas else (),
            self.basis,
            self.activation if self.activate_agg else "identity",
        )
        activation = self.activation if self.activate_lin else "identity"
        return type(self).linear(
            T, ptr, coefs, *self.biases(), how, activation=activation, negative_slope=NEGATIVE_SLOPE, **of_input
        )

    def extra_repr(self) -> str:
        return f"{self.in_dim}, {self.out_dim}, config={self.config!r}, average_nobj={self.average_nobj}"


class Eq2to2(_Equivariant):
    """Rank 2 to rank 2: the 15 maps of :func:`equikernels.aggregate_2to2`, mixed, biased on and off the diagonal.

    Args:
        in_dim, out_dim: channels.
        activate_agg, activate_lin: whether the maps, and the result, go through the activation.
        activation: "leakyrelu" (slope 0.01) or "relu".
        config: letters of the aggregations; an upper-case one adds a parameter alphas.k.
        factorize: four small factors instead of the full [in_dim, out_dim, maps].
        average_nobj: the average number of particles of an event, which sums are divided by.
        basis: numbers (from 1) of the maps to keep; all by default.
        diagonal_bias: whether there is a diag_bias.

    Shapes: T [n_pairs, in_dim] -> [n_pairs, out_dim].
    """

    maps, further, alpha_maps, random_alphas = 15, 10, 10, True
    linear = staticmethod(linear_2to2)

    def __init__(self, in_dim: int, out_dim: int, *, diagonal_bias: bool = True, **options: Any) -> None:
        super().__init__(in_dim, out_dim, **options)
        self.diag_bias = nn.Parameter(torch.zeros(out_dim)) if diagonal_bias else None

    def biases(self) -> tuple[Tensor | None, ...]:
        return self.bias, self.diag_bias


class Eq2to1(_Equivariant):
    """Rank 2 to particles: T [n_pairs, in_dim] -> [n, out_dim], of the 5 maps of :func:`equikernels.aggregate_2to1`.

    Arguments as in :class:`Eq2to2`; config is one letter.
    """

    maps, alpha_maps = 5, 5
    linear = staticmethod(linear_2to1)

    def _alpha_shape(self, in_dim: int) -> tuple[int, ...]:
        return (1, in_dim, 5, 1)


class Eq2to0(_Equivariant):
    """Rank 2 to events: T [n_pairs, in_dim] -> [n_events, out_dim], of the 2 maps of
    :func:`equikernels.aggregate_2to0`. Arguments as in :class:`Eq2to2`."""

    maps, further, alpha_maps, random_alphas = 2, 2, 2, True
    gain = 4.0
    linear = staticmethod(linear_2to0)

    def _bias_shape(self, out_dim: int) -> tuple[int, ...]:
        return (1, out_dim)

    def _alpha_shape(self, in_dim: int) -> tuple[int, ...]:
        return (1, in_dim, 2)


class Eq1to2(_Equivariant):
    """Particles to rank 2: x [n, in_dim] -> [n_pairs, out_dim], of the 5 maps of :func:`equikernels.aggregate_1to2`.

    Arguments as in :class:`Eq2to2`; config is one letter.
    """

    maps, alpha_maps = 5, 5
    linear = staticmethod(linear_1to2)

    def biases(self) -> tuple[Tensor | None, ...]:
        return self.bias, None

    def append_inputs(self, number: int) -> None:
        """Makes in_dim larger; parameters of the inputs there were stay."""
        more = _normal(self.gain / ((self.in_dim + number) * self.coefs.shape[2]), number, *self.coefs.shape[1:])
        self.coefs = nn.Parameter(torch.cat([self.coefs.detach(), more]))
        self.in_dim += number
        for key, alpha in self.alphas.items():
            self.alphas[key] = torch.cat([alpha.detach(), torch.zeros(self._alpha_shape(number))], dim=1)


class PairBatchNorm(nn.BatchNorm1d):
    """BatchNorm over all pairs of a batch: the published masked BatchNorm, without anything to mask. With fewer than
    two pairs in training there is no variance: running statistics are used, and kept, then.

    Attributes:
        synchronised: whether statistics in training are those of all processes; :meth:`SyncBatchNorm.convert` says so.
    """

    synchronised = False
    process_group = None

    def network(
        self, T: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """(T [n_pairs, C] through the linear layer, if there is one, and its activation; this norm of it as a scale and
        a shift [2, C]); keeps running averages. Arguments as of :func:`equikernels.pairwise_network`."""
        if self.training and is_synchronised(self):
            return self._over_processes(T, weight, bias, **options)
        rows = T.shape[0]
        running_mean, running_var = self.running_mean, self.running_var
        of_batch = (self.training or running_mean is None) and rows > 1
        how = PairNorm(self.weight, self.bias, running_mean, running_var, self.eps, of_batch)
        T, affine, statistics = pairwise_network(T, weight, bias, how, **options)
        if statistics.numel() > 0:
            mean, variance = statistics.unbind()
            update_running(self, mean, variance, rows)
        return T, affine

    def _over_processes(
        self, T: Tensor, weight: Tensor | None, bias: Tensor | None, **options: Any
    ) -> tuple[Tensor, Tensor]:
        rows = T.shape[0]
        if rows > 1:
            how = PairNorm(None, None, None, None, self.eps, True)
            T, affine, _ = pairwise_network(T, weight, bias, how, **options)
            scale, shift = affine.double().unbind()
            mean, variance = -shift / scale, scale**-2  # the variance with eps: over processes, eps stays what it is
        else:
            T = T if weight is None else pairwise_linear(T, weight, bias, **options)
            mean = T.double().sum(0)
            variance = torch.full_like(mean, self.eps)
        count = torch.full((), float(rows), dtype=torch.float64, device=T.device)
        total, mean, variance = over_processes(self, count, mean, variance)
        unbiased = (variance.detach() - self.eps) * total / (total - 1).clamp(min=1)
        update_running(self, mean.detach(), unbiased, int(total) if total.device.type == "cpu" else None)
        scale = variance.rsqrt() if self.weight is None else self.weight * variance.rsqrt()
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return T, torch.stack([scale, shift]).to(T.dtype)

    def forward(self, T: Tensor) -> Tensor:
        if self.training and is_synchronised(self):
            T, affine = self.network(T)
            return pairwise_affine(T, *affine.unbind())
        if self.training and T.shape[0] < 2:
            return F.batch_norm(T, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(T)


class MessageBlock(nn.Module):
    """What acts on every pair by itself: Linear and activation, as often as there are widths, then a norm over pairs.

    Args:
        num_channels: widths, input first; one alone makes no Linear.
        activation: "leakyrelu" (slope 0.01) or "relu".
        batchnorm: None, "b" (BatchNorm over all pairs of the batch), "i" (over the pairs of an event), "l" (over the
            pairs and channels of an event); the last two have no parameters.

    Shapes: T [n_pairs, num_channels[0]] -> [n_pairs, num_channels[-1]].
    """

    def __init__(
        self, num_channels: Sequence[int], *, activation: str = "leakyrelu", batchnorm: str | bool | None = None
    ) -> None:
        super().__init__()
        check_choice("MessageBlock", "activation", activation, tuple(ACTIVATIONS))
        kind = "b" if batchnorm is True else (batchnorm or "")[:1]
        if kind:
            check_choice("MessageBlock", "batchnorm", kind, NORMS)
        self.kind, self.activation = kind, activation
        self.linear = nn.ModuleList(make_linear(a, b) for a, b in pairwise(num_channels))
        self.normlayer = PairBatchNorm(num_channels[-1]) if kind == "b" else None

    def forward(self, T: Tensor, ptr: Pairs | PairBatch) -> Tensor:
        T, affine = self.deferred(T, ptr)
        return T if affine is None else pairwise_affine(T, *affine.unbind())

    def then(self, layer: _Equivariant, T: Tensor, ptr: Pairs | PairBatch, dropout: nn.Dropout) -> Tensor:
        """layer(dropout(self(T))). Without dropout the layer takes the norm in, whose result is not made."""
        busy = (dropout.training and dropout.p > 0) or type(dropout).forward is not nn.Dropout.forward
        # A hook on this block or on dropout is called with what passes through it.
        if busy or attached([("", self), ("dropout_layer", dropout)]):
            return layer(dropout(self(T, ptr)), ptr)
        T, affine = self.deferred(T, ptr)
        return layer(T, ptr) if affine is None else layer(T, ptr, affine=affine)

    def deferred(self, T: Tensor, ptr: Pairs | PairBatch) -> tuple[Tensor, Tensor | None]:
        """The block up to its BatchNorm, and what that makes of it: (scale, shift) [2, C]; None where there is no
        BatchNorm, or one that cannot be told from its statistics. Layers take them in."""
        norm = self.normlayer
        if reason := obstacle(self, _layers_of, _not_plain):
            warn_once(self, "MessageBlock", reason)
            for linear in self.linear:
                T = activate(linear(T), "relu" if self.activation == "relu" else "leaky_relu")
            return (self._event_norm(T, ptr) if norm is None else norm(T)), None
        layers: list[Any] = [*self.linear._modules.values()]
        of_batch = norm if norm is not None and not torch.is_autocast_enabled(T.device.type) else None
        if of_batch is not None and not layers:
            return of_batch.network(T)
        options: dict[str, Any] = {"activation": ACTIVATIONS[self.activation], "negative_slope": NEGATIVE_SLOPE}
        last = None if of_batch is None else layers.pop()
        for linear in layers:
            T = pairwise_linear(T, linear.weight, linear.bias, **options)
        if of_batch is not None and last is not None:
            return of_batch.network(T, last.weight, last.bias, **options)
        return (self._event_norm(T, ptr) if norm is None else norm(T)), None

    def _event_norm(self, T: Tensor, ptr: Pairs | PairBatch) -> Tensor:
        return event_norm(T, ptr, self.kind == "l") if self.kind in ("i", "l") else T


def _layers_of(block: Any) -> Layers:
    layers = [("linear", block.linear), *((f"linear.{k}", layer) for k, layer in enumerate(block.linear))]
    return layers if block.normlayer is None else [*layers, ("normlayer", block.normlayer)]


def _not_plain(layers: Layers) -> str | None:
    known = {nn.Linear.forward, nn.ModuleList.forward, PairBatchNorm.forward}
    return next((f"{path} is a {type(m).__name__}" for path, m in layers if type(m).forward not in known), None)


class Encoder(nn.Module):
    r"""Learnable powers of invariants, which span many orders of magnitude:

    .. math:: u_e = \mathrm{sign}(z_e) \frac{(1 + |z_e|)^{t_e} - 1}{t_e}, \quad t_e = a_e^2 + 10^{-6}

    ``angles``: ((1e-5 + \|z\|)^t - 1) / t instead, for the IRC-safe angles.
    """

    def __init__(self, width: int, angles: bool = False) -> None:
        super().__init__()
        self.angles = angles
        self.rank2_alphas = nn.Parameter(torch.linspace(0.05, 0.5, width))

    def forward(self, z: Tensor) -> Tensor:
        return encode_invariants(z, self.rank2_alphas.square() + 1e-6, self.angles)


def event_norm(T: Tensor, ptr: Pairs | PairBatch, over_channels: bool, eps: float = 1e-5) -> Tensor:
    """(T - mean) / sqrt(variance + eps) over the pairs (and channels) of each event."""
    pairs = ptr.ptr if isinstance(ptr, PairBatch) else ptr

    def mean(values: Tensor) -> Tensor:
        of_event = aggregate_2to0(values, pairs, MEAN)[..., 0]
        if over_channels:
            of_event = of_event.mean(1, keepdim=True).expand(-1, values.shape[1])
        return rank2_broadcast(event=of_event, ptr=pairs)

    T = T - mean(T)
    return T * (mean(T * T) + eps).rsqrt()


def activate(x: Tensor, activation: str) -> Tensor:
    return F.relu(x) if activation == "relu" else F.leaky_relu(x, NEGATIVE_SLOPE)


def make_linear(n_in: int, n_out: int) -> nn.Linear:
    linear = nn.Linear(n_in, n_out)
    nn.init.kaiming_normal_(linear.weight, a=NEGATIVE_SLOPE)
    return linear


def _normal(variance: float, *shape: int) -> Tensor:
    return torch.randn(*shape) * math.sqrt(variance)
