"""The E(n) equivariant graph convolution of EGNN (arXiv 2102.09844, eqs. 3-6), as published code needs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_choice, fail
from ..graph import Graph
from ..ops.common import as_graph
from ..ops.message_passing import EdgeMLP, Geometry, message_passing
from ..ops.message_passing.activations import fused_activation
from ..ops.message_passing.edge_mlp import PARTS
from ..ops.message_passing.options import PRECISIONS
from ..ops.segment import segment_reduce
from .linear import check_dtype
from .plain import Layers, expect_layers, obstacle, warn_once
from .rows import apply_layers


class EGCL(nn.Module):
    r"""One round of messages between points of Euclidean space.

    .. math::
        m_{ij} &= \phi_e(h_i, h_j, \|x_i - x_j\|^2, a_{ij}), \quad
        m_{ij} \leftarrow \mathrm{sigmoid}(w \cdot m_{ij} + b)\, m_{ij} \text{ with attention} \\
        x_i' &= x_i + c \, \mathrm{agg}_j \, \mathrm{clamp}(d_{ij} \phi_x(m_{ij})) \\
        h_i' &= h_i + \phi_h(h_i, \textstyle\sum_j m_{ij}, s_i)

    with :math:`d_{ij} = x_i - x_j`; over its norm, held constant, + 1e-8 with ``normalize``; over its norm + 1 with
    ``norm_diff``. The norm in the message is never normalised. All that happens on edges is one fused op: memory is
    O(n), in training too.

    **Edges.** j -> i is row 0 = j (sender), row 1 = i (receiver), as in PyTorch Geometric. The published code calls
    its edge list (row, col) and sums at row, the *first* index: its ``[row, col]`` is ``torch.stack([col, row])`` here.

    **Variants.** Published code has two: the standalone layer (no clamp: ``clamp=None``; ``recurrent`` is called
    residual there) and the older one of the N-body experiments (``clamp=100.0``, ``coords_weight``, ``norm_diff``; it
    moves x in place, this does not). State-dict keys, their order, and the initial weights a seed gives are the
    published ones.

    Where something is attached to the layers of edge_mlp, coord_mlp or att_mlp (hooks, adapters, quantised weights), or
    one of them has no fused form, all are called one by one, on a tensor of edges.

    At coincident points, self-loops included, all gradients are finite. With ``norm_diff`` the published formula
    gives NaN there; here the derivative of the norm is taken as 0.

    Args:
        input_nf: width of h.
        output_nf: width of h'; with ``recurrent`` the same.
        hidden_nf: width of the messages, at most 512.
        edges_in_d: width of the edge attributes a.
        nodes_att_dim: width of the node attributes s.
        act_fn: an activation that :func:`equikernels.message_passing` has (SiLU, ReLU, ELU, ...); the same everywhere.
        recurrent: add h to what phi_h gives.
        coords_weight: c.
        attention: gate the messages.
        norm_diff, normalize: see above; not both.
        tanh: tanh after phi_x.
        coords_agg: "mean" (over no neighbours: 0) or "sum".
        clamp: bound on each component of what is aggregated into x; None: no bound. As long as it bites, x' is not
            equivariant.
        precision: of the products on edges: "highest", "high" or "medium"; see :func:`equikernels.message_passing`.
            An attribute, which may be changed; not part of the state dict.

    Raises:
        ValueError: an option that cannot be; the message names it.
    """

    def __init__(
        self,
        input_nf: int,
        output_nf: int,
        hidden_nf: int,
        edges_in_d: int = 0,
        nodes_att_dim: int = 0,
        act_fn: nn.Module = nn.SiLU(),  # noqa: B008 (it has no state)
        recurrent: bool = True,
        coords_weight: float = 1.0,
        attention: bool = False,
        norm_diff: bool = False,
        tanh: bool = False,
        normalize: bool = False,
        coords_agg: str = "mean",
        clamp: float | None = 100.0,
        *,
        precision: str = "highest",
    ) -> None:
        super().__init__()
        op = type(self).__name__
        if recurrent and output_nf != input_nf:
            fail(op, "output_nf", f"{input_nf}, the width of the input, with recurrent", output_nf)
        if norm_diff and normalize:
            fail(op, "normalize", "False with norm_diff", True)
        check_choice(op, "coords_agg", coords_agg, ("mean", "sum"))
        check_choice(op, "precision", precision, PRECISIONS)
        if clamp is not None and not clamp >= 0:
            fail(op, "clamp", "a number >= 0 or None", clamp)
        fused_activation(op, "act_fn", act_fn)
        self.input_nf = input_nf
        self.edges_in_d = edges_in_d
        self.nodes_att_dim = nodes_att_dim
        self.recurrent = recurrent
        self.coords_weight = coords_weight
        self.direction = "unit" if normalize else "norm_plus_one" if norm_diff else "difference"
        self.coords_agg = coords_agg
        self.clamp = clamp
        self.precision = precision
        # Made in the published order: a seed gives the published initial weights.
        self.edge_mlp = nn.Sequential(
            nn.Linear(2 * input_nf + 1 + edges_in_d, hidden_nf), act_fn, nn.Linear(hidden_nf, hidden_nf), act_fn
        )
        self.node_mlp = nn.Sequential(
            nn.Linear(hidden_nf + input_nf + nodes_att_dim, hidden_nf), act_fn, nn.Linear(hidden_nf, output_nf)
        )
        head = nn.Linear(hidden_nf, 1, bias=False)
        nn.init.xavier_uniform_(head.weight, gain=0.001)  # x hardly moves at first
        self.coord_mlp = nn.Sequential(nn.Linear(hidden_nf, hidden_nf), act_fn, head, *([nn.Tanh()] if tanh else []))
        self.att_mlp = nn.Sequential(nn.Linear(hidden_nf, 1), nn.Sigmoid()) if attention else None

    def forward(
        self,
        h: Tensor,
        x: Tensor,
        graph: Graph | Tensor,
        edge_attr: Tensor | None = None,
        node_attr: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Updates node features and coordinates.

        Args:
            h: [n, input_nf] node features, float32 or float64.
            x: [n, D] coordinates, D from 2 to 8, in the dtype of h or float64.
            graph: the edges, over n nodes; or an edge_index [2, E] of (sender, receiver), sorted anew in every call.
            edge_attr: [E, edges_in_d], in the graph's order.
            node_attr: [n, nodes_att_dim].

        Returns:
            (h' [n, output_nf], x' [n, D]).

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        graph = as_graph(type(self).__name__, graph, h.shape[0])
        self._check(h, x, graph, edge_attr, node_attr)
        return self._update(h, x, *self._messages(h, x, graph, edge_attr), node_attr)

    def _messages(self, h: Tensor, x: Tensor, graph: Graph, edge_attr: Tensor | None) -> tuple[Tensor, Tensor]:
        if reason := obstacle(self, egnn_layers):
            warn_once(self, type(self).__name__, reason)
            j, i = graph._edges
            m, step = self.message(h[i], h[j], x[i], x[j], edge_attr).tensor_split([-x.shape[1]], dim=1)
            steps = segment_reduce(step, graph, self.coords_agg).to(x.dtype)
            return segment_reduce(m.to(h.dtype), graph, "sum"), steps
        geometry = Geometry("interval", "euclidean", False, self.direction, self.clamp)
        total, moved = egnn_messages(
            self.edge_mlp,
            self.coord_mlp,
            self.att_mlp,
            h,
            x,
            graph,
            edge_attr,
            geometry,
            self.coords_agg,
            self.precision,
        )
        assert moved is not None
        return total, moved

    def message(self, h_i: Tensor, h_j: Tensor, x_i: Tensor, x_j: Tensor, edge_attr: Tensor | None) -> Tensor:
        """[m, the step of x] of every edge j -> i, by calling the layers: [E, hidden_nf + D]."""
        d = x_i - x_j
        square = (d * d).sum(-1, keepdim=True)
        inputs = [h_i, h_j, square.to(h_i.dtype)]
        m = self.edge_mlp(torch.cat(inputs if edge_attr is None else [*inputs, edge_attr], dim=1))
        if self.att_mlp is not None:
            m = m * self.att_mlp(m)
        if self.direction == "unit":
            d = d / (square.sqrt().detach() + 1e-8)
        elif self.direction == "norm_plus_one":
            d = d / (torch.where(square > 0, square, 1).sqrt() * (square > 0) + 1)
        step = d * self.coord_mlp(m)
        return torch.cat([m, step if self.clamp is None else step.clamp(-self.clamp, self.clamp)], dim=1)

    def _update(
        self, h: Tensor, x: Tensor, total: Tensor, step: Tensor, node_attr: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        nodes = [h, total] if node_attr is None else [h, total, node_attr]
        update = apply_layers(self.node_mlp, *nodes, residual=h if self.recurrent else None)
        return update, torch.add(x, step, alpha=self.coords_weight)

    def _check(
        self,
        h: Tensor,
        x: Tensor,
        graph: Graph,
        edge_attr: Tensor | None,
        node_attr: Tensor | None,
        receivers: int | None = None,
    ) -> None:
        op, n = type(self).__name__, graph.num_nodes
        if h.shape != (n, self.input_nf):
            fail(op, "h", f"shape [{n}, {self.input_nf}]", list(h.shape))
        check_dtype(op, "h", h, self.node_mlp)
        if x.dim() != 2 or x.shape[0] != n:
            fail(op, "x", f"shape [{n}, D]", list(x.shape))
        for name, value, width in (
            ("edge_attr", edge_attr, self.edges_in_d),
            ("node_attr", node_attr, self.nodes_att_dim),
        ):
            if value is None and width == 0:
                continue
            rows = (n if receivers is None else receivers) if name == "node_attr" else graph.num_edges
            if value is None or width == 0 or value.shape != (rows, width):
                got = None if value is None else list(value.shape)
                fail(op, name, f"shape [{rows}, {width}]" if width else "None", got)
            if value.dtype != h.dtype:
                check_dtype(op, name, value, self.node_mlp)


class EGCLVelocity(EGCL):
    r"""EGCL for points that have velocities, which stay as they are.

    .. math:: x_i' = x_i + c \, \mathrm{agg}_j \, \mathrm{clamp}(d_{ij} \phi_x(m_{ij})) + \phi_v(h_i) v_i

    Arguments are those of :class:`EGCL`; phi_v is ``coord_mlp_vel``.
    """

    def __init__(self, input_nf: int, output_nf: int, hidden_nf: int, *args: Any, **options: Any) -> None:
        super().__init__(input_nf, output_nf, hidden_nf, *args, **options)
        self.coord_mlp_vel = nn.Sequential(nn.Linear(input_nf, hidden_nf), self.edge_mlp[1], nn.Linear(hidden_nf, 1))

    def forward(  # type: ignore[override]
        self,
        h: Tensor,
        x: Tensor,
        graph: Graph | Tensor,
        vel: Tensor,
        edge_attr: Tensor | None = None,
        node_attr: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`EGCL.forward`, with vel [n, D] beside x."""
        if vel.shape != x.shape:
            fail(type(self).__name__, "vel", f"shape {list(x.shape)}", list(vel.shape))
        updated, moved = super().forward(h, x, graph, edge_attr, node_attr)
        return updated, moved + apply_layers(self.coord_mlp_vel, h) * vel


def egnn_layers(block: Any) -> Layers:
    """The layers of a block that :func:`egnn_messages` reads. ``coord_mlp`` and ``att_mlp`` may be missing.

    Raises:
        ValueError: they are not the published ones, or have activations without a fused form.
    """
    layers = [*expect_layers(block, "edge_mlp", (nn.Linear, None, nn.Linear, None))]
    activations = [block.edge_mlp[1], block.edge_mlp[3]]
    head = getattr(block, "coord_mlp", None)
    if head is not None:
        tanh = (nn.Tanh,) if isinstance(head, nn.Sequential) and len(head) == 4 else ()
        layers += expect_layers(block, "coord_mlp", (nn.Linear, None, nn.Linear, *tanh))
        activations.append(head[1])
        if head[2].bias is not None:
            raise ValueError("coord_mlp.2 has a bias")
    if getattr(block, "att_mlp", None) is not None:
        layers += expect_layers(block, "att_mlp", (nn.Linear, nn.Sigmoid))
    if len({fused_activation("E_GCL", "act_fn", module) for module in activations}) > 1:
        raise ValueError("edge_mlp and coord_mlp have different activations")
    return layers


def egnn_messages(
    edge_mlp: nn.Sequential,
    head: nn.Sequential | list[nn.Module] | None,
    att_mlp: nn.Sequential | None,
    h: Tensor,
    x: Tensor,
    graph: Graph,
    edge_attr: Tensor | None,
    geometry: Geometry,
    coords_agg: str,
    precision: str = "highest",
) -> tuple[Tensor, Tensor | None]:
    """Summed messages [n, H] and the coordinates' step [n, D] (None without a head), on any modules of the published
    shape: edge_mlp Linear, act, Linear, act; head Linear, act, Linear (, Tanh); att_mlp Linear, Sigmoid."""
    out = message_passing(
        EdgeMLP.of(edge_mlp, gate=att_mlp, head=head, order=PARTS if edge_attr is not None else PARTS[:3]),
        graph,
        h=h,
        x=x,
        edge_attr=edge_attr,
        geometry=geometry,
        coordinates="none" if head is None else coords_agg,
        precision=precision,
    )
    assert out.messages is not None
    return out.messages, out.coordinates
