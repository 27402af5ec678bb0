"""EGNN, arXiv 2102.09844: updates invariant features and points of Euclidean space; and its N-body relatives.

Edges j -> i are PyTorch Geometric's: row 0 the sender j, row 1 the receiver i. The published code sums at the *first*
index of its ``[row, col]``: that is ``torch.stack([col, row])`` here.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from ..checks import FLOATING, check_tensor
from ..export import for_any_size
from ..graph import Graph
from ..nn import EGCL, EGCLVelocity, RadialFieldLayer
from ..nn.linear import weight_of
from ..nn.rows import apply_linear
from ..ops.common import as_graph
from .inputs import check_dtype, check_features


class EGNN(nn.Module):
    """Layers of :class:`equikernels.nn.EGCL` between two linear maps; x' is E(n) equivariant and h' invariant.

    Args:
        in_node_nf: width of h.
        hidden_nf: width of the layers, at most 512.
        out_node_nf: width of h'.
        in_edge_nf: width of the edge attributes.
        act_fn: an activation that :func:`equikernels.message_passing` has (SiLU, ReLU, ELU, ...).
        n_layers: number of layers.
        residual: add h to each layer's update.
        attention: gate the messages.
        normalize: x_i - x_j over its norm, held constant, + 1e-8, where coordinates are updated.
        tanh: bound the weights of the coordinate update.
    """

    def __init__(
        self,
        in_node_nf: int,
        hidden_nf: int,
        out_node_nf: int,
        in_edge_nf: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008 (it has no state)
        n_layers: int = 4,
        residual: bool = True,
        attention: bool = False,
        normalize: bool = False,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.embedding_in = nn.Linear(in_node_nf, hidden_nf)
        self.embedding_out = nn.Linear(hidden_nf, out_node_nf)
        for k in range(n_layers):
            layer = EGCL(
                hidden_nf,
                hidden_nf,
                hidden_nf,
                in_edge_nf,
                act_fn=act_fn,
                recurrent=residual,
                attention=attention,
                normalize=normalize,
                tanh=tanh,
                clamp=None,
            )
            self.add_module(f"gcl_{k}", layer)

    @for_any_size
    def forward(
        self, h: Tensor, x: Tensor, graph: Graph | Tensor, edge_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Updates node features and coordinates.

        Args:
            h: [n, in_node_nf], in the dtype of the weights.
            x: [n, D] coordinates, D from 2 to 8, in that dtype or float64.
            graph: the edges, over n nodes; or an edge_index [2, E] of (sender, receiver).
            edge_attr: [E, in_edge_nf], in the graph's order.

        Returns:
            (h' [n, out_node_nf], x' [n, D]).

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        graph = as_graph("EGNN", graph, x.shape[0])
        check_features("EGNN", "h", h, x.shape[0], self.embedding_in.in_features, weight_of(self.embedding_in))
        h = apply_linear(self.embedding_in, h)
        for layer in _layers(self, self.n_layers):
            h, x = layer(h, x, graph, edge_attr)
        return apply_linear(self.embedding_out, h), x


class EGNNVelocity(nn.Module):
    """EGNN for points with velocities: the published N-body network, which predicts positions.

    Its layers clamp each component of a point's update to +-100.

    Args:
        in_node_nf: width of h; 1, the speed, in the published experiment.
        in_edge_nf: width of the edge attributes; 2, the product of charges and the initial squared distance.
        hidden_nf: width of the layers, at most 512.
        act_fn: an activation that :func:`equikernels.message_passing` has (SiLU, ReLU, ELU, ...).
        n_layers: number of layers.
        coords_weight: factor of the coordinate update.
        recurrent: add h to each layer's update; True in the published experiment.
        norm_diff: x_i - x_j over (its norm + 1) where coordinates are updated.
        tanh: bound the weights of the coordinate update.
    """

    def __init__(
        self,
        in_node_nf: int,
        in_edge_nf: int,
        hidden_nf: int,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008 (it has no state)
        n_layers: int = 4,
        coords_weight: float = 1.0,
        recurrent: bool = False,
        norm_diff: bool = False,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.embedding = nn.Linear(in_node_nf, hidden_nf)
        for k in range(n_layers):
            layer = EGCLVelocity(
                hidden_nf,
                hidden_nf,
                hidden_nf,
                in_edge_nf,
                act_fn=act_fn,
                recurrent=recurrent,
                coords_weight=coords_weight,
                norm_diff=norm_diff,
                tanh=tanh,
            )
            self.add_module(f"gcl_{k}", layer)

    @for_any_size
    def forward(
        self, h: Tensor, x: Tensor, graph: Graph | Tensor, vel: Tensor, edge_attr: Tensor | None = None
    ) -> Tensor:
        """Updates coordinates.

        Args:
            h, x, graph, edge_attr: as :meth:`EGNN.forward`.
            vel: [n, D] velocities, the same for every layer.

        Returns:
            x' [n, D].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        graph = as_graph("EGNNVelocity", graph, x.shape[0])
        check_features("EGNNVelocity", "h", h, x.shape[0], self.embedding.in_features, weight_of(self.embedding))
        h = apply_linear(self.embedding, h)
        for layer in _layers(self, self.n_layers):
            h, x = layer(h, x, graph, vel, edge_attr)
        return x


class RadialField(nn.Module):
    """The radial field network of the N-body experiment, no features: layers of
    :class:`equikernels.nn.RadialFieldLayer`, composed of ``pairwise_invariants`` and ``coordinate_update``.

    Args:
        hidden_nf: width of the layers' networks.
        edge_attr_nf: width of the edge attributes.
        act_fn: any activation module.
        n_layers: number of layers.
        velocity: whether points have velocities, as in the experiment; without, the plain radial field.
    """

    def __init__(
        self,
        hidden_nf: int,
        edge_attr_nf: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008 (it has no state)
        n_layers: int = 4,
        velocity: bool = True,
    ) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.velocity = velocity
        for k in range(n_layers):
            self.add_module(f"gcl_{k}", RadialFieldLayer(hidden_nf, edge_attr_nf, act_fn, velocity))

    @for_any_size
    def forward(
        self, x: Tensor, graph: Graph | Tensor, vel: Tensor | None = None, edge_attr: Tensor | None = None
    ) -> Tensor:
        """Updates coordinates. Arguments, result and errors are those of
        :meth:`equikernels.nn.RadialFieldLayer.forward`; the speeds ||v_i|| are computed here, not passed."""
        graph = as_graph("RadialField", graph, x.shape[0])
        if vel is not None:
            check_tensor("RadialField", "vel", vel, dtypes=FLOATING)
        if edge_attr is not None and self.n_layers > 0:
            check_dtype("RadialField", "edge_attr", edge_attr, next(self.parameters()))
        for layer in _layers(self, self.n_layers):
            x = layer(x, graph, vel, edge_attr)
        return x


def _layers(model: nn.Module, n_layers: int) -> Iterator[nn.Module]:
    return (model.get_submodule(f"gcl_{k}") for k in range(n_layers))
