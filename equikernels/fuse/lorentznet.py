"""The published LorentzNet block (arXiv 2201.08187): phi_e, phi_x, phi_h, phi_m, c_weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..nn.lgeb import lorentz_messages, lorentz_update
from .edges import GraphCache
from .recipe import NotRecognisedError, Recipe, expect_layers, parameter_like, probe_edges, probe_values


@dataclass
class LorentzBlock(Recipe):
    """forward(h, x, edges, node_attr) -> (h, x) or (h, x, messages); messages [E, H] are not made, and come as None."""

    name = "LorentzNet block"
    attributes = ("phi_e", "phi_h", "phi_m")

    @classmethod
    def read(cls, module: nn.Module, cache: GraphCache) -> list[Recipe]:
        expect_layers(module, "phi_e", (nn.Linear, _BatchNorm, nn.ReLU, nn.Linear, nn.ReLU))
        expect_layers(module, "phi_m", (nn.Linear, nn.Sigmoid))
        expect_layers(module, "phi_h", (nn.Linear, _BatchNorm, nn.ReLU, nn.Linear))
        if getattr(module, "phi_x", None) is not None:
            expect_layers(module, "phi_x", (nn.Linear, nn.ReLU, nn.Linear))
        if not isinstance(getattr(module, "c_weight", None), float | int):
            raise NotRecognisedError("c_weight is no number")
        return [cls(returns=2, cache=cache)]

    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        h, x, (receiver, sender), *attributes = arguments
        node_attr = attributes[0] if attributes else None
        graph = self.cache.graph(receiver, sender, h.shape[0], ordered=False)
        phi_x = getattr(module, "phi_x", None)
        total, step = lorentz_messages(module.phi_e, phi_x, module.phi_m, h, x, graph, None)
        h, x = lorentz_update(module.phi_h, module.c_weight, h, x, total, step, node_attr)
        return (h, x, None)[: self.returns]

    def probes(self, module: Any) -> list[list[Any]]:
        like: Tensor = parameter_like(module)
        width = module.phi_h[3].out_features
        extra = module.phi_h[0].in_features - width - module.phi_e[3].out_features
        if module.phi_e[0].in_features != 2 * width + 2 or extra < 0:
            raise NotRecognisedError("phi_e or phi_h takes other inputs than the published block")
        edges = list(probe_edges(like.device))
        attributes = probe_values(5, extra, like) if extra else None
        # Small momenta, and momenta whose steps meet the clamp at 100.
        return [
            [probe_values(5, width, like), probe_values(5, 4, like, scale), edges, attributes] for scale in (1.0, 1e6)
        ]
