"""PELICAN-nano, arXiv 2310.16121: a top tagger of 11 parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import REAL, check_tensor, fail
from ..data.order import warn_of_order
from ..export import for_any_size
from ..graph import Graph
from ..nn.pelican import Eq2to0, MessageBlock
from ..ops.common import stored_as
from ..ops.pairs import PairBatch, pairs_of
from ..packing import prepend
from .inputs import check_weights
from .pelican_inputs import STABILIZERS, constant, rank2_inputs
from .pelican_state import batchnorm as batchnorm_of
from .pelican_state import factorized
from .pelican_trunk import Net2to2, slots_of

BASIS = (1, 6, 7, 8, 14, 15)  # of a symmetric T, whose rows and columns have the same sums


class PELICANNano(nn.Module):
    r"""One 2 -> 2 layer of 6 maps on the bare Minkowski products, one 2 -> 0 layer, logits (-y, +y).

    With its two beams prepended, the network is invariant under rotations about z and permutations. Its numbers of
    parameters are 10 n_hidden + 1, and with BatchNorm 12 n_hidden + 3.

    Args (keywords, as published):
        n_hidden: width between the two layers.
        activate_agg, activate_lin, activate_agg_out, activate_lin_out: activation of aggregates and outputs of the two
            layers.
        activation: "relu" (published networks) or "leakyrelu".
        add_beams: prepend (1, 0, 0, 1) and (1, 0, 0, -1) to every event.
        config, config_out: aggregations; see :class:`equikernels.Aggregation`.
        average_nobj: average number of particles of an event.
        factorize: the 2 -> 2 layer of other parameters; see :class:`equikernels.nn.Eq2to2`.
        masked: True; there is no padding here.
        scale: accepted; no effect, as published.
        dropout, drop_rate, drop_rate_out: elementwise; on the rank-2 tensors, and on y.
        batchnorm: None or "b" (published networks), before each of the two layers.
        compat: as in :class:`PELICANClassifier`.
    """

    def __init__(
        self,
        n_hidden: int,
        *,
        activate_agg: bool = False,
        activate_lin: bool = True,
        activation: str = "relu",
        add_beams: bool = True,
        config: str = "s",
        config_out: str = "s",
        average_nobj: float = 49,
        factorize: bool = False,
        masked: bool = True,
        activate_agg_out: bool = False,
        activate_lin_out: bool = False,
        scale: float = 1,
        dropout: bool = True,
        drop_rate: float = 0.05,
        drop_rate_out: float = 0.05,
        batchnorm: str | bool | None = None,
        compat: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not masked:
            fail("PELICANNano", "masked", "True: packed events have no padding", masked)
        self.spurion_vectors = STABILIZERS["so2_0"].spurions if add_beams else ()
        self.compat, self.scale = compat, scale
        self.extrema = bool(set(config + config_out) & set("xnXN"))
        self.net2to2 = Net2to2(
            [1, n_hidden],
            [[]],
            activation=activation,
            batchnorm=batchnorm,
            dropout=drop_rate if dropout else 0.0,
            activate_agg=activate_agg,
            activate_lin=activate_lin,
            config=config,
            average_nobj=average_nobj,
            factorize=factorize,
            basis=BASIS,
        )
        self.msg_2to0 = MessageBlock([n_hidden], activation=activation, batchnorm=batchnorm)
        self.agg_2to0 = Eq2to0(
            n_hidden,
            1,
            activate_agg=activate_agg_out,
            activate_lin=activate_lin_out,
            activation=activation,
            config=config_out,
            average_nobj=average_nobj,
        )
        self.dropout_layer = nn.Dropout(drop_rate if dropout else 0.0)
        self.dropout_layer_out = nn.Dropout(drop_rate_out if dropout else 0.0)
        self.to(device=device, dtype=dtype)

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], *, config: str, config_out: str, average_nobj: float, **options: Any
    ) -> PELICANNano:
        """A network of the width of ``state``, not yet filled.

        Args:
            state: as published: at least net2to2.eq_layers.0.bias.
            config, config_out, average_nobj: not in the state, and they change results.
            options: further keywords of the class.
        """
        width = state["net2to2.eq_layers.0.bias"].shape[-1]
        sizes = {"factorize": factorized(state), "batchnorm": batchnorm_of(state), **options}
        return cls(width, config=config, config_out=config_out, average_nobj=average_nobj, **sizes)

    @property
    def spurions(self) -> Tensor:
        """The beams, [k, 4]; a copy."""
        return torch.tensor(self.spurion_vectors, dtype=torch.float, device=self.agg_2to0.bias.device).view(-1, 4)

    @for_any_size
    def forward(self, p4: Tensor, ptr: Tensor | Graph, *, padded_to: int | None = None) -> Tensor:
        """Logits (-y, +y) of each event, [n_events, 2]; arguments as in :meth:`PELICANClassifier.forward`."""
        name, weight = "PELICANNano", self.agg_2to0.coefs
        check_tensor(name, "p4", p4, ["n", 4], REAL)
        check_weights(name, weight, stored_as(p4))
        warn_of_order(name, "p4", p4)
        pairs = pairs_of(name, ptr, p4, None, p4.shape[0])
        slots = slots_of(name, self, pairs, padded_to)
        if self.spurion_vectors:
            (p4,), pairs = prepend(pairs, (p4, constant(self.spurion_vectors, p4)))
        T = rank2_inputs(p4, pairs, STABILIZERS["so13"]).to(weight.dtype)
        batch = PairBatch(pairs, padded_to=slots)
        y = self.msg_2to0.then(self.agg_2to0, self.net2to2(T, batch), batch, self.dropout_layer)
        y = self.dropout_layer_out(y)
        return torch.cat([-y, y], dim=1)
