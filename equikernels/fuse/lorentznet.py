"""The published LorentzNet block (arXiv 2201.08187): phi_e, phi_x, phi_h, phi_m, c_weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.lgeb import lorentz_layers, lorentz_messages, lorentz_update
from ..nn.plain import expect_layers
from .edges import GraphCache
from .lazy import LazyTensor
from .probe import SCALES, Numbers, Probe, probe_edges
from .recipe import NotRecognisedError, Recipe
from .takes import ends_of, takes_nodes


@dataclass
class LorentzBlock(Recipe):
    """forward(h, x, edges, node_attr) -> (h, x) or (h, x, messages); messages [E, H] are made if they are used."""

    name = "LorentzNet block"
    attributes = ("phi_e", "phi_h", "phi_m")
    live = ("c_weight",)

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        try:
            lorentz_layers(module)
            expect_layers(module, "phi_h", (nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear))
        except ValueError as error:
            raise NotRecognisedError(str(error)) from error
        if not isinstance(getattr(module, "c_weight", None), float | int):
            raise NotRecognisedError("c_weight is no number")
        return [cls(cache)]

    def called(self, module: Any) -> tuple[str, ...]:
        return ("phi_h",)

    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        h, x, edges, *attributes = arguments
        node_attr = attributes[0] if attributes else None
        takes_nodes(h, x, module.phi_e[0], width=(module.phi_e[0].in_features - 2) // 2, dim=4)
        receiver, sender = ends_of(edges, h)
        graph = self.cache.graph(receiver, sender, h.shape[0], ordered=False)
        updated = lorentz_update(module, h, x, lorentz_messages(module, h, x, graph), node_attr)
        return (*updated, self._messages(module, arguments))[: self.returns]

    def _messages(self, module: Any, arguments: list[Any]) -> Any:
        """What the block's own forward gives as third value. Compiled code does without."""
        return None if torch.compiler.is_compiling() else LazyTensor(lambda: third_output(self, module, arguments))

    def probes(self, module: Any) -> Iterator[Probe]:
        width = module.phi_h[3].out_features
        extra = module.phi_h[0].in_features - width - module.phi_e[3].out_features
        if module.phi_e[0].in_features != 2 * width + 2 or extra < 0:
            raise NotRecognisedError("phi_e or phi_h takes other inputs than the published block")
        device = module.phi_e[0].weight.device
        numbers = Numbers(device)
        for graph in probe_edges(device):
            for scale, features in SCALES:
                h, x = numbers.table(graph.nodes, width, scale=features), numbers.table(graph.nodes, 4, scale=scale)
                rest: list[Any] = [numbers.table(graph.nodes, extra)] if extra else []
                if not extra and len(self.parameters) > 3:
                    rest = [None]
                edges = [graph.receiver, graph.sender]
                arguments = [h, x, edges, *rest, *self.fixed.values()]
                yield Probe(arguments, f"{graph.label}, h and x of size {features:g} and {scale:g}")


def third_output(recipe: Recipe, module: nn.Module, arguments: list[Any]) -> Tensor:
    """The third value of the block's own forward, which leaves running statistics as they are."""
    kept = [(m, dict(m._buffers)) for m in module.modules()]
    for m, buffers in kept:
        m._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
    messages: Tensor = recipe.call_own(module, arguments)[2]
    for m, buffers in kept:
        m._buffers.update(buffers)
    return messages
