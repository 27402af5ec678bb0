"""LorentzNet, arXiv 2201.08187, on packed events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .. import indices
from ..checks import REAL, check_choice, check_tensor, fail
from ..data.order import warn_of_order
from ..export import for_any_size
from ..graph import COMPLETE, Graph
from ..nn import LGEB
from ..nn.linear import weight_of
from ..nn.rows import apply_layers, apply_linear
from ..ops.segment import segment_reduce
from .inputs import cast_features

READOUTS = ("masked_mean", "padded_mean")


class LorentzNet(nn.Module):
    """Classifies jets by messages that depend on four-momenta only through Minkowski products.

    The logits are invariant under Lorentz transformations of all nodes of a jet, beams included
    (:func:`equikernels.data.with_beams`), and under permutations of them.

    Two readouts:

    - "masked_mean" averages h over the nodes of an event. The result does not depend on the other events of the batch
      (in eval mode), and BatchNorm includes only real nodes.
    - "padded_mean" is the readout of published weights: the sum over nodes divided by the number of slots an event is
      padded to, so that logits depend on ``padded_to``. In training the published BatchNorm also includes the padding;
      this readout does the same, by rows of padding that no edge op sees.

    With ``equivariant=False`` messages read the four-momenta themselves, and the logits have no symmetry but
    permutations: the ablation of the paper, "LorentzNet (w/o)", whose inputs no source gives; ours are those of
    :class:`equikernels.nn.LGEB`.

    Args:
        n_scalar: width of the node scalars; 2 for top tagging, 8 for quark/gluon tagging.
        n_hidden: width h; 72 in the published networks.
        n_class: number of logits.
        n_layers: number of blocks L, at least 1.
        c_weight: step of the coordinate update; 5e-3 (top) and 1e-3 (quark/gluon) in the published networks.
        dropout: before the last linear layer; 0.2 in the published networks.
        readout: "masked_mean" or "padded_mean".
        equivariant: see above.
        precision: of the products on edges: "highest", "high" or "medium", as :class:`equikernels.nn.LGEB`.
    """

    def __init__(
        self,
        n_scalar: int,
        n_hidden: int,
        n_class: int = 2,
        n_layers: int = 6,
        c_weight: float = 1e-3,
        dropout: float = 0.0,
        readout: str = "masked_mean",
        *,
        equivariant: bool = True,
        precision: str = "highest",
    ) -> None:
        super().__init__()
        check_choice("LorentzNet", "readout", readout, READOUTS)
        if n_layers < 1:
            fail("LorentzNet", "n_layers", "at least 1", n_layers)
        self.n_scalar = n_scalar
        self.readout = readout
        self.embedding = nn.Linear(n_scalar, n_hidden)
        self.LGEBs = nn.ModuleList(
            LGEB(
                n_hidden,
                n_hidden,
                n_hidden,
                n_scalar,
                c_weight=c_weight,
                last_layer=layer == n_layers - 1,
                equivariant=equivariant,
                precision=precision,
            )
            for layer in range(n_layers)
        )
        self.graph_dec = nn.Sequential(
            nn.Linear(n_hidden, n_hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(n_hidden, n_class)
        )

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        *,
        c_weight: float,
        dropout: float = 0.2,
        readout: str = "padded_mean",
        precision: str = "highest",
    ) -> LorentzNet:
        """A network of the widths of ``state``, not yet filled. The defaults are the published network's.

        Args:
            state: has at least embedding.weight, graph_dec.3.weight and the blocks.
            c_weight: not in the state; it changes results: 5e-3 (top) or 1e-3 (quark/gluon) as published.
            dropout, readout, precision: as the class.
        """
        width = state["embedding.weight"].shape
        options: dict[str, Any] = {"precision": precision}
        options["equivariant"] = state["LGEBs.0.phi_e.0.weight"].shape[-1] != 2 * width[0] + 8
        n_layers = len({key.split(".")[1] for key in state if key.startswith("LGEBs.")})
        n_class = state["graph_dec.3.weight"].shape[0]
        return cls(width[-1], width[0], n_class, n_layers, c_weight, dropout, readout, **options)

    @for_any_size
    def forward(self, x: Tensor, scalars: Tensor, ptr: Tensor | Graph, *, padded_to: int | None = None) -> Tensor:
        """Logits of each event.

        Args:
            x: [n, 4] four-momenta (E, px, py, pz) in GeV, float32 or float64; float64 is possible with float32
                weights.
            scalars: [n, n_scalar], any floating dtype; used in the dtype of the weights.
            ptr: int64 [n_events + 1]; event b owns nodes ptr[b] .. ptr[b + 1] - 1. Or the complete graph made from it,
                which avoids a check and, with ``num_edges``, a synchronisation; torch.compile and torch.export need the
                graph.
            padded_to: "padded_mean" only: the number of slots N an event is padded to; by default the longest event of
                the batch, which synchronises with the device and breaks the graph of torch.compile. The lower limit of
                N is checked per event on the CPU in eager mode, and in total otherwise.

        Returns:
            [n_events, n_class]. Class 1 is signal in the published networks.

        Raises:
            ValueError, TypeError: wrong shape, dtype or device; ``padded_to`` too small, or given with "masked_mean".
        """
        op = "LorentzNet"
        check_tensor(op, "x", x, ["n", 4], REAL)
        warn_of_order(op, "x", x)
        scalars = cast_features(op, "scalars", scalars, x.shape[0], self.n_scalar, weight_of(self.embedding))
        graph = ptr if isinstance(ptr, Graph) else Graph.complete(ptr, num_nodes=x.shape[0])
        if graph._kind != COMPLETE:
            fail(op, "ptr", "offsets, or a complete graph without self-loops", graph)
        if graph.num_nodes != x.shape[0]:
            fail(op, "ptr", f"{x.shape[0]} nodes", graph.num_nodes)
        slots = self._slots(graph._ptr, x.shape[0], padded_to)
        events, padding = graph.events, 0
        if slots is not None and self.training:
            # the published padding: rows of zeros, which enter the statistics of phi_h and nothing else
            padding = events.num_nodes * slots - x.shape[0]
            scalars = F.pad(scalars, (0, 0, 0, padding))
        h = apply_linear(self.embedding, scalars)
        for block in self.LGEBs:
            h, x = block(h, x, graph, node_attr=scalars, padding=padding)
        if slots is None:
            mean = segment_reduce(h, events, "mean")
        else:
            real = h[: events.num_edges] if padding else h
            mean = segment_reduce(real, events, "sum") / slots
        return apply_layers(self.graph_dec, mean)

    def _slots(self, ptr: Tensor, n: int, padded_to: int | None) -> int | None:
        """N of the padded mean; None for the masked one."""
        if self.readout == "masked_mean":
            if padded_to is not None:
                fail("LorentzNet", "padded_to", 'None with readout="masked_mean"', padded_to)
            return None
        events = ptr.shape[0] - 1
        free = indices.on_host(ptr)
        longest = int(ptr.diff().max()) if events > 0 and (padded_to is None or free) else 0
        slots = max(longest, 1) if padded_to is None else padded_to
        if slots < longest or slots * events < n or slots < 1:
            fail("LorentzNet", "padded_to", f"at least {max(longest, 1)}, the longest event", padded_to)
        return slots
