"""What all PELICAN networks share: inputs, encoder, 2 -> 2 blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .. import indices
from ..checks import FLOATING, REAL, check_choice, check_tensor, fail
from ..data.order import warn_of_order
from ..graph import Graph
from ..nn.pelican import Encoder, Eq1to2, Eq2to2, MessageBlock, activate, make_linear
from ..nn.rows import apply_linear
from ..ops.common import stored_as, without_autocast
from ..ops.pairs import PairBatch, pairs_of, pairwise_linear
from .inputs import check_weights
from .pelican_inputs import (
    STABILIZERS,
    Stabilizer,
    first_weights,
    input_weights,
    jet_frame,
    labelled,
    rank2_inputs,
    strict_jet_frame,
)
from .softdrop import softdrop_multiplicity

METHODS = ("input", "spurions")
DATASETS = {"": 0, "jc": 12, "qg": 12}  # name -> number of scalars a particle has
# Maps that put something on the diagonal: it tells two collinear particles from their sum.
OFF_DIAGONAL_2TO2 = (1, 2, 4, 5, 7, 8, 10, 11, 12, 14)
OFF_DIAGONAL_1TO2 = (2, 3, 5)


class InputLinear(nn.Module):
    """The first linear layer; it starts from given weights, the same for all channels, and draws nothing."""

    def __init__(self, width: int, stabilizer: Stabilizer) -> None:
        super().__init__()
        weight = first_weights(width, stabilizer)
        self.stabilizer = stabilizer
        self.bias = nn.Parameter(torch.zeros(weight.shape[0]))
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return pairwise_linear(x, input_weights(self.weight, self.stabilizer), self.bias)


class MLP(nn.Module):
    """Linear layers, each followed by the activation, the last one too."""

    def __init__(self, num_channels: Sequence[int], activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.linear = nn.ModuleList(make_linear(a, b) for a, b in pairwise(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.linear:
            x = activate(apply_linear(linear, x), self.activation)
        return x

    def repeat_outputs(self, number: int) -> None:
        """Each output ``number`` times, with weights that start equal."""
        last = self.linear[-1]
        for name, value in [*last.named_parameters()]:
            setattr(last, name, nn.Parameter(value.detach().repeat_interleave(number, 0)))
        last.out_features = last.get_parameter("weight").shape[0]  # type: ignore[assignment]


class Net2to2(nn.Module):
    """Alternating message and equivariant layers."""

    def __init__(
        self,
        num_channels: Sequence[int],
        num_channels_m: Sequence[Sequence[int]],
        *,
        activation: str,
        batchnorm: str | bool | None,
        dropout: float,
        **options: Any,
    ) -> None:
        super().__init__()
        blocks = range(len(num_channels) - 1)
        widths = [m[0] if len(m) > 0 else c for m, c in zip(num_channels_m, num_channels, strict=False)]
        out = [*widths[1 : len(blocks)], num_channels[-1]]
        self.message_layers = nn.ModuleList(
            MessageBlock([*num_channels_m[k], num_channels[k]], activation=activation, batchnorm=batchnorm)
            for k in blocks
        )
        self.eq_layers = nn.ModuleList(
            Eq2to2(num_channels[k], out[k], activation=activation, **options) for k in blocks
        )
        self.dropout_layer = nn.Dropout(dropout)

    def forward(self, T: Tensor, batch: PairBatch) -> Tensor:
        for message, layer in zip(self.message_layers, self.eq_layers, strict=True):
            assert isinstance(message, MessageBlock)
            assert isinstance(layer, Eq2to2)
            T = message.then(layer, T, batch, self.dropout_layer)
        return T


@dataclass(frozen=True, kw_only=True)
class Options:
    """Keywords of the networks, as published; :class:`PELICANClassifier` says what they are."""

    num_channels_scalar: int
    num_channels_m: Sequence[Sequence[int]]
    num_channels_2to2: Sequence[int]
    num_channels_out: Sequence[int]
    num_channels_m_out: Sequence[int]
    rank1_dim_multiplier: int = 1
    stabilizer: str = "so13"
    method: str = "input"
    activate_agg_in: bool = False
    activate_lin_in: bool = True
    activate_agg: bool = False
    activate_lin: bool = True
    activation: str = "leakyrelu"
    config: str = "s"
    config_out: str = "s"
    average_nobj: float = 49
    factorize: bool = False
    masked: bool = True
    scale: float = 1
    irc_safe: bool = False
    strict_irc: bool = False
    dropout: bool = False
    drop_rate: float = 0.1
    drop_rate_out: float = 0.1
    batchnorm: str | bool | None = None
    dataset: str = ""
    shared_start: bool = False
    compat: bool = False


class Trunk(nn.Module):
    """A PELICAN network up to its last aggregation."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        name, o = type(self).__name__, Options(**options)
        check_choice(name, "stabilizer", o.stabilizer, tuple(STABILIZERS))
        check_choice(name, "method", o.method, METHODS)
        check_choice(name, "dataset", o.dataset, tuple(DATASETS))
        if o.method == "spurions" and o.stabilizer == "so13":
            fail(name, "method", "'input' with stabilizer='so13', which has no spurions", repr(o.method))
        if not o.masked:
            fail(name, "masked", "True: packed events have no padding", o.masked)
        if len(o.num_channels_m) != len(o.num_channels_2to2):
            fail(name, "num_channels_m", f"{len(o.num_channels_2to2)} lists, one per block", len(o.num_channels_m))
        irc_safe = o.irc_safe or o.strict_irc
        self.extrema = bool(set(o.config + o.config_out) & set("xnXN"))
        if irc_safe and (o.stabilizer != "so13" or self.extrema):
            got = f"{o.stabilizer!r}, {o.config!r}, {o.config_out!r}"
            fail(name, "irc_safe", "False, or stabilizer='so13' and letters s, m, S, M", got)
        if o.shared_start and (irc_safe or self.extrema):
            got = f"irc_safe={irc_safe}, {o.config!r}, {o.config_out!r}"
            fail(name, "shared_start", "False, or irc_safe=False and letters s, m, S, M", got)
        self.stabilizer, self.method, self.compat = o.stabilizer, o.method, o.compat
        self.config, self.config_out = o.config, o.config_out
        self.irc_safe, self.strict_irc, self.scale = irc_safe, o.strict_irc, o.scale
        self.spurion_vectors = spurions = STABILIZERS[o.stabilizer].spurions if o.method == "spurions" else ()
        self.inputs = STABILIZERS["so13" if spurions else o.stabilizer]
        self.num_data_scalars = DATASETS[o.dataset]
        self.num_labels = 1 + len(spurions) if spurions or o.shared_start else 0
        self.num_scalars = self.num_data_scalars + self.num_labels

        width = o.num_channels_m[0][0] if len(o.num_channels_m[0]) > 0 else o.num_channels_2to2[0]
        encoded = width - o.num_channels_scalar if self.num_scalars else width
        if encoded < 1:
            fail(name, "num_channels_scalar", f"less than {width}, the width of the first layer", o.num_channels_scalar)
        self.linear = InputLinear(encoded, self.inputs)
        self.input_encoder = Encoder(encoded, angles=irc_safe)
        shared: dict[str, Any] = {"activation": o.activation, "average_nobj": o.average_nobj}
        if self.num_scalars:
            later = len(spurions) if o.shared_start else 0  # labels whose weights are drawn after those of all networks
            with other_random_numbers():
                self.eq1to2 = Eq1to2(
                    self.num_scalars - later,
                    o.num_channels_scalar,
                    activate_agg=o.activate_agg_in,
                    activate_lin=o.activate_lin_in,
                    config=o.config_out,
                    basis=OFF_DIAGONAL_1TO2 if o.strict_irc else None,
                    **shared,
                )
                if later:
                    self.eq1to2.append_inputs(later)
        self.spurion_weight = nn.Parameter(torch.zeros(len(spurions))) if spurions and o.shared_start else None
        strict: dict[str, Any] = {"basis": OFF_DIAGONAL_2TO2, "diagonal_bias": False} if o.strict_irc else {}
        rate = o.drop_rate if o.dropout else 0.0
        self.net2to2 = Net2to2(
            [*o.num_channels_2to2, o.num_channels_m_out[0]],
            o.num_channels_m,
            activate_agg=o.activate_agg,
            activate_lin=o.activate_lin,
            config=o.config,
            factorize=o.factorize,
            batchnorm=o.batchnorm,
            dropout=rate,
            **shared,
            **strict,
        )
        self.dropout_layer = nn.Dropout(rate)
        self.dropout_layer_out = nn.Dropout(o.drop_rate_out if o.dropout else 0.0)
        # what the networks' last layers are made of
        self.last: dict[str, Any] = {"config": o.config_out, **shared}
        self.last_message = partial(MessageBlock, o.num_channels_m_out, activation=o.activation, batchnorm=o.batchnorm)

    @property
    def spurions(self) -> Tensor:
        """The vectors prepended to each event, [k, 4]; a copy."""
        return torch.tensor(self.spurion_vectors, dtype=torch.float, device=self.linear.weight.device).view(-1, 4)

    def rank2(
        self, p4: Tensor, ptr: Tensor | Graph, scalars: Tensor | None, padded_to: int | None
    ) -> tuple[Tensor, Tensor, Graph, PairBatch]:
        """(p4 with spurions, T after the last 2 -> 2 layer, its pairs, which come alone and with their weights)."""
        name = type(self).__name__
        check_tensor(name, "p4", p4, ["n", 4], REAL)
        warn_of_order(name, "p4", p4)
        pairs = pairs_of(name, ptr, p4, None, p4.shape[0])
        if pairs.num_nodes != p4.shape[0]:
            fail(name, "ptr", f"{p4.shape[0]} particles", pairs.num_nodes)
        weight_like = self.linear.weight
        check_weights(name, weight_like, stored_as(p4))
        if self.num_data_scalars:
            if scalars is None:
                fail(name, "scalars", f"shape [n, {self.num_data_scalars}]", "None")
            check_tensor(name, "scalars", scalars, [p4.shape[0], self.num_data_scalars], FLOATING)
            scalars = scalars.to(weight_like.dtype)
        elif scalars is not None:
            fail(name, "scalars", "None with dataset=''", f"shape {list(scalars.shape)}")

        slots = slots_of(name, self, pairs, padded_to)
        weight, nobj = None, pairs._ptr.diff() if self.spurion_weight is not None else None
        if self.num_labels:
            spurions = self.spurion_vectors, self.spurion_weight
            p4, scalars, weight, pairs = labelled(p4, scalars, pairs, *spurions, weight_like.dtype)
        if self.strict_irc:
            weight, r, dots = strict_jet_frame(p4, pairs)
        else:
            r = dots = rank2_inputs(p4, pairs, self.inputs)
        if self.irc_safe:
            if weight is None:
                weight, r = jet_frame(dots, pairs)
            if set(self.config + self.config_out) & set("mM" if self.compat else "mMS"):
                nobj = softdrop_multiplicity(r if self.compat else dots, pairs)
            weight = weight.to(weight_like.dtype)
        batch = PairBatch(pairs, weight, nobj, slots)
        with without_autocast(r.device.type):  # invariants span more orders of magnitude than 16 bits tell apart
            T = self.input_encoder(self.linear(r.to(weight_like.dtype)))
        if scalars is not None:
            T = torch.cat([T, self.eq1to2(scalars, batch)], dim=1)
        return p4, self.net2to2(T, batch), pairs, batch


@contextmanager
def other_random_numbers() -> Iterator[None]:
    """Random numbers of another seed, drawn from the generator, whose state stays: with one seed the layers behind the
    inputs start from the same weights whether there are spurions or not (Bogatskiy, BOOST 2024)."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (1,), device="cpu")))
        yield


def slots_of(name: str, network: Any, pairs: Graph, padded_to: int | None) -> int | None:
    """The length events are padded to, spurions included; None where padding is not to be seen."""
    if not network.compat:
        if padded_to is not None:
            fail(name, "padded_to", "None without compat=True", padded_to)
        return None
    if not network.extrema:
        return None
    free = indices.on_host(pairs._ptr)
    longest = int(pairs._ptr.diff().max()) if pairs._ptr.shape[0] > 1 and (padded_to is None or free) else 0
    if padded_to is not None and padded_to < longest:
        fail(name, "padded_to", f"at least {longest}, the longest event", padded_to)
    return (longest if padded_to is None else padded_to) + len(network.spurion_vectors)
