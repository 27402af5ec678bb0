"""The Lorentz Group Network (LGN), arXiv 2006.04780, on packed events."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import indices
from ..checks import REAL, check_choice, check_tensor, fail
from ..data.inputs import invariant_mass
from ..data.order import warn_of_order
from ..export import for_any_size
from ..graph import COMPLETE_WITH_SELF_LOOPS, Graph
from ..metric import minkowski_square
from ..nn.clebsch_gordan import SCALAR, VECTOR, Activation, four_vectors, squares
from ..nn.linear import weight_and_bias
from ..nn.lorentz_group import CGLevel, Copies, Mix, RadialFunctions, ScalarMLP
from ..ops.invariants import pairwise_invariants
from ..ops.pairs import spread_events
from ..ops.segment import segment_reduce
from ..packing import prepend
from .inputs import cast_features

# The order in which products of representations are concatenated. The published code takes it from a Python set.
ORDERS = {
    "py38": ((1, 1), (2, 0), (0, 2), (2, 2), (0, 0)),
    "py37": ((2, 0), (1, 1), (2, 2), (0, 2), (0, 0)),
}


class LGN(nn.Module):
    r"""Classifies jets by products of their four-momenta in representations of the Lorentz group.

    Activations are complex tensors of the representations (0, 0), (1, 1), (2, 0), (0, 2) and (2, 2); a level couples
    them with those of neighbours, and with themselves, by Clebsch-Gordan products
    (:class:`equikernels.nn.CGLevel`). The logits are invariant under Lorentz transformations of all nodes of a jet,
    beams included, and under permutations.

    All arithmetic is float64, whatever the dtype of the weights, and in the frame where the nodes of an event are
    together at rest: invariants of (2, 2) cancel to gamma^-4 of their terms in a frame of boost gamma.

    Args:
        num_channels: C of the input and of each level's output; (2, 4, 4, 2) has the published 4.5 thousand parameters.
        n_scalar: number of scalars of a node, to which the network adds its mass, scale sqrt(|p^2|).
        n_class: number of logits.
        n_basis: half the number of radial functions of a level.
        mlp_depth, mlp_width: hidden layers of the perceptron on scalars, and their width over that of its input.
        scale: factor of the four-momenta; 0.005 as published.
        pmu_in: the input has the four-momenta too, as one channel of (1, 1).
        order: "py38" or "py37": the order of channels of weights trained under this version of Python or later, and
            under 3.7. A state dict does not tell, and loads either way.
        compat: the network as published also sees the nodes that pad an event: their edges have the bias of the radial
            functions, their scalars those of the perceptrons.
    """

    def __init__(
        self,
        num_channels: Sequence[int] = (2, 4, 4, 2),
        n_scalar: int = 1,
        n_class: int = 2,
        n_basis: int = 10,
        mlp_depth: int = 3,
        mlp_width: int = 2,
        scale: float = 0.005,
        *,
        pmu_in: bool = False,
        order: str = "py38",
        compat: bool = False,
    ) -> None:
        super().__init__()
        check_choice("LGN", "order", order, tuple(ORDERS))
        if len(num_channels) < 2 or min(num_channels) < 1:
            fail("LGN", "num_channels", "at least two numbers of at least 1", list(num_channels))
        self.n_scalar, self.scale, self.pmu_in, self.compat = n_scalar, scale, pmu_in, compat
        self.order = ORDERS[order]
        first = num_channels[0]
        channels = {VECTOR: first, SCALAR: first} if pmu_in else {SCALAR: first}
        self.rad_funcs = nn.ModuleDict(
            {"rad_funcs": nn.ModuleList(RadialFunctions(width, n_basis) for width in num_channels[:-1])}
        )
        self.input_func_atom: Mix | nn.ModuleDict = (
            Mix({VECTOR: 1, SCALAR: 1 + n_scalar}, first)
            if pmu_in
            else nn.ModuleDict({"lin": nn.Linear(1 + n_scalar, 2 * first)})
        )
        levels, count = [], sum(channels.values())
        for width in num_channels[1:]:
            levels.append(CGLevel(channels, width, self.order))
            channels = levels[-1].channels
            count += sum(channels.values())
        perceptrons = (ScalarMLP(width, mlp_depth, mlp_width) for width in num_channels[1:])
        self.lgn_cg = nn.ModuleDict({"atom_levels": nn.ModuleList(levels), "mlp_levels": nn.ModuleList(perceptrons)})
        self.output_layer_atom = nn.ModuleDict({"lin": nn.Linear(2 * count, n_class)})

    @for_any_size
    def forward(self, p4: Tensor, scalars: Tensor, ptr: Tensor | Graph, *, padded_to: int | None = None) -> Tensor:
        """Logits of each event.

        Args:
            p4: [n, 4] four-momenta (E, px, py, pz) in GeV, beams among them (:func:`equikernels.data.with_beams`),
                float32 or float64.
            scalars: [n, n_scalar], any floating dtype, used in that of the weights; as published one label, +1 of beams
                and -1 of constituents.
            ptr: int64 [n_events + 1]; event b owns nodes ptr[b] .. ptr[b + 1] - 1. Or the complete graph with
                self-loops made from it.
            padded_to: ``compat`` only: the number of nodes events are padded to; by default that of the longest event,
                for which a CUDA device is waited for.

        Returns:
            [n_events, n_class] in the dtype of the weights. Class 1 is signal in the published networks.

        Raises:
            ValueError, TypeError: wrong shape, dtype or device; ``padded_to`` too small, or given without ``compat``.
        """
        check_tensor("LGN", "p4", p4, ["n", 4], REAL)
        warn_of_order("LGN", "p4", p4)
        graph = self._graph(p4, ptr)
        levels, graph, counts = self.activations(rest_frame(p4, graph), scalars, graph, padded_to=padded_to)
        found = [x[SCALAR] for x in levels]
        for irrep in self.order:
            if irrep != SCALAR and (of_levels := [x[irrep] for x in levels if irrep in x]):
                found.append(squares(torch.cat(of_levels, 1), irrep)[None])
        rows = torch.view_as_real(torch.cat(found, 1)[0].t()).flatten(1)
        total = segment_reduce(rows if counts is None else rows * counts[:, None], graph.events, "sum")
        weight, bias = weight_and_bias(self.output_layer_atom["lin"])
        assert bias is not None
        return nn.functional.linear(total, weight.double(), bias.double()).to(weight.dtype)

    def activations(
        self, p4: Tensor, scalars: Tensor, ptr: Tensor | Graph, *, padded_to: int | None = None
    ) -> tuple[list[Activation], Graph, Tensor | None]:
        """(the activations {(k, n): complex128 [(k + 1)(n + 1), C, n]} of the input and of each level, the graph, how
        often each node counts or None), in the frame of p4; covariant.

        With ``compat`` each event has one node more at its start, which stands for all that pad it.
        """
        op = "LGN"
        check_tensor(op, "p4", p4, ["n", 4], REAL)
        weight = self.output_layer_atom["lin"].get_parameter("weight")
        scalars = cast_features(op, "scalars", scalars, p4.shape[0], self.n_scalar, weight)
        graph = self._graph(p4, ptr)
        p = self.scale * p4.double()
        s = torch.cat([invariant_mass(p)[:, None], scalars.double()], dim=1)
        counts = None
        if self.compat:
            p, s, graph, counts = _with_padding(p, s, graph, padded_to)
        elif padded_to is not None:
            fail(op, "padded_to", "None without compat=True", padded_to)
        q = pairwise_invariants(p, graph, psi=False)[:, 0].abs()
        real = None
        if counts is not None:
            real = p.new_ones(p.shape[0]).index_fill(0, graph._ptr[:-1], 0.0)
            q = q * real[graph.sender] * real[graph.receiver]
        vectors = four_vectors(p)[:, None]
        x, copies = self._input(s, vectors, real), Copies(graph, q.shape[0])
        levels = [x]
        radial = self.rad_funcs["rad_funcs"]
        for functions, level, mlp in zip(radial, *self.lgn_cg.values(), strict=True):  # type: ignore[call-overload]
            x = mlp(level(x, vectors, functions(q), copies, counts))
            levels.append(x)
        return levels, graph, counts

    @staticmethod
    def _graph(p4: Tensor, ptr: Tensor | Graph) -> Graph:
        graph = ptr if isinstance(ptr, Graph) else Graph.complete(ptr, True, num_nodes=p4.shape[0])
        if graph._kind != COMPLETE_WITH_SELF_LOOPS or graph.num_nodes != p4.shape[0]:
            fail("LGN", "ptr", f"offsets of {p4.shape[0]} nodes, or a complete graph over them with self-loops", graph)
        return graph

    def _input(self, scalars: Tensor, vectors: Tensor, real: Tensor | None) -> Activation:
        if isinstance(self.input_func_atom, Mix):
            out: Activation = self.input_func_atom({VECTOR: vectors, SCALAR: scalars.t()[None].to(vectors.dtype)})
            return out
        weight, bias = weight_and_bias(self.input_func_atom["lin"])
        assert bias is not None
        rows = nn.functional.linear(scalars, weight.double(), bias.double())
        if real is not None:
            rows = rows * real[:, None]
        return {SCALAR: torch.view_as_complex(rows.view(rows.shape[0], rows.shape[1] // 2, 2)).t()[None]}


def rest_frame(p4: Tensor, graph: Graph) -> Tensor:
    r"""[n, 4] float64 four-momenta of each event in the frame where its sum P is at rest, by the boost along it.

    .. math:: E' = u \cdot p, \quad \vec p' = \vec p - \vec u \frac{E + E'}{1 + u_0}, \quad u = P / \sqrt{P^2}

    An event of P^2 < 1e-12 E^2, which has no such frame, stays as it is.
    """
    p = p4.double()
    total = segment_reduce(p, graph.events, "sum")
    mass2 = minkowski_square(total)
    moves = mass2 > 1e-12 * total[:, 0].square()
    u = total / torch.where(moves, mass2, 1.0).sqrt()[:, None]
    u = torch.where(moves[:, None], u, torch.nn.functional.pad(torch.zeros_like(u[:, 1:]), (1, 0), value=1.0))
    u = spread_events(u, graph)
    energy = u[:, :1] * p[:, :1] - (u[:, 1:] * p[:, 1:]).sum(1, keepdim=True)
    return torch.cat([energy, p[:, 1:] - u[:, 1:] * (p[:, :1] + energy) / (1 + u[:, :1])], dim=1)


def _with_padding(
    p: Tensor, scalars: Tensor, graph: Graph, padded_to: int | None
) -> tuple[Tensor, Tensor, Graph, Tensor]:
    """With a node of zeros at the start of each event, and how often each node counts: one for real ones, the number of
    free slots for the other."""
    sizes = graph._ptr.diff()
    free = indices.on_host(graph._ptr)
    longest = int(sizes.max()) if sizes.numel() > 0 and (padded_to is None or free) else 0
    slots = longest if padded_to is None else padded_to
    if slots < longest:
        fail("LGN", "padded_to", f"at least {longest}, the longest event", padded_to)
    (p, scalars), more = prepend(graph, (p, p.new_zeros(1, 4)), (scalars, scalars.new_zeros(1, scalars.shape[1])))
    counts = p.new_ones(p.shape[0]).index_copy(0, more._ptr[:-1], (slots - sizes).to(p.dtype))
    return p, scalars, more, counts
