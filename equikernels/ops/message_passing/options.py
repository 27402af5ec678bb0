"""The options of message_passing: what is read of the coordinates, what leaves an edge, and how both are encoded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ... import _native
from ...checks import check_bound, check_choice, check_integer, fail
from ...metric import Metric, signature
from ..common import allows_tf32
from .activations import ACTIVATIONS
from .direction import Normed, direction_options
from .edge_mlp import PARTS, EdgeMLP, Norm, is_measured

OP = "message_passing"
INVARIANTS = {"both": (True, True), "interval": (True, False), "product": (False, True)}
REDUCTIONS = ("none", "sum", "mean")
PRECISIONS = ("highest", "high", "medium")  # PyTorch's words for products of float32 numbers
# As csrc's Storage: how tiles keep what they compute in float32.
STORAGE = {torch.bfloat16: 1, torch.float16: 2}
# As csrc's NormKind.
NO_NORM, MEASURED, GIVEN, LAYER = range(4)


def products_of(precision: str, like: Tensor) -> str:
    """How numbers of this dtype are multiplied where they are: "float32" (or more), "tf32" (on CPUs: two parts of
    bfloat16) or "bfloat16".

    A precision is a permission: it is only used where it is faster.
    """
    if like.dtype != torch.float32 or precision == "highest":
        return "tf32" if allows_tf32(like) else "float32"
    if precision == "high":
        return "tf32" if like.is_cuda or _native.two_parts_pay else "float32"
    return "bfloat16" if like.is_cuda or _native.bfloat16_pays else "float32"


class Geometry(NamedTuple):
    """The invariants that an edge reads from coordinates, and the step that its head's output scales.

    Attributes:
        invariants: "both", "interval" (||x_i - x_j||^2 only) or "product" (<x_i, x_j> only).
        metric: "minkowski", "euclidean" or a signature.
        psi: pass invariants through sign(z) ln(1 + |z|).
        direction: what the head's output t multiplies: "difference" x_i - x_j; "unit", that over (its norm, held
            constant, + 1e-8); "norm_plus_one", over (its norm + 1); a :class:`Normed`, over a norm of that form;
            "sender" x_j.
        clamp: bound on each component of t d; None or inf: no bound.
    """

    invariants: str = "both"
    metric: Metric = "minkowski"
    psi: bool = True
    direction: str | Normed = "difference"
    clamp: float | None = None


class LayerOptions(NamedTuple):
    activation: str
    slope: float
    norm: int
    eps: float


class EdgeOptions(NamedTuple):
    """Everything beside tensors, in the order of csrc's EdgeMlpOptions."""

    plan: int
    messages_at: int
    edges_at: int
    messages: int
    coordinates: int
    direction: int
    interval: bool
    product: bool
    psi: bool
    bfloat16: bool
    tf32: bool
    storage: int
    keep: bool
    order: tuple[int, ...]
    norm_inside: float
    norm_offset: float
    clamp: float | None
    layers: tuple[LayerOptions, ...]
    metric: tuple[float, ...]

    @classmethod
    def of(
        cls,
        mlp: EdgeMLP,
        geometry: Geometry,
        dim: int | None,
        messages: str,
        coordinates: str,
        edges: bool | int,
        products: str = "float32",
    ) -> EdgeOptions:
        """Checked options; ``dim`` is the number of coordinates, if there are any."""
        check_choice(OP, "geometry.invariants", geometry.invariants, INVARIANTS)
        check_choice(OP, "messages", messages, REDUCTIONS)
        check_choice(OP, "coordinates", coordinates, REDUCTIONS)
        direction, inside, offset = direction_options(OP, geometry.direction)
        interval, product = INVARIANTS[geometry.invariants]
        if isinstance(edges, bool | np.bool_):
            edges_at = mlp.depth - 1 if edges else -1
        else:
            edges_at = check_integer(OP, "edges", edges, f"True, False or a layer below {mlp.depth}", 0)
            if edges_at >= mlp.depth:
                fail(OP, "edges", f"True, False or a layer below {mlp.depth}", edges_at)
        if coordinates != "none" and len(mlp.layers) == mlp.depth:
            fail(OP, "coordinates", "'none', for an mlp without a head", "a reduction")
        return cls(
            0,
            mlp.depth - 1,
            edges_at,
            REDUCTIONS.index(messages),
            REDUCTIONS.index(coordinates),
            direction,
            interval,
            product,
            bool(geometry.psi),
            products == "bfloat16",
            products == "tf32",
            STORAGE.get(mlp.layers[0].weight.dtype, 0),
            False,
            tuple(PARTS.index(part) for part in mlp.order),
            inside,
            offset,
            check_bound(OP, "geometry.clamp", geometry.clamp),
            layer_options(mlp),
            () if dim is None else tuple(signature(OP, geometry.metric, dim)),
        )

    def has(self, part: str) -> bool:
        return PARTS.index(part) in self.order

    def for_plan(self) -> EdgeOptions:
        """As far as the choice of a kernel depends on them."""
        return self._replace(
            norm_inside=0.0,
            norm_offset=0.0,
            clamp=None,
            layers=planning_layers(self.layers),
            metric=(1.0,) * len(self.metric),
        )

    def needs_edges(self) -> bool:
        """Whether the op has to know how many edges there are."""
        return self.edges_at >= 0 or self.has("edge_attr") or self.plan > 0 or self.keep

    def nodes(self, tensors: list[Tensor | None]) -> int:
        """How many there are."""
        of_nodes = tensors[0] if tensors[0] is not None else tensors[1]
        assert of_nodes is not None
        return of_nodes.shape[0]

    def columns(self) -> list[int]:
        """The invariants that are columns of the first layer: 0 the interval, 1 the product."""
        wanted = (self.interval, self.product) if self.has("invariants") else ()
        return [k for k, want in enumerate(wanted) if want]

    def encoded(self) -> tuple[list[int], list[float]]:
        """As the schema takes them: integers and numbers."""
        ints = [self.plan, len(self.layers), *map(int, self[1:13]), len(self.order), *self.order]
        numbers = [self.norm_inside, self.norm_offset, -1.0 if self.clamp is None else self.clamp]
        for layer in self.layers:
            ints += [ACTIVATIONS.index(layer.activation), layer.norm]
            numbers += [layer.slope, layer.eps]
        return ints, [*numbers, *self.metric]

    @classmethod
    def decoded(cls, ints: list[int], numbers: list[float]) -> EdgeOptions:
        plan, depth, *rest = ints
        flags, count, rest = rest[:12], rest[12], rest[13:]
        order, kinds = tuple(rest[:count]), rest[count:]
        inside, offset, clamp, *numbers = numbers
        layers = tuple(
            LayerOptions(ACTIVATIONS[kinds[2 * k]], numbers[2 * k], kinds[2 * k + 1], numbers[2 * k + 1])
            for k in range(depth)
        )
        bound = None if clamp < 0 else clamp
        truths = map(bool, flags[5:10])
        last = order, inside, offset, bound, layers, tuple(numbers[2 * depth :])
        return cls(plan, *flags[:5], *truths, flags[10], bool(flags[11]), *last)  # type: ignore[call-arg,arg-type]


def layer_options(mlp: EdgeMLP) -> tuple[LayerOptions, ...]:
    """What follows each layer's linear map."""
    return tuple(
        LayerOptions(layer.activation, layer.slope, _norm_kind(layer.norm), layer.norm.eps if layer.norm else 0.0)
        for layer in mlp.layers
    )


def planning_layers(layers: tuple[LayerOptions, ...]) -> tuple[LayerOptions, ...]:
    """Layers as far as the choice of a kernel depends on them: which slopes are equal, whether eps is the usual one.
    A compiler may know numbers of modules by symbols alone; it knows these."""
    found = []
    for layer in layers:
        same = next((k for k, other in enumerate(layers) if other.slope == layer.slope), 0)
        found.append(layer._replace(slope=float(same), eps=1e-5 if layer.eps == 1e-5 else 0.0))
    return tuple(found)


def _norm_kind(norm: Norm | None) -> int:
    if norm is None:
        return NO_NORM
    return LAYER if norm.kind == "layer" else MEASURED if is_measured(norm) else GIVEN
