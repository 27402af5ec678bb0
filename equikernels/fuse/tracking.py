"""EuclidNet's released blocks (arXiv 2304.05293) and the Interaction Network (arXiv 2103.16701)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..nn.chain import chain_layers
from ..nn.edge_chain import read_ends
from ..nn.euclid import PreparedBlock, euclid_points
from ..nn.interaction import InteractionWeights
from .edges import GraphCache
from .recipe import NotRecognisedError, Recipe, expect_layers, parameter_like, probe_edges, probe_values


@dataclass
class EuclidBlockRecipe(Recipe):
    """forward(v, edge_index, s, e) -> (v, s, e), edge_index = (i, j) with messages summed at i."""

    name = "EuclidNet SO(2) block"
    attributes = ("phi_e", "phi_x", "phi_m", "phi_s")

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        _expect_step(module)
        try:
            widths = {name: _widths(module, name) for name in cls.attributes}
        except ValueError as error:
            raise NotRecognisedError(str(error)) from error
        h = widths["phi_e"][1]
        ends = {"phi_e": (3 * h + 2, h), "phi_x": (h, 1), "phi_m": (h, h), "phi_s": (2 * h, h)}
        if widths != ends:
            raise NotRecognisedError(f"its networks have other widths than {ends}")
        return [cls(returns=3, cache=cache)]

    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        v, (receiver, sender), s, e = arguments
        if s is None or e is None:
            return NotImplemented
        graph = self.cache.graph(receiver, sender, v.shape[0], ordered=True)
        s, v, e, _ = PreparedBlock.of(module).round(module.c_weight, s, v, e, graph)
        return v, s, e

    def probes(self, module: Any) -> list[list[Any]]:
        like: Tensor = parameter_like(module)
        h = module.phi_m[0].in_features
        receiver, sender = probe_edges(like.device)
        # Small distances, and distances whose steps meet the clamp at 100.
        return [
            [
                probe_values(5, 2, like, scale),
                [receiver, sender],
                probe_values(5, h, like),
                probe_values(len(receiver), h, like),
            ]
            for scale in (1.0, 1e6)
        ]


@dataclass
class EuclidPointsRecipe(Recipe):
    """forward(x, edge_index) -> (x, messages), edge_index = (i, j) with messages averaged at i."""

    name = "EuclidNet SO(3) block"
    attributes = ("phi_e", "phi_x", "phi_m")

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        _expect_step(module)
        expect_layers(module, "phi_e", (nn.Linear, _BatchNorm, nn.ReLU, nn.Linear, nn.ReLU))
        expect_layers(module, "phi_m", (nn.Linear, nn.Sigmoid))
        expect_layers(module, "phi_x", (nn.Linear, nn.ReLU, nn.Linear))
        if module.phi_e[0].in_features != 2 or module.phi_e[0].bias is not None or module.phi_x[2].bias is not None:
            raise NotRecognisedError("phi_e or phi_x takes other inputs than the published block, or has a bias more")
        return [cls(returns=2, cache=cache)]

    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        x, (receiver, sender) = arguments
        graph = self.cache.graph(receiver, sender, x.shape[0], ordered=True)
        return euclid_points(module.phi_e, module.phi_x, module.phi_m, module.c_weight, x, graph, return_edges=True)

    def probes(self, module: Any) -> list[list[Any]]:
        like: Tensor = parameter_like(module)
        edges = list(probe_edges(like.device))
        return [[probe_values(5, 3, like, scale), edges] for scale in (1.0, 1e6)]


@dataclass
class InteractionRecipe(Recipe):
    """forward(x, edge_index, edge_attr) -> w [E, 1], edge_index = (sender, receiver)."""

    name = "InteractionNetwork"
    attributes = ("R1", "O", "R2")

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        for name in cls.attributes:
            kinds = (nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear)
            expect_layers(getattr(module, name), "layers", kinds)
        effects, update = module.R1.layers, module.O.layers
        width, effect = update[4].out_features, effects[4].out_features
        attributes = effects[0].in_features - 2 * width
        fits = update[0].in_features == width + effect and module.R2.layers[0].in_features == 2 * width + effect
        if attributes < 1 or not fits:
            raise NotRecognisedError("R1, O and R2 do not fit each other")
        return [cls(returns=1, cache=cache)]

    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        x, (sender, receiver), edge_attr = arguments
        graph = self.cache.graph(receiver, sender, x.shape[0], ordered=True)
        weights = InteractionWeights.of(module.R1, module.O)
        passes = getattr(module, "n_layers", 1)
        edges: Tensor | None = None
        for k in range(passes):
            x, edges = weights.one_pass(x, edge_attr, graph, return_edges=k == passes - 1)
        return (read_ends(self.name, module.R2.layers, x, edges, graph, receiver_first=True, end="sigmoid"),)

    def probes(self, module: Any) -> list[list[Any]]:
        like: Tensor = parameter_like(module)
        receiver, sender = probe_edges(like.device)
        width = module.O.layers[4].out_features
        attributes = module.R1.layers[0].in_features - 2 * width
        return [
            [
                probe_values(5, width, like),
                torch.stack([sender, receiver]),
                probe_values(len(receiver), attributes, like),
            ]
        ]


def _expect_step(module: Any) -> None:
    if not isinstance(getattr(module, "c_weight", None), float | int):
        raise NotRecognisedError("c_weight is no number")


def _widths(module: Any, name: str) -> tuple[int, int]:
    """Inputs and outputs of a chain."""
    layers, _ = chain_layers("fuse_", name, getattr(module, name))
    return layers[0].weight.shape[1], layers[-1].weight.shape[0]
