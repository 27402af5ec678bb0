"""The Lorentz Group Network as published (arXiv 2006.04780): padded events, every Clebsch-Gordan product of every pair.

Activations are dicts {(k, n): [2, B, N, C, (k + 1)(n + 1)]}, real and imaginary part first.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.lgn import ORDERS
from ..nn.clebsch_gordan import bilinear, clebsch_gordan
from ..packing import unpack

Irrep = tuple[int, int]
Rep = dict[Irrep, Tensor]


def minkowski_square(p: Tensor) -> Tensor:
    squares = p * p
    return 2 * squares[..., 0] - squares.sum(-1)


def complex_product(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]])


def vectors(p: Tensor) -> Tensor:
    """[2, ..., 4] components of (1, 1)."""
    t, x, y, z = p.unbind(-1)
    zero, root = torch.zeros_like(t), 2**-0.5
    real, imaginary = (t, root * x, z, -root * x), (zero, -root * y, zero, -root * y)
    return torch.stack([torch.stack(real, -1), torch.stack(imaginary, -1)])


def cg_product(first: Rep, second: Rep, aggregate: bool = False) -> Rep:
    """With ``aggregate`` first is of the nodes j, second of the pairs (i, j), and the product is summed over j."""
    out: dict[Irrep, list[Tensor]] = {}
    for (a, x), (b, y) in itertools.product(first.items(), second.items()):
        if aggregate:
            x = x[:, :, None]
        whole = complex_product(x[..., :, None], y[..., None, :]).flatten(-2)
        if aggregate:
            whole = whole.sum(3)
        for irrep, matrix in clebsch_gordan(a, b).items():
            if max(irrep) < 3:
                out.setdefault(irrep, []).append(whole @ torch.from_numpy(matrix).to(whole).t())
    return {irrep: torch.cat(parts, -2) for irrep, parts in out.items()}


class RadPolyTrig(nn.Module):
    """The radial functions of one level."""

    def __init__(self, channels: int, n_basis: int) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(1, 1, 1, 2 * n_basis)) for _ in range(3))
        self.linear = nn.ModuleList(nn.Linear(2 * n_basis, 2 * channels) for _ in range(2))

    def forward(self, norms: Tensor, mask: Tensor) -> list[Tensor]:
        """[2, B, N, N, C, 1] of (0, 0) and of (1, 1)."""
        norms = norms[..., None]
        bells = torch.where(mask[..., None], self.b / (1 + (self.c * norms).pow(2)) + self.a, 0.0)
        return [linear(bells).unflatten(-1, (-1, 2)).movedim(-1, 0)[..., None] for linear in self.linear]


class MixReps(nn.Module):
    def __init__(self, channels_in: dict[Irrep, int], channels: int) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(
            {str(irrep): nn.Parameter(torch.randn(2, channels, width)) for irrep, width in channels_in.items()}
        )

    def forward(self, rep: Rep) -> Rep:
        out = {}
        for irrep, x in rep.items():
            real, imaginary = self.weights[str(irrep)]
            out[irrep] = torch.stack([real @ x[0] - imaginary @ x[1], real @ x[1] + imaginary @ x[0]])
        return out


class BasicMLP(nn.Module):
    def __init__(self, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        sizes = [width, *[hidden] * depth, width]
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for linear in self.linear[:-1]:
            x = nn.functional.leaky_relu(linear(x))
        out: Tensor = self.linear[-1](x)
        return out


class CGLevel(nn.Module):
    def __init__(self, channels_in: dict[Irrep, int], channels: int, order: Sequence[Irrep]) -> None:
        super().__init__()
        self.order = order
        # the numbers of channels of a product, from one of tensors without nodes
        rep = {(k, n): torch.zeros(2, 0, 0, c, (k + 1) * (n + 1)) for (k, n), c in channels_in.items()}
        some = next(iter(channels_in.values()))
        edges = {(l, l): torch.zeros(2, 0, 0, 0, some, (l + 1) ** 2) for l in (0, 1)}  # noqa: E741
        wide = {irrep: x.shape[-2] for irrep, x in self.concatenated(rep, edges).items()}
        self.channels = dict.fromkeys(wide, channels)
        self.cat_mix = nn.ModuleDict({"mix_reps": MixReps(wide, channels)})

    def concatenated(self, rep: Rep, edges: Rep) -> Rep:
        all_parts = cg_product(rep, edges, aggregate=True), rep, cg_product(rep, rep)
        found = {irrep: [part[irrep] for part in all_parts if irrep in part] for irrep in self.order}
        return {irrep: torch.cat(parts, -2) for irrep, parts in found.items() if parts}

    def forward(self, rep: Rep, edges: Rep) -> Rep:
        out: Rep = self.cat_mix["mix_reps"](self.concatenated(rep, edges))
        return out


class LGN(nn.Module):
    """The published network without four-momenta among the features. State-dict keys and results are the published ones;
    weights are to be loaded."""

    def __init__(
        self,
        num_channels: Sequence[int] = (2, 4, 4, 2),
        n_basis: int = 10,
        mlp_depth: int = 3,
        mlp_width: int = 2,
        scale: float = 0.005,
        order: str = "py38",
    ) -> None:
        super().__init__()
        self.scale, self.order = scale, ORDERS[order]
        first, *rest = num_channels
        self.rad_funcs = nn.ModuleDict(
            {"rad_funcs": nn.ModuleList(RadPolyTrig(width, n_basis) for width in num_channels[:-1])}
        )
        self.input_func_atom = nn.ModuleDict({"lin": nn.Linear(2, 2 * first)})
        channels, count, levels = {(0, 0): first}, first, []
        for width in rest:
            levels.append(CGLevel(channels, width, self.order))
            channels = levels[-1].channels
            count += sum(channels.values())
        perceptrons = (BasicMLP(2 * width, 2 * width * mlp_width, mlp_depth) for width in rest)
        self.lgn_cg = nn.ModuleDict({"atom_levels": nn.ModuleList(levels), "mlp_levels": nn.ModuleList(perceptrons)})
        self.output_layer_atom = nn.ModuleDict({"lin": nn.Linear(2 * count, 2)})

    def forward(self, p4: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, 2].

        Args:
            p4: [B, N, 4] four-momenta, beams among them, padded rows 0.
            label: [B, N, 1], 1 of beams, -1 of constituents.
            mask: [B, N] of real nodes.
        """
        p = p4 * self.scale
        scalars = torch.cat([minkowski_square(p).abs().sqrt()[..., None], label], dim=-1)
        difference = p[:, :, None] - p[:, None]
        square = minkowski_square(difference)
        norms = square.sign() * square.abs().sqrt()
        edge_mask = mask[:, :, None] & mask[:, None] & (norms != 0)
        one = torch.ones_like(norms)
        zonal = {(0, 0): torch.stack([one, one])[..., None, None], (1, 1): vectors(difference)[..., None, :]}

        x = torch.where(mask[..., None], self.input_func_atom["lin"](scalars), 0.0)
        rep = {(0, 0): x.unflatten(-1, (-1, 2)).movedim(-1, 0)[..., None]}
        levels = [rep]
        for functions, level, mlp in zip(self.rad_funcs["rad_funcs"], *self.lgn_cg.values(), strict=True):
            radial = functions(norms, edge_mask)
            edges = {irrep: complex_product(r, z) for r, (irrep, z) in zip(radial, zonal.items(), strict=True)}
            rep = level(rep, edges)
            flat = mlp(rep.pop((0, 0))[..., 0].movedim(0, -1).flatten(-2))
            rep[0, 0] = flat.unflatten(-1, (-1, 2)).movedim(-1, 0)[..., None]
            levels.append(rep)
        invariants = [torch.cat([x[0, 0] for x in levels], -2)]
        for irrep in self.order:
            if irrep != (0, 0):
                whole = torch.cat([x[irrep] for x in levels if irrep in x], -2)
                places, signs = bilinear(irrep)
                paired = complex_product(whole, whole[..., places])
                invariants.append((paired * whole.new_tensor(signs)).sum(-1, keepdim=True))
        total = torch.cat(invariants, -2)[..., 0].sum(2)
        out: Tensor = self.output_layer_atom["lin"](total.movedim(0, -1).flatten(-2))
        return out

    @staticmethod
    def padded_inputs(
        p4: Tensor, scalars: Tensor, ptr: Tensor, padded_to: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Makes the arguments of :meth:`forward` from packed events with beams."""
        padded, mask = unpack(p4, ptr, padded_to)
        return padded, unpack(scalars, ptr, padded_to)[0], mask
