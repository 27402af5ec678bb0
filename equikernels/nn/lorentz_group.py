"""Layers of the Lorentz Group Network (arXiv 2006.04780): radial functions, the sum over neighbours, mixing.

All arithmetic is float64, whatever the dtype of the weights.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..graph import Graph
from ..ops.segment import gather_segment_reduce
from .clebsch_gordan import KEPT, SCALAR, VECTOR, Activation, Irrep, clebsch_gordan, products
from .linear import weight_and_bias

Channels = dict[Irrep, int]


class RadialFunctions(nn.Module):
    r"""Two complex weights of each pair and channel from its invariant mass q_ij = \|(p_i - p_j)^2\|.

    .. math:: R_l = W_l \left(\frac{b}{1 + c^2 q} + a\right) + \beta_l, \quad l = 0, 1

    The bracket is 0 where q is 0.

    Args:
        channels: number of channels C.
        n_basis: half the number of the functions in the bracket.
    """

    def __init__(self, channels: int, n_basis: int) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(1, 1, 1, 2 * n_basis)) for _ in range(3))
        self.linear = nn.ModuleList(nn.Linear(2 * n_basis, 2 * channels) for _ in range(2))

    def forward(self, q: Tensor) -> Tensor:
        """[2, C, 2, E] float64 (l, channel, real and imaginary part) of q [E]."""
        a, b, c = (t.double().flatten() for t in (self.a, self.b, self.c))
        layers = [weight_and_bias(layer) for layer in self.linear]
        weight, bias = (torch.cat([layer[k].double() for layer in layers]) for k in (0, 1))
        # in place: [2 n_basis, E] once, which is also what the backward keeps
        bells = (c.square()[:, None] * q).add_(1).reciprocal_()
        rows = torch.addmm((weight @ a)[:, None], weight * b, bells)
        rows = rows * (q != 0) + bias[:, None]
        return rows.view(2, weight.shape[0] // 4, 2, q.shape[0])


class Copies:
    """The pairs of a batch repeated, so that one sum over neighbours serves several sets of weights."""

    def __init__(self, graph: Graph, num_edges: int) -> None:
        self.graph, self.num_edges = graph, num_edges
        self.made: dict[int, Graph] = {}

    def of(self, number: int) -> Graph:
        if number not in self.made:
            ptr, n = self.graph._ptr, self.graph.num_nodes
            first = n * torch.arange(number, device=ptr.device)[:, None]
            repeated = torch.cat([(first + ptr[:-1]).flatten(), ptr[-1:] + (number - 1) * n])
            sizes = {"num_nodes": number * n, "num_edges": number * self.num_edges}
            self.made[number] = Graph.complete(repeated, True, **sizes, validate=False)
        return self.made[number]

    def sums(self, values: Tensor, weights: Tensor) -> Tensor:
        """sum_j w_ij v_j [D, C, n] of complex v [D, C, n] and w [C, 2, E] (real and imaginary part)."""
        width, channels, n = values.shape
        rows = torch.view_as_real(values.permute(1, 2, 0))[:, None].expand(-1, 2, -1, -1, -1)
        rows = rows.reshape(2 * channels * n, 2 * width)
        sums = gather_segment_reduce(rows, self.of(2 * channels), weights.flatten())
        real, imaginary = torch.view_as_complex(sums.view(channels, 2, n, width, 2)).unbind(1)
        return (real + 1j * imaginary).permute(2, 0, 1)


class Mix(nn.Module):
    """Complex linear maps between the channels of each representation.

    Args:
        channels_in: C_in of each representation.
        channels: C_out, of all.
    """

    def __init__(self, channels_in: Channels, channels: int) -> None:
        super().__init__()
        self.weights = nn.ParameterDict()
        for (k, n), width in channels_in.items():
            scale = 1 / max(channels, width) / (10**k if k == n else 1)
            self.weights[str((k, n))] = nn.Parameter(scale * torch.randn(2, channels, width))

    def forward(self, parts: Mapping[Irrep, Tensor]) -> Activation:
        return {
            irrep: torch.complex(*self.weights[str(irrep)].double()) @ x  # [C_out, C_in] @ [d, C_in, n]
            for irrep, x in parts.items()
        }


class ScalarMLP(nn.Module):
    """A perceptron with LeakyReLU(0.01) on real and imaginary parts of the scalars; it moves them behind the others."""

    def __init__(self, channels: int, depth: int, width: int) -> None:
        super().__init__()
        sizes = [2 * channels, *[2 * channels * width] * depth, 2 * channels]
        self.linear = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Activation) -> Activation:
        rest = {irrep: part for irrep, part in x.items() if irrep != SCALAR}
        rows = torch.view_as_real(x[SCALAR][0].t()).flatten(1)
        for k, layer in enumerate(self.linear):
            weight, bias = weight_and_bias(layer)
            assert bias is not None
            rows = F.linear(rows if k == 0 else F.leaky_relu(rows), weight.double(), bias.double())
        return {**rest, SCALAR: torch.view_as_complex(rows.view(rows.shape[0], rows.shape[1] // 2, 2)).t()[None]}


class CGLevel(nn.Module):
    r"""One level: messages, features and products of features with themselves, mixed.

    .. math:: F_i' = \mathrm{Mix}\left(\sum_j F_j \otimes E_{ij} \oplus F_i \oplus F_i \otimes F_i\right), \quad
              E_{ij}^{(0,0)} = (1 + i) R_{0,ij}, \; E_{ij}^{(1,1)} = R_{1,ij} (p_i - p_j)

    The product is linear in E, so sums over j of R F_j and of R F_j x p_j are all that is needed; no product is formed
    on a pair.

    Args:
        channels_in: C of each representation of the input, in its order.
        channels: C of the output.
        order: of the output's representations, if it has them.
    """

    def __init__(self, channels_in: Channels, channels: int, order: Sequence[Irrep]) -> None:
        super().__init__()
        wide = Counter(channels_in)
        for second in ((SCALAR, VECTOR), channels_in):
            for a, b in itertools.product(channels_in, second):
                wide.update({irrep: channels_in[a] for irrep in clebsch_gordan(a, b) if irrep in KEPT})
        self.order = [irrep for irrep in order if irrep in wide]
        self.cat_mix = nn.ModuleDict({"mix_reps": Mix({irrep: wide[irrep] for irrep in self.order}, channels)})
        self.channels = dict.fromkeys(self.order, channels)

    def forward(self, x: Activation, p: Tensor, weights: Tensor, copies: Copies, counts: Tensor | None) -> Activation:
        """F' of F.

        Args:
            x: complex128 [d, C, n] each, in the order of ``channels_in``.
            p: complex128 [4, 1, n].
            weights: [2, C, 2, E] of :class:`RadialFunctions`.
            copies: of the graph.
            counts: [n], how often each node counts as a sender; None: once.
        """
        parts: dict[Irrep, list[Tensor]] = {irrep: [] for irrep in self.order}
        for found in (self._messages(x, p, weights, copies, counts), x.items(), flat(products(x, x))):
            for irrep, part in found:
                parts[irrep].append(part)
        mixed: Activation = self.cat_mix["mix_reps"]({irrep: torch.cat(found, 1) for irrep, found in parts.items()})
        return mixed

    @staticmethod
    def _messages(
        x: Activation, p: Tensor, weights: Tensor, copies: Copies, counts: Tensor | None
    ) -> Iterator[tuple[Irrep, Tensor]]:
        """The sum over j of the products, in order."""
        coupled = {a: [*flat(products({a: part}, {VECTOR: p}))] for a, part in x.items()}
        sent = torch.cat([*x.values()])
        both = torch.cat([sent, *(part for found in coupled.values() for _, part in found)])
        if counts is not None:
            sent, both = sent * counts, both * counts
        sizes = [len(part) for part in x.values()]
        by_scalars = (1 + 1j) * copies.sums(sent, weights[0])
        by_vectors, products_j = copies.sums(both, weights[1]).tensor_split([len(sent)])
        first = 0
        for a, scalar, vector in zip(x, by_scalars.split(sizes), by_vectors.split(sizes), strict=True):
            yield a, scalar
            for irrep, product_i in flat(products({a: vector}, {VECTOR: p})):
                yield irrep, product_i - products_j[first : first + len(product_i)]
                first += len(product_i)


def flat(parts: Mapping[Irrep, list[Tensor]]) -> Iterator[tuple[Irrep, Tensor]]:
    return ((irrep, part) for irrep, found in parts.items() for part in found)
