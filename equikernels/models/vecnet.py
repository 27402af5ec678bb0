"""VecNet, arXiv 2202.06941: an equivariant stream, an unconstrained stream that reads its messages, and one readout.

No code or weights of the jet tagger were released, and the paper leaves the layers open. Here the equivariant stream
is exactly LorentzNet's (or EuclidNet's), the free stream :class:`equikernels.nn.FreeStream`, and the ratio of their
widths interpolates between both ends: with ``n_free=0`` the network is LorentzNet (or EuclidNet) bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import REAL, check_tensor, fail
from ..data.order import warn_of_order
from ..export import for_any_size
from ..graph import COMPLETE, Graph
from ..nn.edge_chain import read_ends
from ..nn.free_stream import FreeStream
from ..nn.linear import weight_of
from ..nn.rows import apply_layers, apply_linear
from ..ops.common import as_graph
from ..ops.segment import segment_reduce
from .euclidnet import EuclidNet, in_order
from .inputs import cast_features
from .lorentznet import LorentzNet


class VecNet(LorentzNet):
    """The jet tagger: LorentzNet's blocks, of width ``n_hidden``, and a free stream of width ``n_free``.

    The equivariant stream's features are invariant and its vectors covariant whatever ``n_free``; the logits are
    invariant with ``n_free=0`` only. The readout averages both streams' features over the particles of a jet.

    Args:
        n_scalar: width of the node scalars, which must be invariant.
        n_hidden: width of the equivariant stream.
        n_free: width of the free stream; ``int(n_hidden * ratio)`` for a ratio of widths.
        n_free_input: width of the free features, which need not be invariant (log pT, log E, delta eta, ...).
        n_class, n_layers, c_weight, dropout, precision: as :class:`LorentzNet`.
    """

    def __init__(
        self,
        n_scalar: int,
        n_hidden: int,
        n_free: int,
        n_free_input: int = 0,
        n_class: int = 2,
        n_layers: int = 6,
        c_weight: float = 1e-3,
        dropout: float = 0.0,
        *,
        precision: str = "highest",
    ) -> None:
        super().__init__(n_scalar, n_hidden, n_class, n_layers, c_weight, dropout, precision=precision)
        _check_free("VecNet", n_free, n_free_input)
        self.n_free_input = n_free_input
        if n_free > 0:
            self.free_encoder = nn.Linear(n_free_input, n_free)
            self.free = nn.ModuleList(FreeStream(n_hidden, 4, n_hidden, n_free) for _ in range(n_layers))
            self.graph_dec[0] = nn.Linear(n_hidden + n_free, n_hidden)

    @classmethod
    def of_size(cls, parameters: int, share: float, n_scalar: int, n_free_input: int = 0, **options: Any) -> VecNet:
        """A network of a given size, of whose channels a given share is free: the dial between equivariant and
        unconstrained networks of arXiv 2202.06941 (figure 3 of arXiv 2203.06153), at constant size.

        Args:
            parameters: of the whole network; the nearest size that there is.
            share: n_free / (n_hidden + n_free), from 0, LorentzNet, to below 1; the nearest for integer widths, with
                one equivariant channel at least.
            n_scalar, n_free_input, options: as the class.

        Raises:
            ValueError: a share that is not in [0, 1), or fewer parameters than the narrowest network has.
        """

        def make(n_hidden: int, n_free: int) -> VecNet:
            return cls(n_scalar, n_hidden, n_free, n_free_input, **options)

        return make(*_widths("VecNet.of_size", make, parameters, share))

    @for_any_size
    def forward(  # type: ignore[override]
        self, x: Tensor, scalars: Tensor, ptr: Tensor | Graph, free: Tensor | None = None
    ) -> Tensor:
        """Logits of each event.

        Args:
            x, scalars, ptr: as :meth:`LorentzNet.forward`.
            free: [n, n_free_input], any floating dtype, used in that of the weights; not needed with a width of 0.

        Returns:
            [n_events, n_class].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        h, f, _, graph = self.streams(x, scalars, ptr, free)
        events = graph.events
        mean = segment_reduce(h if f is None else torch.cat([h, f], dim=1), events, "mean")
        return apply_layers(self.graph_dec, mean)

    def streams(
        self, x: Tensor, scalars: Tensor, ptr: Tensor | Graph, free: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor, Graph]:
        """(s [n, n_hidden], f [n, n_free] or None, x [n, 4], graph) after all layers."""
        op = "VecNet"
        check_tensor(op, "x", x, ["n", 4], REAL)
        warn_of_order(op, "x", x)
        scalars = cast_features(op, "scalars", scalars, x.shape[0], self.n_scalar, weight_of(self.embedding))
        graph = ptr if isinstance(ptr, Graph) else Graph.complete(ptr, num_nodes=x.shape[0])
        if graph._kind != COMPLETE or graph.num_nodes != x.shape[0]:
            fail(op, "ptr", f"offsets of {x.shape[0]} nodes, or a complete graph over them without self-loops", graph)
        h = apply_linear(self.embedding, scalars)
        if not hasattr(self, "free"):
            for block in self.LGEBs:
                h, x = block(h, x, graph, node_attr=scalars)
            return h, None, x, graph
        f = _encode_free(op, self.free_encoder, h, free)
        for block, listener in zip(self.LGEBs, self.free, strict=True):
            h, x, m = block(h, x, graph, node_attr=scalars, return_edges=True)
            f = listener(f, h, x, m, graph)
        return h, f, x, graph

    def parameter_counts(self) -> tuple[int, int]:
        """(parameters of the equivariant network, parameters the free stream adds)."""
        return _counts(self, self.graph_dec[0].get_parameter("weight"), 1)


class VecNetTracking(EuclidNet):
    """The tracker: EuclidNet's SO(2) block, of width ``n_hidden``, and a free stream of width ``n_free``.

    Edge features e stand for messages: the free stream reads them, and so does the edges' network, which has columns
    [s_j, f_j, s_i, f_i, e_ij]. Edges as in :mod:`equikernels.models.euclidnet`.

    Args:
        n_hidden: width of the equivariant stream.
        n_free: width of the free stream.
        n_free_input: width of the free features.
        n_layers, n_graph_iters, c_weight: as :class:`EuclidNet`; each round has a free layer of its own.
    """

    def __init__(
        self,
        n_hidden: int = 8,
        n_free: int = 4,
        n_free_input: int = 0,
        n_layers: int = 3,
        n_graph_iters: int = 5,
        c_weight: float = 0.005,
    ) -> None:
        super().__init__(n_hidden, n_layers, n_graph_iters, c_weight)
        _check_free("VecNetTracking", n_free, n_free_input)
        self.n_free_input = n_free_input
        if n_free > 0:
            self.free_encoder = nn.Linear(n_free_input, n_free)
            self.free = nn.ModuleList(FreeStream(n_hidden, 2, n_hidden, n_free) for _ in range(n_graph_iters))
            self.edge_mlp[0] = nn.Linear(3 * n_hidden + 2 * n_free, n_hidden)

    @classmethod
    def of_size(cls, parameters: int, share: float, n_free_input: int = 0, **options: Any) -> VecNetTracking:
        """As :meth:`VecNet.of_size`; a share of 0 is EuclidNet."""

        def make(n_hidden: int, n_free: int) -> VecNetTracking:
            return cls(n_hidden, n_free, n_free_input, **options)

        return make(*_widths("VecNetTracking.of_size", make, parameters, share))

    @for_any_size
    def forward(  # type: ignore[override]
        self, x: Tensor, graph: Graph | Tensor, free: Tensor | None = None
    ) -> Tensor:
        """As :meth:`EuclidNet.forward`, with free features [n, n_free_input]; not needed with a width of 0."""
        graph = as_graph("VecNetTracking", graph, x.shape[0])
        h, f, _, e, by_receiver = self.streams(x, graph, free)
        nodes = h if f is None else torch.cat([h, f], dim=1)
        out = read_ends("VecNetTracking", self.edge_mlp, nodes, e, by_receiver, sigmoid=True)
        return in_order(out, graph._ordered[1])

    def streams(
        self, x: Tensor, graph: Graph | Tensor, free: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Graph]:
        """(s [n, n_hidden], f [n, n_free] or None, v [n, 2], e [E, n_hidden], graph) after all rounds; e is in the
        order of that graph, :attr:`Graph.by_receiver`."""
        h, v, e, graph, _ = self.embed(x, graph)
        if not hasattr(self, "free"):
            h, v, e = self.rounds(h, v, e, graph)
            return h, None, v, e, graph
        f = _encode_free("VecNetTracking", self.free_encoder, h, free)
        for listener in self.free:
            h, v, e, _ = self.EB(h, v, e, graph)
            f = listener(f, h, v, e, graph)
        return h, f, v, e, graph

    def parameter_counts(self) -> tuple[int, int]:
        """(parameters of the equivariant network, parameters the free stream adds)."""
        return _counts(self, self.edge_mlp[0].get_parameter("weight"), 2)


def _check_free(op: str, n_free: int, n_free_input: int) -> None:
    if n_free < 0:
        fail(op, "n_free", "at least 0", n_free)
    if n_free_input < 0:
        fail(op, "n_free_input", "at least 0", n_free_input)


def _encode_free(op: str, encoder: nn.Linear, like: Tensor, free: Tensor | None) -> Tensor:
    if free is None and encoder.in_features == 0:
        free = like.new_empty(like.shape[0], 0)
    if free is None:
        fail(op, "free", f"shape [{like.shape[0]}, {encoder.in_features}]", None)
    return apply_linear(
        encoder, cast_features(op, "free", free, like.shape[0], encoder.in_features, weight_of(encoder))
    )


def _counts(model: Any, readout: Tensor, ends: int) -> tuple[int, int]:
    """``readout``: the weight that reads both streams, at ``ends`` ends."""
    total = sum(p.numel() for p in model.parameters())
    if not hasattr(model, "free"):
        return total, 0
    free = sum(p.numel() for part in (model.free, model.free_encoder) for p in part.parameters())
    free += readout.shape[0] * ends * model.free_encoder.out_features
    return total - free, free


def _widths(op: str, make: Callable[[int, int], nn.Module], parameters: int, share: float) -> tuple[int, int]:
    """(equivariant, free) channels of the network whose size is nearest to ``parameters``."""
    if not 0 <= share < 1:
        fail(op, "share", "a number from 0 to below 1", share)

    def split(width: int) -> tuple[int, int]:
        n_free = min(round(share * width), width - 1)
        return width - n_free, n_free

    def size(width: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in make(*split(width)).parameters())

    if (smallest := size(1)) > parameters:
        fail(op, "parameters", f"at least {smallest}", parameters)
    width, above = 1, 2
    while size(above) <= parameters:
        width, above = above, 2 * above
    while above - width > 1:
        middle = (width + above) // 2
        width, above = (middle, above) if size(middle) <= parameters else (width, middle)
    return split(min(width, above, key=lambda w: abs(size(w) - parameters)))
