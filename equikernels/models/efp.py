"""Energy flow polynomials (EFPs), arXiv 1712.07124, and a linear classifier on them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..checks import REAL, check_integer, check_number, check_tensor, fail
from ..data.kinematics import energy_flow, wrapped
from ..export import refuse_export
from ..graph import Graph
from ..packing import unpack
from .efp_graphs import Edges, connected_graphs, products
from .inputs import cast_features, complete_graph

PAIRS = 2**17  # of particles in a batch of events


def efps(p4: Tensor, ptr: Tensor | Graph, degree: int = 7, beta: float = 0.5) -> Tensor:
    r"""The energy flow polynomials of all multigraphs G up to a number of edges.

    .. math::
        \mathrm{EFP}_G = \sum_{i_1} \cdots \sum_{i_N} z_{i_1} \cdots z_{i_N} \prod_{(k,l) \in G} \theta_{i_k i_l}, \quad
        z_i = p_{T,i} / \textstyle\sum_j p_{T,j}, \quad
        \theta_{ij} = (\Delta y_{ij}^2 + \Delta\phi_{ij}^2)^{\beta/2}

    Vertices are summed over one after another: one with a single neighbour by a product of matrix and vector, one with
    two by a product of matrices; where all have three or more, one is fixed. A disconnected graph is the product of its
    parts. Up to 7 edges there are 489 connected graphs and 1000 in all.

    Args:
        p4: [n, 4] (E, px, py, pz) in GeV, float32 or float64.
        ptr: int64 [B + 1], or the complete graph made from it.
        degree: the largest number of edges, at least 1.
        beta: the exponent of distances.

    Returns:
        [B, number of graphs] in the dtype of p4, computed in float64; the first column is that of the empty graph, 1.
        Without particles the others are 0. No gradient.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device, degree or beta.
    """
    op = "efps"
    check_tensor(op, "p4", p4, ["n", 4], REAL)
    check_integer(op, "degree", degree, "a number >= 1", 1)
    check_number(op, "beta", beta, 0)
    ptr = complete_graph(op, ptr, p4.shape[0])._ptr
    graphs = [edges for d in range(1, degree + 1) for edges in connected_graphs(d)]
    prime = p4.new_zeros(ptr.shape[0] - 1, len(graphs) + 1, dtype=torch.float64)
    prime[:, -1] = 1
    with torch.no_grad():
        flow = energy_flow(p4.detach().double(), ptr, validate=False)
        for events, z, theta in _batches(flow, ptr, beta):
            powers = [theta]
            for _ in range(1, degree):
                powers.append(powers[-1] * theta)
            for k, edges in enumerate(graphs):
                prime[events, k] = polynomial(edges, z, powers)
    parts = products(degree)
    longest = max(len(part) for part in parts)
    factors = torch.tensor([[*part, *[len(graphs)] * (longest - len(part))] for part in parts], device=p4.device)
    return prime[:, factors].prod(2).to(p4.dtype)


def _batches(flow: Tensor, ptr: Tensor, beta: float) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(events [b], z [b, N], theta [b, N, N]) of similar sizes. Padding has z = 0, which adds nothing to any sum."""
    counts = ptr.diff()
    sizes, order = counts.sort()
    first = 0
    while first < len(order):
        last = len(order)  # so many events that their pairs, padded to the largest one's, have room
        while last - first > 1 and (last - first) * int(sizes[last - 1]) ** 2 > PAIRS:
            last = (first + last + 1) // 2
        events = order[first:last]
        rows = torch.cat([torch.arange(int(ptr[e]), int(ptr[e + 1]), device=ptr.device) for e in events.tolist()])
        local = torch.cat([ptr.new_zeros(1), counts[events].cumsum(0)])
        z, y, phi = unpack(flow[rows], local)[0].unbind(2)
        square = (y[:, :, None] - y[:, None]).square() + wrapped(phi[:, :, None] - phi[:, None]).square()
        yield events, z, square.pow(beta / 2)
        first = last


def polynomial(edges: Edges, z: Tensor, powers: list[Tensor]) -> Tensor:
    """The EFP [b] of one multigraph, of z [b, N] and theta^m [b, N, N] for m = 1, 2, ..."""
    factors: dict[tuple[int, int], Tensor] = {}
    for edge in set(edges):
        factors[edge] = powers[edges.count(edge) - 1]
    vertices = {v: z for edge in edges for v in edge}
    return _sum(vertices, factors)


def _sum(vertices: dict[int, Tensor], factors: dict[tuple[int, int], Tensor]) -> Tensor:
    """The sum over all vertices of the product of their weights [..., N] and of factors [..., N, N] between a < b."""
    vertices, factors = dict(vertices), dict(factors)
    while True:
        around: dict[int, list[int]] = {v: [] for v in vertices}
        for a, b in factors:
            around[a].append(b)
            around[b].append(a)
        v = min(vertices, key=lambda vertex: len(around[vertex]))
        weight, others = vertices.pop(v), around[v]
        between = [_taken(factors, u, v) for u in others]
        if not others:
            return weight.sum(-1)  # the last one of a connected graph
        if len(others) == 1:
            u = others[0]
            vertices[u] = vertices[u] * (between[0] @ weight[..., None]).squeeze(-1)
        elif len(others) == 2:
            a, b = sorted(others)
            first, second = (between[others.index(u)] for u in (a, b))
            product = (first * weight[..., None, :]) @ second.mT
            factors[a, b] = product * factors[a, b] if (a, b) in factors else product
        else:  # one term of the sum for each particle at v, in a dimension of its own
            rest = {u: w.unsqueeze(-2) for u, w in vertices.items()}
            for u, factor in zip(others, between, strict=True):
                rest[u] = rest[u] * factor.mT
            inner = _sum(rest, {edge: factor.unsqueeze(-3) for edge, factor in factors.items()})
            return (weight * inner).sum(-1)


def _taken(factors: dict[tuple[int, int], Tensor], u: int, v: int) -> Tensor:
    """The factor between u and v, rows being u's; it leaves the factors."""
    return factors.pop((u, v)) if u < v else factors.pop((v, u)).mT


class EFP(nn.Module):
    """A linear classifier on standardised EFPs: 1000 parameters with all graphs up to 7 edges.

    One logit, of which the other class has 0: the bias is the coefficient of the empty graph's EFP, the constant 1.
    Either train it as a logistic regression, where the batch standardises in training and running averages in
    evaluation, or call :meth:`fisher`.

    Args:
        degree: the largest number of edges, at least 1.
        beta: the exponent of distances.
    """

    def __init__(self, degree: int = 7, beta: float = 0.5) -> None:
        super().__init__()
        check_integer("EFP", "degree", degree, "a number >= 1", 1)
        self.degree, self.beta = degree, check_number("EFP", "beta", beta, 0)
        self.n_features = len(products(degree)) - 1
        self.norm = nn.BatchNorm1d(self.n_features, affine=False, eps=1e-30)  # an EFP may be tiny
        self.linear = nn.Linear(self.n_features, 1)

    def forward(self, p4: Tensor, ptr: Tensor | Graph) -> Tensor:
        """Logits of each event.

        Args:
            p4: [n, 4] four-momenta (E, px, py, pz) in GeV, float32 or float64.
            ptr: int64 [n_events + 1], or the complete graph made from it.

        Returns:
            [n_events, 2]; the first one is 0.

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        refuse_export("EFP")
        return self.classify(efps(p4, ptr, self.degree, self.beta))

    def classify(self, features: Tensor) -> Tensor:
        """Logits [B, 2] of the EFPs [B, n_features + 1] of events, :func:`efps`."""
        rows = features.shape[0] if isinstance(features, Tensor) else 0
        features = cast_features("EFP", "features", features, rows, self.n_features + 1, self.linear.weight)
        logit = self.linear(self.norm(features[:, 1:]))
        return torch.cat([torch.zeros_like(logit), logit], dim=1)

    @torch.no_grad()
    def fisher(self, features: Tensor, label: Tensor, ridge: float = 1e-3) -> None:
        r"""Sets mean, variance and weights to Fisher's linear discriminant of these events.

        .. math:: w = (\Sigma + \lambda)^{-1} (\mu_1 - \mu_0), \quad b = -w \cdot (\mu_0 + \mu_1) / 2 + \ln(n_1 / n_0)

        on standardised EFPs, with the mean covariance of both classes: the log of the ratio of both densities where
        they are Gaussian.

        Args:
            features: [B, n_features + 1], :func:`efps`, float32 or float64.
            label: int64 [B], 0 and 1.
            ridge: lambda; EFPs are nearly linear functions of each other.

        Raises:
            ValueError, TypeError: events of one class, wrong shape or dtype.
        """
        op = "EFP.fisher"
        check_tensor(op, "features", features, ["B", self.n_features + 1], REAL)
        check_tensor(op, "label", label, [features.shape[0]], [torch.int64])
        check_number(op, "ridge", ridge, 0)
        if label.unique().tolist() != [0, 1]:
            fail(op, "label", "both 0 and 1", label.unique().tolist())
        x = features[:, 1:].double()
        mean, variance = x.mean(0), x.var(0)
        x = (x - mean) * (variance + self.norm.eps).rsqrt()
        parts = [x[label == k] for k in (0, 1)]
        zero, one = (part.mean(0) for part in parts)
        spread = torch.cat([parts[0] - zero, parts[1] - one])
        covariance = spread.T @ spread / max(len(x) - 2, 1)
        covariance.diagonal().add_(ridge)
        w = torch.linalg.solve(covariance, one - zero)
        ratio = len(parts[1]) / len(parts[0])
        self.norm.get_buffer("running_mean").copy_(mean)
        self.norm.get_buffer("running_var").copy_(variance)
        self.linear.weight.copy_(w[None])
        self.linear.bias.copy_(math.log(ratio) - w @ (zero + one) / 2)
