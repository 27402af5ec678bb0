"""The published E_GCL (arXiv 2102.09844) and its forks: velocities, masks, ranges, other norms and aggregations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ..graph import Graph
from ..nn.egcl import egnn_layers, egnn_messages
from ..nn.plain import expect_layers
from ..ops.coordinates import coordinate_update
from ..ops.message_passing import Geometry, Normed
from .edges import GraphCache, make_graph
from .probe import SCALES, Numbers, Probe, ProbeEdges, probe_edges
from .recipe import NotRecognisedError, Recipe, expect
from .takes import ends_of, takes_nodes

MASKS = ("edge_mask", "node_mask")
OFFSETS = ("norm_constant", "epsilon", "eps")  # attributes that forks add to a norm they divide by


@dataclass
class Step:
    """How a layer moves points; names are those of attributes that hold a number."""

    aggregation: str = "mean"  # "mean", "sum" or "normalization_factor"
    tanh: bool = False  # of what coord_mlp gives, as a function
    clamp: float | None = None
    inside: float = 0.0  # of d / (sqrt(||d||^2 + inside) + offset)
    offset: float | str | None = None  # None: d itself
    held: bool = False  # whether the norm is constant for the gradient
    range: str | None = None
    weight: str | None = None


@dataclass
class EquivariantLayer(Recipe):
    """forward(h, edge_index, coord[, vel], edge_attr, node_attr, masks) -> (h, coord, edge_attr), edge_index = (row,
    col) with messages summed at row. Without coord_mlp coordinates stay."""

    name = "E_GCL"
    attributes = ("edge_mlp", "node_mlp")
    live = ("coords_weight", "coords_range", "normalization_factor", "norm_constant", "epsilon", "eps")

    n_in: int = 0
    residual: bool = True
    messages: str = "sum"  # "sum", "mean" or "normalization_factor"
    step: Step | None = None
    mask_steps: bool = False  # whether an edge mask multiplies steps, beside messages
    mask_nodes: bool = True  # whether a node mask multiplies features
    mask_points: bool = False  # whether a node mask multiplies coordinates, beside features

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        try:
            with torch.no_grad():  # the slope of a PReLU has no gradient: training runs the own forward
                egnn_layers(module)
            expect_layers(module, "node_mlp", (nn.Linear, None, nn.Linear))
        except ValueError as error:
            raise NotRecognisedError(str(error)) from error
        n_out, width = module.node_mlp[2].out_features, module.edge_mlp[2].out_features
        into_nodes, into_edges = module.node_mlp[0].in_features - width, module.edge_mlp[0].in_features - 1
        wanted = getattr(module, "recurrent", getattr(module, "residual", None))
        fits = [n for n in range(1, into_nodes + 1) if 2 * n <= into_edges]
        sizes = [n_out] if n_out in fits else []
        sizes += [n for n in (into_nodes,) if n in fits and n != n_out]
        if not sizes:
            raise NotRecognisedError("edge_mlp or node_mlp takes other inputs than the published layer")
        residuals = [bool(wanted)] if isinstance(wanted, bool | int) else [True, False]
        return [
            cls(cache, n_in=n, residual=residual, messages=messages, step=step)
            for n in sizes
            for residual in residuals
            if n == n_out or not residual
            for messages in ("sum", *_named(module, "normalization_factor"), "mean")
            for step in _steps(module)
        ]

    def variants(self) -> list[Recipe]:
        nodes = ((True, False), (True, True), (False, False), (False, True))
        return [
            replace(self, mask_steps=steps, mask_nodes=of_h, mask_points=of_x)
            for of_h, of_x in nodes
            for steps in ((True, False) if self.step is not None else (False,))
            if (steps, of_h, of_x) != (False, True, False)
        ]

    def called(self, module: Any) -> tuple[str, ...]:
        return ("node_mlp", "coord_mlp_vel")

    def known(self) -> set[int]:
        return set(range(3)) | set(self._roles().values())

    def _roles(self) -> dict[str, int]:
        """Places of the arguments behind the first three, by what they are."""
        names = [p.name for p in self.parameters]
        roles = {name: names.index(name) for name in ("edge_attr", "node_attr", *MASKS) if name in names}
        if "vel" in names:
            roles["vel"] = names.index("vel")
        return roles

    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        h, edges, x = arguments[:3]
        given = {role: arguments[k] for role, k in self._roles().items()}
        edge_attr, node_attr, vel = given.get("edge_attr"), given.get("node_attr"), given.get("vel")
        edge_mask, node_mask = given.get("edge_mask"), given.get("node_mask")
        takes_nodes(h, x, module.edge_mlp[0], self.n_in)
        expect(node_mask is None or not node_mask.requires_grad, "a node mask that is differentiated")
        expect((edge_attr is not None) == (module.edge_mlp[0].in_features > 2 * self.n_in + 1))
        row, col = ends_of(edges, h)
        total, moved = self._messages(module, h, x, row, col, edge_attr, edge_mask)
        if self.messages != "sum":
            total = self._normalised(module, self.messages, total, row)
        nodes = [h, total] if node_attr is None else [h, total, node_attr]
        update = module.node_mlp(torch.cat(nodes, dim=1))
        new_h = h + update if self.residual else update
        moved = None if moved is None or self.step is None else self._scaled(module, moved, row)
        if vel is not None:
            drift = module.coord_mlp_vel(h) * vel
            moved = drift if moved is None else moved + drift
        new_x = x if moved is None else x.add_(moved) if 2 in self.writes else x + moved
        if node_mask is not None:
            new_h = new_h * node_mask if self.mask_nodes else new_h
            new_x = new_x * node_mask if self.mask_points else new_x
        return (new_h, new_x, edge_attr)[: self.returns]

    def _messages(
        self, module: Any, h: Tensor, x: Tensor, row: Tensor, col: Tensor, edge_attr: Any, edge_mask: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Sums of messages and of steps, which are not yet divided by anything."""
        if 2 in self.writes:
            x = x.clone()  # the backward pass reads it
        if edge_mask is None:
            graph = self.cache.graph(row, col, h.shape[0], ordered=edge_attr is not None)
            return self._fused(module, h, x, graph, edge_attr)
        kept = masked_edges(self.cache, row, col, edge_mask, h.shape[0], edge_attr is not None)
        edge_attr = edge_attr if edge_attr is None else edge_attr[kept.edges]
        total, moved = self._fused(module, h, x, kept.graph, edge_attr)
        if self.step is not None and not self.mask_steps and kept.others is not None:
            # The head of a message that is zero is a constant: the step of every masked edge.
            step = self.step
            expect(step.offset is None, "an edge mask beside a norm of steps")
            zero = module.coord_mlp(total.new_zeros(1, module.coord_mlp[0].in_features))
            zero = torch.tanh(zero) if step.tanh else zero
            weight = zero.expand(kept.others.num_edges, 1)
            rest = coordinate_update(x, weight, kept.others, clamp=self._clamp(module), reduce="sum") - x
            moved = rest if moved is None else moved + rest
        return total, moved

    def _fused(
        self, module: Any, h: Tensor, x: Tensor, graph: Graph, edge_attr: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        step = self.step or Step()
        direction: Any = "difference"
        if step.offset is not None:
            offset = getattr(module, step.offset) if isinstance(step.offset, str) else step.offset
            direction = Normed(step.inside, float(offset), step.held)
        head = list(module.coord_mlp) if self.step is not None else None
        if head is not None and step.tanh and len(head) == 3:
            head.append(nn.Tanh())
        geometry = Geometry("interval", "euclidean", False, direction, self._clamp(module))
        return egnn_messages(
            module.edge_mlp, head, getattr(module, "att_mlp", None), h, x, graph, edge_attr, geometry, "sum"
        )

    def _clamp(self, module: Any) -> float | None:
        """The bound before coordinates are multiplied by their range."""
        if self.step is None or self.step.clamp is None or self.step.range is None:
            return None if self.step is None else self.step.clamp
        size = getattr(module, self.step.range)
        expect(isinstance(size, float | int) and size > 0, "a clamp beside coords_range that is no number above 0")
        return self.step.clamp / float(size)

    def _scaled(self, module: Any, moved: Tensor, row: Tensor) -> Tensor:
        step = self.step
        assert step is not None
        moved = self._normalised(module, step.aggregation, moved, row) if step.aggregation != "sum" else moved
        for name in (step.range, step.weight):
            if name is not None:
                moved = moved * getattr(module, name)
        return moved

    def _normalised(self, module: Any, how: str, total: Tensor, row: Tensor) -> Tensor:
        if how != "mean":
            return total / getattr(module, how)
        nodes = total.shape[0]
        # Not bincount: its size is a value, which torch.export writes into the program.
        count = lambda: row.new_zeros(nodes).index_add(0, row, torch.ones_like(row))  # noqa: E731
        degree = self.cache.once((row,), ("degree", nodes), count)
        return total / degree.clamp(min=1).unsqueeze(1)

    def probes(self, module: Any) -> Iterator[Probe]:
        hidden = module.edge_mlp[2].out_features
        extra = module.edge_mlp[0].in_features - 2 * self.n_in - 1
        nodes = module.node_mlp[0].in_features - hidden - self.n_in
        roles = self._roles()
        given = {name for name in MASKS if name in roles}
        if (getattr(module, "coord_mlp_vel", None) is not None) != ("vel" in roles):
            raise NotRecognisedError("coord_mlp_vel and an argument vel were expected together")
        device = module.edge_mlp[0].weight.device
        masks: list[set[str]] = [set(), *({name} for name in sorted(given))]
        masks += [given] if len(given) == 2 else []
        for present in masks:
            numbers = Numbers(device)
            for graph in probe_edges(device):
                for scale, features in SCALES:
                    tables = self._tables(numbers, graph, extra, nodes, present)
                    x = numbers.table(graph.nodes, 3, scale=scale)
                    arguments: list[Any] = [None] * len(self.parameters)
                    h = numbers.table(graph.nodes, self.n_in, scale=features)
                    arguments[:3] = [h, [graph.receiver, graph.sender], x]
                    for k in self.fixed:
                        arguments[k] = self.fixed[k]
                    for role, place in roles.items():
                        arguments[place] = tables.get(role)
                    label = ", ".join(
                        [graph.label, f"h and coord of size {features:g} and {scale:g}", *sorted(present)]
                    )
                    yield Probe(arguments, label, frozenset(roles[name] for name in given))

    @staticmethod
    def _tables(numbers: Numbers, graph: ProbeEdges, extra: int, nodes: int, masks: set[str]) -> dict[str, Tensor]:
        edges = graph.receiver.shape[0]
        tables = {"vel": numbers.table(graph.nodes, 3)}
        tables |= {"edge_attr": numbers.table(edges, extra)} if extra else {}
        tables |= {"node_attr": numbers.table(graph.nodes, nodes)} if nodes else {}
        for name, rows in (("edge_mask", edges), ("node_mask", graph.nodes)):
            if name in masks:
                kept = (numbers.table(rows, 1) > -0.5).double()
                tables[name] = kept if name == "edge_mask" else kept * numbers.table(rows, 1)  # any factors
        return tables


def _named(module: Any, name: str) -> list[str]:
    """The attribute's name, where it is a number."""
    value = getattr(module, name, None)
    number = isinstance(value, float | int) and not isinstance(value, bool)
    return [name] if number or (isinstance(value, Tensor) and value.numel() == 1) else []


def _steps(module: Any) -> list[Step | None]:
    """Steps the structure allows, likeliest first; the proof finds which it is."""
    if getattr(module, "coord_mlp", None) is None:
        return [None]
    named = [getattr(module, name, None) for name in ("coords_agg", "agg_type", "aggregation_method")]
    ways = [way for way in named if way in ("mean", "sum")] + ["mean", "sum"]
    ways = [*dict.fromkeys(ways), *_named(module, "normalization_factor")]
    clamps = [
        None,
        100.0,
        *[v for n in ("clamp", "limit", "max_step") for v in [getattr(module, n, None)] if _bound(v)],
    ]
    offsets: list[Any] = [1.0, *[name for name in OFFSETS if _named(module, name)], 1e-8]
    norms: list[dict[str, Any]] = [
        {"offset": offset, "inside": inside, "held": held}
        for offset in offsets
        for inside, held in ((1e-8, False), (0.0, True), (0.0, False), (1e-8, True))
    ]
    likely = bool(getattr(module, "normalize", False) or getattr(module, "norm_diff", False))
    norms.insert(len(norms) if likely else 0, {})
    ranges = [*_named(module, "coords_range"), None]
    weights = [*_named(module, "coords_weight"), None]
    tanhs = (
        [False] if len(module.coord_mlp) == 4 else [True, False] if getattr(module, "tanh", False) else [False, True]
    )
    return [
        Step(aggregation=way, tanh=tanh, clamp=clamp, range=size, weight=weight, **norm)
        for weight, size, tanh, way, clamp, norm in product(weights, ranges, tanhs, ways, clamps, norms)
    ]


def _bound(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and value > 0


@dataclass
class Kept:
    """The edges that a mask leaves, their places, and the graph of the others, if there are any."""

    edges: Tensor
    graph: Graph
    others: Graph | None


def masked_edges(cache: GraphCache, row: Tensor, col: Tensor, mask: Any, num_nodes: int, ordered: bool) -> Kept:
    """The edges where the mask [E, 1] is one; a call whose mask holds other numbers than 0 and 1 is not fused."""
    expect(isinstance(mask, Tensor) and mask.shape == (row.shape[0], 1) and not mask.requires_grad, "its edge mask")
    expect(not torch.compiler.is_compiling())
    made = cache.once((row, col, mask), ("kept", num_nodes, ordered), lambda: _kept(row, col, mask, num_nodes, ordered))
    expect(made is not None, "an edge mask of other numbers than 0 and 1")
    kept: Kept = made
    return kept


def _kept(row: Tensor, col: Tensor, mask: Tensor, num_nodes: int, ordered: bool) -> Kept | None:
    real = mask.squeeze(1) == 1
    if not bool((real | (mask.squeeze(1) == 0)).all()):
        return None
    kept, others = (which.nonzero().squeeze(1) for which in (real, ~real))
    rest = make_graph(row[others], col[others], num_nodes, True) if others.numel() > 0 else None
    return Kept(kept, make_graph(row[kept], col[kept], num_nodes, ordered), rest)
