"""The published E_GCL (arXiv 2102.09844): edge_mlp, node_mlp, coord_mlp, att_mlp, with and without velocities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..nn.egcl import egnn_messages, fused_activation
from .edges import GraphCache
from .recipe import NotRecognisedError, Recipe, expect_layers, parameter_like, probe_edges, probe_values


@dataclass
class EquivariantLayer(Recipe):
    """forward(h, edge_index, coord[, vel], edge_attr, node_attr) -> (h, coord, edge_attr), edge_index = (row, col) with
    messages summed at row."""

    name = "E_GCL"
    attributes = ("edge_mlp", "node_mlp", "coord_mlp")

    clamp: float | None = None
    residual: bool = True
    coords_agg: str = "mean"

    @classmethod
    def read(cls, module: Any, cache: GraphCache) -> list[Recipe]:
        anything = nn.Module
        expect_layers(module, "edge_mlp", (nn.Linear, anything, nn.Linear, anything))
        expect_layers(module, "node_mlp", (nn.Linear, anything, nn.Linear))
        head: tuple[type, ...] = (nn.Linear, anything, nn.Linear)
        tanh = isinstance(module.coord_mlp, nn.Sequential) and len(module.coord_mlp) == 4
        expect_layers(module, "coord_mlp", (*head, nn.Tanh) if tanh else head)
        if module.coord_mlp[2].bias is not None:
            raise NotRecognisedError("coord_mlp's last layer has a bias")
        if getattr(module, "att_mlp", None) is not None:
            expect_layers(module, "att_mlp", (nn.Linear, nn.Sigmoid))
        try:
            activations = {fused_activation("E_GCL", "act_fn", m[1]) for m in (module.edge_mlp, module.coord_mlp)}
            activations.add(fused_activation("E_GCL", "act_fn", module.edge_mlp[3]))
        except ValueError as error:
            raise NotRecognisedError(str(error)) from error
        if len(activations) > 1:
            raise NotRecognisedError("edge_mlp and coord_mlp have different activations")
        residual = bool(getattr(module, "recurrent", getattr(module, "residual", True)))
        # The structure does not tell whether steps are clamped, nor always how they are aggregated: the proof will.
        named = getattr(module, "coords_agg", None)
        aggregations = [named] if named in ("mean", "sum") else ["mean", "sum"]
        return [
            cls(returns=3, cache=cache, clamp=clamp, residual=residual, coords_agg=agg)
            for agg in aggregations
            for clamp in (None, 100.0)
        ]

    def run(self, module: Any, arguments: list[Any]) -> tuple[Any, ...]:
        velocity = getattr(module, "coord_mlp_vel", None)
        h, (row, col), x, *rest = arguments
        vel = rest.pop(0) if velocity is not None else None
        edge_attr, node_attr = [*rest, None, None][:2]
        graph = self.cache.graph(row, col, h.shape[0], ordered=edge_attr is not None)
        direction = "difference"
        if getattr(module, "normalize", False):
            direction = "unit"
        elif getattr(module, "norm_diff", False):
            direction = "norm_plus_one"
        total, step = egnn_messages(
            module.edge_mlp,
            module.coord_mlp,
            getattr(module, "att_mlp", None),
            h,
            x,
            graph,
            edge_attr,
            direction=direction,
            coords_agg=self.coords_agg,
            clamp=self.clamp,
        )
        x = x + getattr(module, "coords_weight", 1.0) * step
        if velocity is not None:
            x = x + velocity(h) * vel
        update = module.node_mlp(torch.cat([h, total] if node_attr is None else [h, total, node_attr], dim=1))
        return (h + update if self.residual else update, x, edge_attr)[: self.returns]

    def probes(self, module: Any) -> list[list[Any]]:
        like: Tensor = parameter_like(module)
        n_out = module.node_mlp[2].out_features
        width = module.edge_mlp[2].out_features
        n_in = n_out if self.residual else None
        for candidate in [n_in] if n_in else range(1, module.node_mlp[0].in_features - width + 1):
            extra = module.edge_mlp[0].in_features - 2 * candidate - 1
            nodes = module.node_mlp[0].in_features - width - candidate
            if extra >= 0 and nodes == 0:
                break
        else:
            candidate = n_out
            extra, nodes = (
                module.edge_mlp[0].in_features - 2 * n_out - 1,
                module.node_mlp[0].in_features - width - n_out,
            )
        if extra < 0 or nodes < 0:
            raise NotRecognisedError("edge_mlp or node_mlp takes other inputs than the published layer")
        receiver, sender = probe_edges(like.device)
        edge_attr = probe_values(len(receiver), extra, like) if extra else None
        node_attr = probe_values(5, nodes, like) if nodes else None
        probes = []
        for scale in (1.0, 1e6):  # the second meets a clamp, where there is one
            h, x = probe_values(5, candidate, like), probe_values(5, 3, like, scale)
            vel = [probe_values(5, 3, like)] if getattr(module, "coord_mlp_vel", None) is not None else []
            probes.append([h, [receiver, sender], x, *vel, edge_attr, node_attr])
        return probes
