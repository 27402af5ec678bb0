"""The layer of a tensor field network (arXiv 1802.08219) for scalars and vectors of three-dimensional space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import fail
from ..graph import Graph
from ..ops.invariants import pairwise_invariants
from ..ops.segment import segment_reduce
from .gcl import check_attributes
from .linear import check_dtype
from .radial_field import norm
from .rows import apply_linear

RADIAL = 32  # width of the radial networks
# (order of the input, order of the output): how many radial functions a pair of channels has
FUNCTIONS = {(0, 0): 1, (0, 1): 1, (1, 0): 1, (1, 1): 3}


class TensorFieldLayer(nn.Module):
    r"""Messages that are linear in the neighbour's scalars s and vectors v, by kernels of the difference of positions.

    .. math::
        m^0_{ij} &= R^{00} s_j + R^{10} (\hat r \cdot v_j) \\
        m^1_{ij} &= \hat r\, (R^{01} s_j) + R^{11}_0 v_j + R^{11}_1 (\hat r \times v_j)
            + R^{11}_2 (\hat r\, (\hat r \cdot v_j) - v_j / 3) \\
        s_i' &= \mathrm{mean}_j (m^0_{ij} + W^0 s_i), \quad v_i' = \mathrm{mean}_j (m^1_{ij} + W^1 v_i)

    with :math:`r = x_i - x_j`, :math:`\hat r = r / \|r\|` (0 at coincident points), and R matrices over channels that
    networks make of :math:`(\|r\|, a_{ij})`: what the Clebsch-Gordan products of orders 0 and 1 are, up to constant
    factors of R. Rotations turn v', and translations change nothing; the cross product breaks reflections, where
    vectors enter and leave. The matrices R are tensors of edges; norms and products with R are PyTorch's, so that the
    last digits of gradients may depend on the number of threads. Edges as for :class:`EGCL`.

    Args:
        n_in: channels of s and v, at least one in all.
        n_out: channels of s' and v'.
        edge_attr_nf: width of the edge attributes a.
        act_fn: the activation of the radial networks.

    Raises:
        ValueError: no channels.
    """

    def __init__(
        self,
        n_in: Sequence[int],
        n_out: Sequence[int],
        edge_attr_nf: int = 0,
        act_fn: nn.Module = nn.ReLU(),  # noqa: B008 (it has no state)
    ) -> None:
        super().__init__()
        for name, widths in (("n_in", n_in), ("n_out", n_out)):
            if len(widths) != 2 or min(widths) < 0 or sum(widths) == 0:
                fail("TensorFieldLayer", name, "numbers of scalars and vectors, not both 0", list(widths))
        self.n_in = tuple(n_in)
        self.n_out = tuple(n_out)
        self.edge_attr_nf = edge_attr_nf
        self.radial = nn.ModuleDict()
        self.self_interaction = nn.ModuleDict()
        for (k, l), functions in FUNCTIONS.items():
            if n_in[k] and n_out[l]:
                self.radial[f"{k}{l}"] = _radial(1 + edge_attr_nf, functions * n_out[l] * n_in[k], act_fn)
        for k in (0, 1):
            if n_in[k] and n_out[k]:
                own = nn.Linear(n_in[k], n_out[k], bias=False)
                nn.init.normal_(own.weight, std=n_in[k] ** -0.5)
                self.self_interaction[str(k)] = own

    def forward(
        self, s: Tensor, v: Tensor, x: Tensor, graph: Graph, edge_attr: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Updates scalars and vectors.

        Args:
            s: [n, n_in[0]] scalars.
            v: [n, n_in[1], 3] vectors, in the dtype of the weights, as s.
            x: [n, 3] positions, in that dtype or float64.
            graph: the edges, over n nodes.
            edge_attr: [E, edge_attr_nf], in the graph's order.

        Returns:
            (s' [n, n_out[0]], v' [n, n_out[1], 3]).

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        self._check(s, v, x, graph, edge_attr)
        j, i = graph._edges
        distance = norm(pairwise_invariants(x, graph, metric="euclidean", psi=False)[:, :1])
        direction = ((x[i] - x[j]) / torch.where(distance > 0, distance, 1)).to(s.dtype)
        edge = distance.to(s.dtype)
        edge = edge if edge_attr is None else torch.cat([edge, edge_attr], dim=1)
        scalars, vectors = self._messages(edge, direction, s[j], v.flatten(1)[j].unflatten(1, (self.n_in[1], 3)))
        messages = torch.cat([scalars, vectors.flatten(1), torch.ones_like(distance).to(s.dtype)], dim=1)
        mean = segment_reduce(messages, graph, "mean")
        # The mean of ones tells which nodes have neighbours: without, the mean over W s_i is 0 too.
        to_scalars, to_vectors, reached = mean.split([self.n_out[0], 3 * self.n_out[1], 1], dim=1)
        to_vectors = to_vectors.unflatten(1, (self.n_out[1], 3))
        if "0" in self.self_interaction:
            to_scalars = to_scalars + reached * apply_linear(self.self_interaction["0"], s)
        if "1" in self.self_interaction:
            own = apply_linear(self.self_interaction["1"], v.transpose(1, 2).flatten(0, 1))
            to_vectors = to_vectors + reached[:, :, None] * own.unflatten(0, (-1, 3)).transpose(1, 2)
        return to_scalars, to_vectors

    def _messages(self, edge: Tensor, direction: Tensor, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """m^0 [E, n_out[0]] and m^1 [E, n_out[1], 3] of the senders' s and v."""
        weight = {
            name: _rows(net, edge).unflatten(1, (FUNCTIONS[k, l], self.n_out[l], self.n_in[k]))
            for (k, l), name, net in ((tuple(map(int, name)), name, net) for name, net in self.radial.items())
        }
        along = torch.einsum("ecx,ex->ec", v, direction)
        scalars, radial = (edge.new_zeros(edge.shape[0], n) for n in self.n_out)
        vectors = edge.new_zeros(edge.shape[0], self.n_out[1], 3)
        if "00" in weight:
            scalars = scalars + _times(weight["00"][:, 0], s)
        if "10" in weight:
            scalars = scalars + _times(weight["10"][:, 0], along)
        if "01" in weight:
            radial = radial + _times(weight["01"][:, 0], s)
        if "11" in weight:
            same, cross, tensor = weight["11"].unbind(1)
            radial = radial + _times(tensor, along)
            turned = torch.linalg.cross(direction[:, None].expand_as(v), v)
            vectors = (same - tensor / 3) @ v + cross @ turned
        return scalars, vectors + radial[:, :, None] * direction[:, None]

    def _check(self, s: Tensor, v: Tensor, x: Tensor, graph: Graph, edge_attr: Tensor | None) -> None:
        op, n = "TensorFieldLayer", graph.num_nodes
        for name, value, shape in (
            ("s", s, (n, self.n_in[0])),
            ("v", v, (n, self.n_in[1], 3)),
            ("x", x, (n, 3)),
        ):
            if value.shape != shape:
                fail(op, name, f"shape {list(shape)}", list(value.shape))
        first = next(iter(self.radial.values()))
        for name, value in (("s", s), ("v", v)):
            check_dtype(op, name, value, first)
        check_attributes(op, edge_attr, graph, self.edge_attr_nf)


class NormActivation(nn.Module):
    r"""The nonlinearity between layers, that keeps directions: :math:`v \to f(\|v\|) v / \|v\|`, over the channels.

    f is LayerNorm, activation, Linear. For scalars v / \|v\| is their sign. The derivative of a norm of 0 is taken as
    0.

    Args:
        widths: channels of scalars and vectors.
        act_fn: the activation.
    """

    def __init__(self, widths: Sequence[int], act_fn: nn.Module = nn.ReLU()) -> None:  # noqa: B008
        super().__init__()
        self.nets = nn.ModuleDict()
        for k, width in enumerate(widths):
            if width:
                last = nn.Linear(width, width)
                nn.init.kaiming_uniform_(last.weight)
                self.nets[str(k)] = nn.Sequential(nn.LayerNorm(width), act_fn, last)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(s', v') of s [n, C] and v [n, C', 3], in their shapes."""
        if "0" in self.nets:
            s = self._of_length("0", s.abs()) * s.sign()
        if "1" in self.nets:
            length = norm(v.square().sum(2))
            v = (self._of_length("1", length) / torch.where(length > 0, length, 1))[:, :, None] * v
        return s, v

    def _of_length(self, k: str, length: Tensor) -> Tensor:
        net: Any = self.nets[k]
        return apply_linear(net[2], net[1](net[0](length)))


def _radial(width: int, outputs: int, act_fn: nn.Module) -> nn.Sequential:
    layers = [nn.Linear(width, RADIAL), nn.Linear(RADIAL, RADIAL), nn.Linear(RADIAL, outputs)]
    for layer in layers:
        nn.init.kaiming_uniform_(layer.weight)
    norms = [nn.LayerNorm(RADIAL) for _ in range(2)]
    return nn.Sequential(layers[0], norms[0], act_fn, layers[1], norms[1], act_fn, layers[2])


def _rows(net: Any, rows: Tensor) -> Tensor:
    """A radial network on rows; its norms have affine maps, of which the fused op takes none."""
    for layer in net:
        rows = apply_linear(layer, rows) if isinstance(layer, nn.Linear) else layer(rows)
    return rows


def _times(weight: Tensor, values: Tensor) -> Tensor:
    """[E, out] of matrices [E, out, in] and [E, in]."""
    return (weight @ values[:, :, None]).squeeze(2)
