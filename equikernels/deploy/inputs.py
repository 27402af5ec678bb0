"""The tensors that a program reads in place of a network's arguments, and example values of them.

A program has no graphs among its arguments: jets come with offsets ``ptr``, hits with an ``edge_index``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import models
from ..checks import fail
from ..export import BY_SIZE, wanted_of_all_sizes

NODES, EDGES, OFFSETS, ENDS, IMAGES = "nodes", "edges", "offsets", "ends", "images"
VECTORS = "v"  # of TFN: the three numbers of one vector behind those of another
PIXELS = 64  # of equikernels.data.jet_images
EVENTS, SIZE = 2, 4  # of the examples: no two sizes are equal, so that none is taken for another


class Input(NamedTuple):
    """One tensor of a program.

    Attributes:
        name: as the network's argument; "ptr" and "edge_index" stand for its graph.
        rows: "nodes" [n, width], "edges" [E, width], "offsets" [n_events + 1], "ends" [2, E]: senders, receivers; or
            "images" [n_events, 1, width, width].
        width: columns; 0 for offsets and ends.
        dtype: of its numbers.
    """

    name: str
    rows: str
    width: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.name} {self.rows} {self.width} {str(self.dtype).removeprefix('torch.')}"

    def sizes(self) -> dict[int, Any]:
        """The sizes of it that a program leaves open, as ``torch.export`` wants them."""
        return {1 if self.rows == ENDS else 0: torch.export.Dim.AUTO}

    def example(self) -> Tensor:
        """Values for tracing a network."""
        nodes, edges = EVENTS * SIZE + 1, EVENTS * SIZE * 2 + 1
        if self.rows == OFFSETS:
            return torch.tensor([0, SIZE, nodes])
        if self.rows == ENDS:
            return torch.arange(2 * edges).view(2, edges) % nodes
        if self.rows == IMAGES:
            return torch.linspace(0, 1, EVENTS * self.width**2, dtype=self.dtype).view(
                EVENTS, 1, self.width, self.width
            )
        rows = nodes if self.rows == NODES else edges
        return torch.linspace(-1, 1, rows * self.width, dtype=self.dtype).view(rows, self.width)


PTR, EDGE_INDEX = Input("ptr", OFFSETS, 0, torch.int64), Input("edge_index", ENDS, 0, torch.int64)


def inputs_of(op: str, model: nn.Module, dim: int, coordinates: torch.dtype | None) -> list[Input]:
    """The tensors that a program reads, in the order of the network's arguments.

    Args:
        op: named in errors.
        model: of :mod:`equikernels.models`.
        dim: coordinates of a point, where the network takes any number.
        coordinates: dtype of four-momenta and points; by default float64 for jets and that of the weights for others.

    Raises:
        TypeError: another network.
    """
    weights = next(model.parameters()).dtype
    points, momenta = coordinates or weights, coordinates or torch.float64

    def per_node(name: str, width: int, dtype: torch.dtype = weights) -> Input:
        return Input(name, NODES, width, dtype)

    def per_edge(width: int) -> list[Input]:
        return [Input("edge_attr", EDGES, width, weights)] if width > 0 else []

    if isinstance(model, models.LorentzNet):
        found = [per_node("x", 4, momenta), per_node("scalars", model.n_scalar), PTR]
        return found + _free(model, per_node)
    if isinstance(model, models.PELICANClassifier | models.PELICANRegressor):
        found = [per_node("p4", 4, momenta), PTR]
        return [*found, per_node("scalars", model.num_data_scalars)] if model.num_data_scalars else found
    if isinstance(model, models.PELICANNano | models.MLP):
        return [per_node("p4", 4, momenta), PTR]
    if isinstance(model, models.EFN):
        return [per_node("features", 3), PTR]
    if isinstance(model, models.PFN | models.PCNN):
        return [per_node("features", model.n_features), PTR]
    if isinstance(model, models.ResNeXt):
        return [Input("images", IMAGES, PIXELS, weights)]
    if isinstance(model, models.EuclidNet):
        return [per_node("x", 3, points), EDGE_INDEX, *_free(model, per_node)]
    if isinstance(model, models.EuclidNetSO3):
        return [per_node("x", 3, points), EDGE_INDEX]
    if isinstance(model, models.InteractionNetwork):
        return [per_node("x", 3), EDGE_INDEX, *per_edge(4)]
    x = per_node("x", dim, points)
    if isinstance(model, models.EGNN):
        return [per_node("h", model.embedding_in.in_features), x, EDGE_INDEX, *per_edge(_attributes(model))]
    if isinstance(model, models.EGNNVelocity):
        h = per_node("h", model.embedding.in_features)
        return [h, x, EDGE_INDEX, per_node("vel", dim), *per_edge(_attributes(model))]
    if isinstance(model, models.RadialField):
        vel = [per_node("vel", dim)] if model.velocity else []
        return [x, EDGE_INDEX, *vel, *per_edge(_attributes(model))]
    if isinstance(model, models.SchNet):
        return [per_node("h", model.embedding_in.in_features), x, EDGE_INDEX]
    if isinstance(model, models.GNN):
        return [per_node("h", model.in_node_nf), EDGE_INDEX, *per_edge(_attributes(model))]
    if isinstance(model, models.TFN):
        scalars, vectors = model.n_in
        attributes = per_edge(model.layers[0].edge_attr_nf)  # type: ignore[arg-type]
        return [
            per_node("s", scalars),
            per_node(VECTORS, 3 * vectors),
            per_node("x", 3, points),
            EDGE_INDEX,
            *attributes,
        ]
    fail(op, "model", "a network of equikernels.models", type(model).__name__, TypeError)


def check_network(op: str, model: nn.Module, padded_to: int | None) -> None:
    """Refuses what would give a file other results than the network has, or fail in the middle of tracing."""
    if (kind := type(model).__name__) in BY_SIZE:
        fail(op, "model", wanted_of_all_sizes(kind), kind, TypeError)
    if isinstance(model, models.LGN):
        fail(op, "model", "a network of real numbers: neither AOTInductor nor ONNX has complex ones", "LGN", TypeError)
    if any(module.training for module in model.modules()):
        fail(op, "model", "a network in evaluation: model.eval()", "one in training")
    device = next(model.parameters()).device
    if device.type != "cpu":
        fail(op, "model", "a network on the CPU", device)
    if padded_to is None and (
        getattr(model, "readout", "") == "padded_mean"
        or (getattr(model, "compat", False) and getattr(model, "extrema", False))
    ):
        fail(op, "padded_to", "the number of slots events are padded to, which this network's results depend on", None)
    if getattr(model, "irc_safe", False):
        letters = set(f"{model.config}{model.config_out}")
        if letters & set("mM" if model.compat else "mMS"):
            fail(op, "model", "aggregations without the SoftDrop multiplicity, which is NumPy's", sorted(letters))


def _free(model: Any, per_node: Callable[[str, int], Input]) -> list[Input]:
    """The features of VecNet's free stream."""
    return [per_node("free", model.n_free_input)] if hasattr(model, "free") and model.n_free_input > 0 else []


def _attributes(model: Any) -> int:
    """The width of edge attributes of a network of layers ``gcl_0``, ..."""
    first = model.gcl_0 if model.n_layers > 0 else None
    return int(getattr(first, "edges_in_d", getattr(first, "edge_attr_nf", 0)))
