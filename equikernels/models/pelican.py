"""PELICAN, arXiv 2211.00454 and 2307.16506, on packed events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..checks import check_choice, fail
from ..export import for_any_size
from ..graph import Graph
from ..nn.pelican import Eq2to0, Eq2to1
from ..ops.segment import segment_reduce
from .pelican_inputs import STABILIZERS, constant, projections
from .pelican_state import trunk_sizes
from .pelican_trunk import MLP, Trunk


class PELICANClassifier(Trunk):
    r"""Classifies jets by a network of permutation-equivariant maps of their Minkowski products p_i . p_j.

    Logits do not depend on the order of particles, nor (``stabilizer="so13"``) on the frame. Other stabilizers keep a
    subgroup of the Lorentz group only, in one of two ways: with ``method="spurions"`` the vectors that the subgroup
    keeps fixed are prepended to each event, labelled by scalars; with ``method="input"`` products of the components
    that the subgroup allows are further inputs.

    ===== ============== ========================== ============================================
    name  group kept     spurions                   inputs beside p_i . p_j
    ===== ============== ========================== ============================================
    so13  SO(1,3)        -                          -
    so3   SO(3)          t                          E
    so12  SO(1,2)        z                          pz
    se2   SE(2)          t - z                      E - pz (keeps t + z fixed)
    so2   SO(2)          t, z                       E, pz
    so2_0 SO(2)          t + z, t - z               E + pz, E - pz
    R     boosts along z x, y                       px, py
    1     none           t, x, y, z                 E, px, py, pz, no p_i . p_j
    11    none           t, x, y, z                 E, px, py, pz
    1_0   none           t + z, t + x, t + y, t - z E + pz, E - px, E - py, E - pz, no p_i . p_j
    11_0  none           t + z, t + x, t + y, t - z E + pz, E + px, E + py, E - pz
    ===== ============== ========================== ============================================

    As published, the last linear layer is followed by LeakyReLU(0.01) too.

    Args (keywords, as published):
        num_channels_scalar: channels made of scalars (spurion labels, particle identities), where there are any.
        num_channels_m: for each block the widths of its message layers, [[c_m], ...].
        num_channels_2to2: for each block the width its aggregation starts from, [c_e, ...].
        num_channels_out: widths of the perceptron behind the last aggregation, [c_m].
        num_channels_m_out: widths of the last message layer, [c_m, c_e].
        rank1_dim_multiplier: accepted; no effect, as published.
        stabilizer, method: see above; method is "input" or "spurions".
        num_classes: number of logits.
        activate_agg_in, activate_lin_in, activate_agg, activate_lin, activate_agg_out, activate_lin_out: activation of
            aggregates and outputs of the first (of scalars), inner and last equivariant layers.
        activation: "leakyrelu" or "relu".
        config, config_out: aggregations of the 2 -> 2 layers, and of the first and last; see
            :class:`equikernels.Aggregation`.
        average_nobj: average number of particles of an event; 49 for top tagging.
        factorize: 2 -> 2 layers of fewer parameters; see :class:`equikernels.nn.Eq2to2`.
        masked: True; there is no padding here.
        mlp_out: whether a perceptron follows the last aggregation.
        scale: accepted; no effect on a classifier.
        irc_safe: infrared- and collinear-safe variant for massless particles, "so13" and letters s, m, S, M (all but s
            use the SoftDrop multiplicity, which is slow). As published, logits still change a little under a collinear
            splitting, and batch statistics in training are not safe.
        strict_irc: infrared- and collinear-safe to rounding (float64 momenta: 1e-12 of the logits; float32: 1e-7, and
            what sums in a float32 network add), jets of one particle and of particles all going one way included:
            without the maps and bias on the diagonal, energies taken as \|p\|, products from directions. Not published.
        dropout, drop_rate, drop_rate_out: elementwise.
        batchnorm: None, "b" (published networks), "i" or "l"; see :class:`equikernels.nn.MessageBlock`.
        dataset: "" or "jc", "qg": 12 scalars a particle.
        shared_start: networks of one seed give the same first outputs in evaluation, whatever the stabilizer and the
            method (where there is p_i . p_j). For that particles have a label with ``method="input"`` too; a spurion
            counts in every sum over particles with a learned weight, which starts at 0, and not in numbers of
            particles. Letters s, m, S, M. Not published.
        compat: what published code does although it should not: maxima and minima (letters x, n, X, N) also see the
            zeros that pad events; with ``irc_safe``, S uses the plain number of particles, and SoftDrop angles in place
            of products.
    """

    def __init__(
        self,
        *,
        num_classes: int = 2,
        activate_agg_out: bool = True,
        activate_lin_out: bool = False,
        mlp_out: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        widths = [*options["num_channels_out"], num_classes] if mlp_out else [num_classes]
        self.msg_2to0 = self.last_message()
        self.agg_2to0 = Eq2to0(
            options["num_channels_m_out"][-1],
            widths[0],
            activate_agg=activate_agg_out,
            activate_lin=activate_lin_out,
            **self.last,
        )
        self.mlp_out = MLP(widths, self.last["activation"])
        self.to(device=device, dtype=dtype)

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        *,
        stabilizer: str,
        method: str,
        config: str,
        config_out: str,
        average_nobj: float,
        **options: Any,
    ) -> PELICANClassifier:
        """A network of the widths of ``state``, not yet filled.

        Args:
            state: as published: at least linear.weight and the blocks.
            stabilizer, method, config, config_out, average_nobj: not in the state, and they change results.
            options: further keywords of the class. ``batchnorm`` is needed for "i" and "l", which leave no trace.
        """
        sizes, out = trunk_sizes(state, "msg_2to0", "agg_2to0", "mlp_out")
        sizes |= {"num_classes": out[-1], "mlp_out": len(out) > 1, **options}
        sizes |= {"stabilizer": stabilizer, "method": method, "config": config, "config_out": config_out}
        return cls(average_nobj=average_nobj, **sizes)

    @for_any_size
    def forward(
        self,
        p4: Tensor,
        ptr: Tensor | Graph,
        scalars: Tensor | None = None,
        *,
        padded_to: int | None = None,
    ) -> Tensor:
        """Logits of each event.

        Args:
            p4: [n, 4] four-momenta (E, px, py, pz) in GeV, float32 or float64; may be float64 beside float32 weights.
            ptr: int64 [n_events + 1]; event b owns particles ptr[b] .. ptr[b + 1] - 1. Or the complete graph made from
                it, which is checked and read once.
            scalars: [n, 12] with ``dataset``, any floating dtype; used in the dtype of the weights.
            padded_to: ``compat`` only: the number of particles events are padded to (spurions not counted); by default
                that of the longest event, for which a CUDA device is waited for.

        Returns:
            [n_events, num_classes]. Class 1 is signal in the published networks.

        Raises:
            ValueError, TypeError: wrong shape, dtype, device; an option that does not apply.
        """
        _, T, _, batch = self.rank2(p4, ptr, scalars, padded_to)
        y = self.msg_2to0.then(self.agg_2to0, T, batch, self.dropout_layer)
        return self.mlp_out(self.dropout_layer_out(y))


class PELICANRegressor(Trunk):
    r"""Predicts four-momenta as sums of a jet's own: covariant under what the stabilizer keeps.

    .. math:: P_t = \frac{1}{scale} \sum_i \sum_w c_{itw}\, \Pi_w p_i

    The weights c are invariant, one for each target t and each component w that the group does not mix with the
    others: one with "so13" and all spurions, for which the sum includes the spurions. Those of one target start equal:
    networks of one seed give the same four-momenta at first, whatever their inputs, where the parts of p_i add up to it
    (not for "se2").

    Args (keywords, as published): those of :class:`PELICANClassifier` but num_classes, and

        num_targets: number of four-momenta T.
        scale: divides the result.
        rank1_width_multiplier: the published name of rank1_dim_multiplier here; no effect.
        compat: also, for ``method="input"``: "se2" with the published projections, which are not covariant; "1" and
            "1_0" with the sum of the four weights in place of one for each component.
    """

    def __init__(
        self,
        *,
        num_targets: int = 1,
        average_nobj: float = 20,
        rank1_width_multiplier: int = 1,
        activate_agg_out: bool = True,
        activate_lin_out: bool = False,
        mlp_out: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        super().__init__(average_nobj=average_nobj, **options)
        if not mlp_out:
            fail("PELICANRegressor", "mlp_out", "True", mlp_out)
        self.projections = projections("so13" if self.method == "spurions" else self.stabilizer, self.compat)
        self.num_targets = num_targets
        widths = [*options["num_channels_out"], num_targets]
        self.msg_2to1 = self.last_message()
        self.agg_2to1 = Eq2to1(
            options["num_channels_m_out"][-1],
            widths[0],
            activate_agg=activate_agg_out,
            activate_lin=activate_lin_out,
            factorize=options.get("factorize", False),
            **self.last,
        )
        self.mlp_out_1 = MLP(widths, self.last["activation"])
        self.mlp_out_1.repeat_outputs(len(self.projections))
        self.to(device=device, dtype=dtype)

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        *,
        stabilizer: str,
        method: str,
        config: str,
        config_out: str,
        average_nobj: float,
        **options: Any,
    ) -> PELICANRegressor:
        """A network of the widths of ``state``, not yet filled; see :meth:`PELICANClassifier.from_state_dict`."""
        sizes, out = trunk_sizes(state, "msg_2to1", "agg_2to1", "mlp_out_1")
        check_choice("PELICANRegressor", "stabilizer", stabilizer, tuple(STABILIZERS))
        parts = projections("so13" if method == "spurions" else stabilizer, False)
        sizes |= {"num_targets": max(out[-1] // len(parts), 1), **options}
        sizes |= {"stabilizer": stabilizer, "method": method, "config": config, "config_out": config_out}
        return cls(average_nobj=average_nobj, **sizes)

    @for_any_size
    def forward(
        self,
        p4: Tensor,
        ptr: Tensor | Graph,
        scalars: Tensor | None = None,
        *,
        padded_to: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Four-momenta of each event.

        Args:
            p4, ptr, scalars, padded_to: as in :meth:`PELICANClassifier.forward`.

        Returns:
            (P [n_events, num_targets, 4], or [n_events, 4] for one target, in the dtype of p4;
            c [n, num_targets, w]; spurions come first in each event, with weights of their own: n + k n_events rows).

        Raises:
            ValueError, TypeError: as in :meth:`PELICANClassifier.forward`.
        """
        x, T, pairs, batch = self.rank2(p4, ptr, scalars, padded_to)
        c = self.msg_2to1.then(self.agg_2to1, T, batch, self.dropout_layer)
        c = self.mlp_out_1(self.dropout_layer_out(c))
        c = c.view(-1, self.num_targets, len(self.projections))
        parts = torch.einsum("wab,nb->nwa", constant(self.projections, x), x)
        if batch.weight is not None and not self.irc_safe:  # of spurions, see shared_start
            parts = parts * batch.weight.to(x.dtype)[:, None, None]
        terms = (c.to(x.dtype)[..., None] * parts[:, None]).sum(2)
        total = segment_reduce(terms.flatten(1), pairs.events, "sum").view(-1, self.num_targets, 4) / self.scale
        return total.squeeze(1) if self.num_targets == 1 else total, c
