"""User blocks close to the published ones, and comparisons of a block with its fused form."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import equikernels as ek
from equikernels.published import egnn, euclidnet, interaction_network, lorentznet
from equikernels.published.lorentznet import psi, scatter_sum

from .tools import RecordOps


class Lorentz(lorentznet.LGEB):
    """The published block in parts, which variants override."""

    def __init__(self, width: int = 6, n_scalar: int = 2, c_weight: float = 0.3, last_layer: bool = False) -> None:
        super().__init__(width, n_scalar, c_weight, last_layer)

    def psi(self, z: Tensor) -> Tensor:
        return psi(z)

    def message(self, h_i: Tensor, h_j: Tensor, norms: Tensor, dots: Tensor) -> Tensor:
        m = self.phi_e(torch.cat([h_i, h_j, norms, dots], dim=1))
        return m * self.gate(m)

    def gate(self, m: Tensor) -> Tensor:
        return self.phi_m(m)

    def step(self, d: Tensor, m: Tensor) -> Tensor:
        return (d * self.phi_x(m)).clamp(-100, 100)

    def aggregate(self, step: Tensor, i: Tensor, n: int) -> Tensor:
        return egnn.scatter_mean(step, i, n)

    def move(self, x: Tensor, step: Tensor) -> Tensor:
        return x + self.c_weight * step

    def new_h(self, h: Tensor, update: Tensor) -> Tensor:
        return h + update

    def result(self, h: Tensor, x: Tensor, m: Tensor) -> Any:
        return h, x

    def forward(self, h: Tensor, x: Tensor, edges: Any, scalars: Tensor) -> Any:
        i, j = edges
        d = x[i] - x[j]
        norms, dots = lorentznet.minkowski_norm(d), lorentznet.minkowski_dot(x[i], x[j])
        m = self.message(h[i], h[j], self.psi(norms).unsqueeze(1), self.psi(dots).unsqueeze(1))
        if self.phi_x is not None:
            x = self.move(x, self.aggregate(self.step(d, m), i, len(x)))
        h = self.new_h(h, self.phi_h(torch.cat([h, scatter_sum(m, i, len(h)), scalars], dim=1)))
        return self.result(h, x, m)


class Layer(egnn.E_GCL):
    """The published E_GCL in parts, with the masks of molecule generators."""

    mask_steps = True
    mask_points = True

    def __init__(self, width: int = 5, edge: int = 0, node: int = 0, act: nn.Module | None = None, **more: Any) -> None:
        super().__init__(width, width, 6, edge, act or nn.SiLU(), nodes_att_dim=node, **more)

    def weight(self, m: Tensor) -> Tensor:
        return self.coord_mlp(m)

    def step(self, d: Tensor, m: Tensor) -> Tensor:
        return d * self.weight(m)

    def aggregate(self, step: Tensor, edges: Any, n: int, edge_mask: Tensor | None) -> Tensor:
        return {"mean": egnn.scatter_mean, "sum": scatter_sum}[self.coords_agg](step, edges[0], n)

    def moved(self, coord: Tensor, step: Tensor) -> Tensor:
        return coord + step

    def total(self, m: Tensor, edges: Any, n: int) -> Tensor:
        return scatter_sum(m, edges[0], n)

    def run(
        self,
        h: Any,
        edges: Any,
        coord: Any,
        edge_attr: Any = None,
        node_attr: Any = None,
        node: Any = None,
        edge: Any = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        square, d = self.difference(coord, edges)
        m = self.messages(h, square, edges, edge_attr)
        m = m if edge is None else m * edge
        step = self.step(d, m)
        step = step if edge is None or not self.mask_steps else step * edge
        nodes = [h, self.total(m, edges, len(h))] + ([] if node_attr is None else [node_attr])
        h = h + self.node_mlp(torch.cat(nodes, dim=1))
        coord = self.moved(coord, self.aggregate(step, edges, len(coord), edge))
        if node is not None:
            h = h * node
            coord = coord * node if self.mask_points else coord
        return h, coord, edge_attr

    def forward(self, h: Tensor, edges: Any, coord: Tensor, edge_attr: Any = None, node_attr: Any = None) -> Any:
        return self.run(h, edges, coord, edge_attr, node_attr)


class Masked(Layer):
    def forward(  # type: ignore[override]
        self, h: Any, edges: Any, coord: Any, edge_attr: Any = None, node_attr: Any = None, node_mask: Any = None,
        edge_mask: Any = None,
    ) -> Any:  # fmt: skip
        return self.run(h, edges, coord, edge_attr, node_attr, node_mask, edge_mask)


def variant(base: type[nn.Module], **methods: Any) -> type[nn.Module]:
    """A block with other methods."""
    return type("Variant", (base,), methods)


def random_edges(nodes: int = 12, edges: int = 40, seed: int = 0) -> Tensor:
    """[2, E], with duplicates and self-loops, without edges at the last node."""
    return torch.randint(0, nodes - 1, (2, edges), generator=torch.Generator().manual_seed(seed))


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def lorentz_call(width: int = 6, n_scalar: int = 2, nodes: int = 12, seed: int = 0) -> list[Any]:
    i, j = random_edges(nodes, seed=seed)
    return [numbers(nodes, width), 3 * numbers(nodes, 4, seed=2), (i, j), numbers(nodes, n_scalar, seed=3)]


def layer_call(width: int = 5, nodes: int = 12, seed: int = 0, dim: int = 3) -> list[Any]:
    row, col = random_edges(nodes, seed=seed)
    return [numbers(nodes, width), [row, col], numbers(nodes, dim, seed=2)]


def masks(nodes: int = 12, edges: int = 40) -> dict[str, Tensor]:
    keep = torch.arange(edges).unsqueeze(1) % 3 > 0
    return {"node_mask": (torch.arange(nodes).unsqueeze(1) < nodes - 2).double(), "edge_mask": keep.double()}


def published() -> dict[str, tuple[Callable[[], nn.Module], Callable[[], list[Any]]]]:
    """A block of each kind that fuse_ knows on edges, and a call."""

    def euclid() -> list[Any]:
        i, j = random_edges()
        return [numbers(12, 2), [i, j], numbers(12, 6, seed=2), numbers(40, 6, seed=3)]

    def interaction() -> list[Any]:
        return [numbers(12, 3), random_edges(), numbers(40, 4, seed=2)]

    def velocity() -> list[Any]:
        return [*layer_call(), numbers(12, 3, seed=5)]

    return {
        "LorentzNet": (Lorentz, lorentz_call),
        "E_GCL": (Layer, layer_call),
        "E_GCL_vel": (lambda: egnn.E_GCL_vel(5, 5, 6), velocity),
        "EuclidNet": (lambda: euclidnet.EB(6, 2, 0.3), euclid),
        "InteractionNetwork": (lambda: interaction_network.InteractionNetwork(6), interaction),
    }


def awake(module: nn.Module, seed: int = 3) -> nn.Module:
    """In float64, with weights as after training: nothing is near 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for p in module.parameters():
            size = 0.4 if p.dim() < 2 else max(p.shape[1], 1) ** -0.5
            p += size * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return module


def fuses(module: nn.Module) -> bool:
    """Fuses in place; returns whether anything was fused."""
    try:
        ek.fuse_(module)
    except ValueError:
        return False
    return True


def outcome(module: nn.Module, args: list[Any], kwargs: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
    """The structure of a call's result, and all numbers by name: outputs, additions, gradients, buffers, inputs."""
    given = pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (list(args), dict(kwargs or {})))
    leaves = [t.requires_grad_() for t in pytree.tree_leaves(given) if _floats(t)]
    inputs = pytree.tree_map_only(Tensor, lambda t: t * 1 if _floats(t) else t, given)
    module.zero_grad()
    torch.manual_seed(11)
    out = module(*inputs[0], **inputs[1])
    values = [t for t in pytree.tree_leaves(out) if isinstance(t, Tensor)]
    found: dict[str, Any] = {f"output {k}": t.detach() for k, t in enumerate(values)}
    for k, t in enumerate(values):
        found |= {f"{k} less {i}": (t - x).detach() for i, x in enumerate(leaves) if t.shape == x.shape}
    total = sum((t * numbers(*t.shape, seed=k)).sum() for k, t in enumerate(values) if t.requires_grad)
    named = {**{f"input {k}": x for k, x in enumerate(leaves)}, **dict(module.named_parameters())}
    wanted = {name: t for name, t in named.items() if t.requires_grad}
    grads = torch.autograd.grad(total, list(wanted.values()), allow_unused=True) if isinstance(total, Tensor) else []
    for name, g in zip(wanted, grads, strict=False):
        found[f"gradient of {name}"] = torch.zeros_like(wanted[name]) if g is None else g
    found |= {name: b.clone() for name, b in module.named_buffers()}
    found |= {f"afterwards {k}": t.detach() for k, t in enumerate(pytree.tree_leaves(inputs)) if isinstance(t, Tensor)}
    return pytree.tree_structure(out), found


def _floats(t: Any) -> bool:
    return isinstance(t, Tensor) and t.is_floating_point()


def assert_same(own: nn.Module, fused: nn.Module, args: list[Any], kwargs: dict[str, Any] | None = None) -> None:
    """Two modules do the same in a call, to 1e-9 of the largest value of each table."""
    structure, theirs = outcome(own, args, kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours_structure, ours = outcome(fused, args, kwargs)
    assert ours_structure == structure
    assert list(ours) == list(theirs)
    largest = max(
        (float(t.abs().max()) for n, t in theirs.items() if n.startswith("gradient") and t.numel()), default=0
    )
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype, name
        least = 1e-3 * largest if name.startswith("gradient") else 1e-300
        scale = max(float(value.abs().max()) if value.numel() else 0.0, least)
        torch.testing.assert_close(
            ours[name], value, rtol=0, atol=1e-9 * scale, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}"
        )


def runs_fused(module: nn.Module, args: list[Any], kwargs: dict[str, Any] | None = None) -> bool:
    """Whether a call uses one of the fused ops. The module's statistics stay as they are."""
    before = [b.clone() for b in module.buffers()]
    with RecordOps() as record, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module(*copy.deepcopy(args), **copy.deepcopy(kwargs or {}))
        for b, was in zip(module.buffers(), before, strict=True):
            b.copy_(was)
    return bool(record.calls)


def compare(
    make: Callable[[], nn.Module],
    args: list[Any],
    kwargs: dict[str, Any] | None = None,
    *,
    fused: bool | None = None,
    after: Callable[[nn.Module], Any] | None = None,
) -> nn.Module:
    """A block and the same, fused: in evaluation and in training they do the same.

    Args:
        make: the block.
        args, kwargs: a call.
        fused: whether the call has to run fused ops, or must not; None: either.
        after: called with both after fuse_.
    """
    torch.manual_seed(0)
    own = awake(make())
    ours = copy.deepcopy(own)
    found = fuses(ours)
    for m in (own, ours):
        if after is not None:
            after(m)
    if fused is not None:
        assert (found and runs_fused(ours.eval(), args, kwargs)) == fused
    for training in (False, True):
        assert_same(own.train(training), ours.train(training), args, kwargs)
    return ours
