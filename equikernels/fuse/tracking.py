"""EuclidNet's released SO(2) block (arXiv 2304.05293) and the Interaction Network (arXiv 2103.16701)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import REAL
from ..nn.edge_chain import read_ends
from ..nn.euclid import euclid_layers, euclid_round
from ..nn.interaction import interaction_layers, interaction_pass
from ..nn.plain import expect_layers
from ..ops.message_passing import EdgeMLP
from .edges import GraphCache
from .probe import SCALES, Numbers, Probe, probe_edges
from .recipe import NotRecognisedError, OwnForward, Recipe, expect, plain_tensor
from .takes import ends_of, takes_dtype, takes_nodes


@dataclass
class EuclidBlockRecipe(Recipe):
    """forward(v, edge_index, s, e) -> (v, s, e), edge_index = (i, j) with messages summed at i."""

    name = "EuclidNet SO(2) block"
    attributes = ("phi_e", "phi_x", "phi_m", "phi_s")
    live = ("c_weight",)

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        if not isinstance(getattr(module, "c_weight", None), float | int):
            raise NotRecognisedError("c_weight is no number")
        try:
            euclid_layers(module)
            widths = {name: _widths(module, name) for name in cls.attributes}
        except ValueError as error:
            raise NotRecognisedError(str(error)) from error
        h = widths["phi_e"][1]
        ends = {"phi_e": (3 * h + 2, h), "phi_x": (h, 1), "phi_m": (h, h), "phi_s": (2 * h, h)}
        if widths != ends:
            raise NotRecognisedError(f"its networks have other widths than {ends}")
        return [cls(cache)]

    def called(self, module: Any) -> tuple[str, ...]:
        return ("phi_s",)

    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        v, edges, s, e = arguments[:4]
        first = module.phi_e[0]
        expect(not torch.is_autocast_enabled(s.device.type), "autocast")  # features of edges would be of another dtype
        takes_nodes(s, v, first, (first.in_features - 2) // 3)
        receiver, sender = ends_of(edges, s)
        expect(plain_tensor(e, s.shape[1], receiver.shape[0]) and e.dtype == s.dtype and e.device == s.device)
        graph = self.cache.graph(receiver, sender, v.shape[0], ordered=True)
        s, v, e, _ = euclid_round(module, s, v, e, graph)
        return v, s, e

    def probes(self, module: Any) -> Iterator[Probe]:
        h = module.phi_m[0].in_features
        numbers = Numbers(module.phi_m[0].weight.device)
        for graph in probe_edges(numbers.device):
            for scale, features in SCALES:
                v, s = numbers.table(graph.nodes, 2, scale=scale), numbers.table(graph.nodes, h, scale=features)
                e = numbers.table(graph.receiver.shape[0], h)
                rest = list(self.fixed.values())
                yield Probe(
                    [v, [graph.receiver, graph.sender], s, e, *rest],
                    f"{graph.label}, s and v of size {features:g} and {scale:g}",
                )


@dataclass
class EuclidPoints(Recipe):
    """forward(x, edge_index) -> (x, messages). Its messages are an output, a tensor of edges that own and fused form
    alike have to write: nothing is gained, so the block is left alone."""

    name = "EuclidNet SO(3) block"
    attributes = ("phi_e", "phi_x", "phi_m")

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        raise NotRecognisedError("its own forward is faster")

    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        raise OwnForward

    def probes(self, module: Any) -> Iterator[Probe]:
        yield from ()


@dataclass
class InteractionRecipe(Recipe):
    """forward(x, edge_index, edge_attr) -> w [E, 1], edge_index = (sender, receiver)."""

    name = "InteractionNetwork"
    attributes = ("R1", "O", "R2")

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        try:
            for name in cls.attributes:
                kinds = (nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear)
                expect_layers(getattr(module, name), "layers", kinds)
            interaction_layers(module)
        except ValueError as error:
            raise NotRecognisedError(str(error)) from error
        effects, update = module.R1.layers, module.O.layers
        width, effect = update[4].out_features, effects[4].out_features
        attributes = effects[0].in_features - 2 * width
        fits = update[0].in_features == width + effect and module.R2.layers[0].in_features == 2 * width + effect
        if attributes < 1 or not fits:
            raise NotRecognisedError("R1, O and R2 do not fit each other")
        return [cls(cache)]

    def known(self) -> set[int]:
        return set(range(3))

    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        x, edges, edge_attr = arguments[:3]
        width = module.O.layers[4].out_features
        attributes = module.R1.layers[0].in_features - 2 * width
        expect(plain_tensor(x, width) and x.dtype in REAL)
        expect(not torch.is_autocast_enabled(x.device.type), "autocast")  # its result would be of another dtype
        takes_dtype(x, module.R1.layers[0])
        sender, receiver = ends_of(edges, x)
        fits = plain_tensor(edge_attr, attributes, sender.shape[0])
        expect(fits and edge_attr.dtype == x.dtype and edge_attr.device == x.device)
        graph = self.cache.graph(receiver, sender, x.shape[0], ordered=True)
        passes = getattr(module, "n_layers", 1)
        messages: Tensor | None = None
        for k in range(passes):
            x, messages = interaction_pass(module, x, edge_attr, graph, return_edges=k == passes - 1)
        return (read_ends(self.name, module.R2.layers, x, messages, graph, receiver_first=True, sigmoid=True),)

    def probes(self, module: Any) -> Iterator[Probe]:
        width = module.O.layers[4].out_features
        attributes = module.R1.layers[0].in_features - 2 * width
        numbers = Numbers(module.O.layers[4].weight.device)
        for graph in probe_edges(numbers.device):
            for size in (1.0, 1e4):
                x, a = numbers.table(graph.nodes, width, scale=size), numbers.table(graph.sender.shape[0], attributes)
                edges = torch.stack([graph.sender, graph.receiver])
                yield Probe([x, edges, a, *self.fixed.values()], f"{graph.label}, x of size {size:g}")


def _widths(module: Any, name: str) -> tuple[int, int]:
    """Inputs and outputs of a chain."""
    layers = EdgeMLP.of(getattr(module, name)).layers
    return layers[0].weight.shape[1], layers[-1].weight.shape[0]
