"""EuclidNet, arXiv 2304.05293: classifies edges of hit graphs by messages of rotation invariants.

Edges j -> i are PyTorch Geometric's: row 0 the sender j, row 1 the receiver i. The released code sums at the *first*
index of its edge list: that is ``edge_index.flip(0)`` here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..checks import REAL, check_choice, check_tensor, fail
from ..export import for_any_size
from ..graph import Graph
from ..nn.chain import chain
from ..nn.edge_chain import read_ends
from ..nn.euclid import EuclidBlock, EuclidPointsBlock, PaperEuclidBlock
from ..nn.linear import weight_and_bias
from ..nn.rows import apply_layers
from ..ops.common import HasEdges, as_graph, of_data
from .inputs import check_weights

VARIANTS = ("repo", "paper")


class EuclidNet(nn.Module):
    r"""The SO(2) network: x, y are a vector, z is a scalar.

    ``variant="repo"`` is the released model: one block whose weights are shared by ``n_graph_iters`` rounds, edge
    features carried from round to round, LayerNorm without affine, a sigmoid on messages, and c on both updates. With
    ``equi_output`` the edges' network reads features, and the result is invariant under rotations about z and under
    reflections; without, it reads the moved x, y, and is not.

    ``variant="paper"`` is equations 3.1-3.4 with ``n_graph_iters`` blocks of their own weights
    (:class:`equikernels.nn.PaperEuclidBlock`), the released encoders without LayerNorm, and an edges' network of three
    layers that reads h of both ends. A sigmoid replaces the paper's softmax, which is the same for two classes.

    Args:
        n_hidden: width of all hidden layers.
        n_layers: linear layers of each network inside.
        n_graph_iters: rounds.
        c_weight: step of the updates.
        equi_output: see above; "repo" only.
        variant: "repo" or "paper".
        activation: between layers; in "repo" of the encoders alone, the rest has SiLU.
        layernorm: of the encoders, "repo" only; the rest has it.
    """

    def __init__(
        self,
        n_hidden: int = 8,
        n_layers: int = 3,
        n_graph_iters: int = 5,
        c_weight: float = 0.005,
        equi_output: bool = True,
        variant: str = "repo",
        activation: nn.Module = nn.SiLU(),  # noqa: B008 (it has no state)
        layernorm: bool = True,
    ) -> None:
        super().__init__()
        check_choice("EuclidNet", "variant", variant, VARIANTS)
        if n_layers < 1:
            fail("EuclidNet", "n_layers", "at least 1", n_layers)
        paper = variant == "paper"
        if paper and not equi_output:
            fail("EuclidNet", "equi_output", 'True with variant="paper"', equi_output)
        self.variant = variant
        self.equi_output = equi_output
        self.n_graph_iters = n_graph_iters
        norm = layernorm and not paper
        h = [n_hidden] * n_layers
        self.node_encoder = chain([1, *h], activation, norm)
        self.edge_encoder = chain([2 * n_hidden, *h], activation, norm)
        if paper:
            blocks = [PaperEuclidBlock(n_hidden, n_layers, c_weight, activation) for _ in range(n_graph_iters)]
            self.EBs = nn.ModuleList(blocks)
            self.edge_mlp = chain([2 * n_hidden, n_hidden, n_hidden, 1], activation, norm=False)
        else:
            self.EB = EuclidBlock(n_hidden, n_layers, c_weight)
            n_read = 3 * n_hidden if equi_output else n_hidden + 4
            self.edge_mlp = chain([n_read, *h, 1], nn.SiLU(), norm=True)

    @classmethod
    def from_state_dict(
        cls,
        state: Mapping[str, Tensor],
        *,
        c_weight: float = 0.005,
        n_graph_iters: int = 5,
        equi_output: bool | None = None,
    ) -> EuclidNet:
        """A network of the widths of ``state``, not yet filled; the state has no rounds and no step.

        Args:
            state: of the released model.
            c_weight, n_graph_iters: as the class.
            equi_output: needed only at width 2, where the shapes do not determine it.
        """
        width = state["node_encoder.0.weight"].shape[0]
        n_layers = sum(key.startswith("node_encoder.") and key.endswith("weight") for key in state)
        read = state["edge_mlp.0.weight"].shape[1]
        if equi_output is None:
            if width == 2:
                fail("EuclidNet", "equi_output", "True or False at width 2 (not in the file)", "None")
            equi_output = read == 3 * width
        layernorm = n_layers == 1 or "node_encoder.3.weight" in state
        return cls(width, n_layers, n_graph_iters, c_weight, equi_output, layernorm=layernorm)

    @for_any_size
    def forward(self, x: Tensor | HasEdges, graph: Graph | Tensor | None = None) -> Tensor:
        """The probability that each edge belongs to a track.

        Args:
            x: [n, 3] hits (x, y, z) in any one unit (the release: r/1000 cos(phi), r/1000 sin(phi), z/1000 of
                millimetres), in the dtype of the weights or float64. Or a ``torch_geometric.data.Data`` or ``Batch``
                with x and edge_index; graph is then omitted.
            graph: the edges, over n hits; or an edge_index [2, E] of (sender, receiver).

        Returns:
            [E, 1] in (0, 1), in the graph's order.

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        x, graph, _ = of_data("EuclidNet", x, graph)
        h, v, e, graph, order = self.embed(x, graph)
        return in_order(self.decode(*self.rounds(h, v, e, graph), graph), order)

    def embed(self, x: Tensor, graph: Graph | Tensor) -> tuple[Tensor, Tensor, Tensor, Graph, Tensor]:
        """(h, v, e, graph, order): node features [n, n_hidden], (x, y) [n, 2], and edge features [E, n_hidden] in the
        order of the second graph, which is :attr:`Graph.by_receiver` of the first."""
        op = type(self).__name__
        check_tensor(op, "x", x, ["n", 3], REAL)
        graph, order = as_graph(op, graph, x.shape[0])._ordered
        weight = weight_and_bias(self.node_encoder[0])[0]
        check_weights(op, weight)
        h = apply_layers(self.node_encoder, x[:, 2:].to(weight.dtype))
        e = read_ends(op, self.edge_encoder, h, None, graph, receiver_first=True)
        return h, x[:, :2], e, graph, order

    def rounds(self, h: Tensor, v: Tensor, e: Tensor, graph: Graph) -> tuple[Tensor, Tensor, Tensor]:
        """(h, v, e) after all rounds."""
        if self.variant == "paper":
            for block in self.EBs:
                h, v, e, _ = block(h, v, e, graph)
        else:
            for _ in range(self.n_graph_iters):
                h, v, e, _ = self.EB(h, v, e, graph)
        return h, v, e

    def decode(self, h: Tensor, v: Tensor, e: Tensor, graph: Graph) -> Tensor:
        """[E, 1] in (0, 1)."""
        read = h if self.equi_output else v.to(h.dtype)
        memory = None if self.variant == "paper" else e
        return read_ends(type(self).__name__, self.edge_mlp, read, memory, graph, sigmoid=True)


class EuclidNetSO3(nn.Module):
    """The released SO(3) network: points only, ``n_layers`` blocks, BatchNorm.

    Its edges' network reads raw coordinates: unlike the points, the result is not invariant under rotations.

    Args:
        n_hidden: width of the messages.
        n_layers: blocks, at least 1.
        c_weight: step of the update.
    """

    def __init__(self, n_hidden: int = 8, n_layers: int = 3, c_weight: float = 0.005) -> None:
        super().__init__()
        if n_layers < 1:
            fail("EuclidNetSO3", "n_layers", "at least 1", n_layers)
        self.EBs = nn.ModuleList(EuclidPointsBlock(n_hidden, c_weight) for _ in range(n_layers))
        self.edge_mlp = chain([6 + n_hidden, n_hidden, n_hidden, 1], nn.ReLU(), norm=False)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, c_weight: float = 0.005) -> EuclidNetSO3:
        """A network of the widths of ``state``, not yet filled."""
        n_layers = len({key.split(".")[1] for key in state if key.startswith("EBs.")})
        return cls(state["EBs.0.phi_e.0.weight"].shape[0], n_layers, c_weight)

    @for_any_size
    def forward(self, x: Tensor | HasEdges, graph: Graph | Tensor | None = None) -> Tensor:
        """Arguments, result and errors as :meth:`EuclidNet.forward`."""
        op = "EuclidNetSO3"
        x, graph, _ = of_data(op, x, graph)
        check_tensor(op, "x", x, ["n", 3], REAL)
        check_weights(op, weight_and_bias(self.edge_mlp[0])[0])
        graph, order = as_graph(op, graph, x.shape[0])._ordered
        x, m = self.rounds(x, graph)
        return in_order(read_ends(op, self.edge_mlp, x.to(m.dtype), m, graph, sigmoid=True), order)

    def rounds(self, x: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """(x, m): points after all blocks, and the last block's messages."""
        m: Tensor | None = None
        for k, block in enumerate(self.EBs):
            x, m = block(x, graph, return_edges=k == len(self.EBs) - 1)
        assert m is not None
        return x, m


def in_order(edges: Tensor, order: Tensor) -> Tensor:
    """Rows of edges sorted by receiver, in the order of the given graph."""
    return torch.empty_like(edges).index_copy(0, order, edges)
