"""Diagonal metrics, and the squashing function of Lorentz-equivariant networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .checks import fail

Metric = str | Sequence[float] | Tensor
MAX_DIM = 8


def signature(op: str, metric: Metric, dim: int) -> list[float]:
    """The diagonal of a metric in ``dim`` dimensions.

    Args:
        op: name for the error message.
        metric: "minkowski" (+, -, ..., -), "euclidean" (all +), or the diagonal itself.
        dim: 2 to 8.

    Raises:
        ValueError: unknown name, wrong length, or dim out of range.
    """
    if not 2 <= dim <= MAX_DIM:
        fail(op, "x", f"2 to {MAX_DIM} coordinates", dim)
    if isinstance(metric, str):
        if metric == "minkowski":
            return [1.0] + [-1.0] * (dim - 1)
        if metric == "euclidean":
            return [1.0] * dim
        fail(op, "metric", "minkowski, euclidean or a signature", repr(metric))
    diagonal = [float(v) for v in (metric.tolist() if isinstance(metric, Tensor) else metric)]
    if len(diagonal) != dim:
        fail(op, "metric", f"{dim} entries", len(diagonal))
    if not all(-math.inf < v < math.inf for v in diagonal):
        fail(op, "metric", "finite entries", diagonal)
    return diagonal


def psi(z: Tensor) -> Tensor:
    """sign(z) ln(1 + |z|), LorentzNet's normalisation of invariants (arXiv 2201.08187). Any shape."""
    # Separate halves give autograd the derivative 1 at z = 0.
    return torch.log1p(z.clamp(min=0)) - torch.log1p(torch.relu(-z))


def minkowski_square(p4: Tensor) -> Tensor:
    """E^2 - p^2 of four-momenta (E, px, py, pz), computed as the products of :func:`equikernels.pairwise_invariants`.

    Products of float32 numbers are exact in float64. Those of float64 numbers are a compensated dot product ("Dot2",
    Ogita, Rump, Oishi 2005): the result is as accurate as one computed in twice the precision and rounded once.

    Args:
        p4: [..., 4] float32 or float64.

    Returns:
        [...] float64.
    """
    wide = p4.double()
    squares = list(wide.square().unbind(-1))
    value = squares[0] - squares[1] - squares[2] - squares[3]
    if p4.dtype != torch.float64:
        return value
    with torch.no_grad():  # the derivative is that of the sum itself
        error = _square_errors(wide, squares)
    return value + error


def _square_errors(p4: Tensor, squares: list[Tensor]) -> Tensor:
    """The rounding error of squares[0] - squares[1] - ..., of products and sums, to first order."""
    # Each number is split into halves of 26 bits, whose products are exact (Veltkamp, Dekker).
    scaled = p4 * 134217729.0  # 2^27 + 1
    high = scaled - (scaled - p4)
    low = p4 - high
    first, *rest = ((high * high - torch.stack(squares, -1)) + 2 * high * low + low * low).unbind(-1)
    total, error = squares[0], first - rest[0] - rest[1] - rest[2]
    for square in squares[1:]:
        new = total - square
        part = new - total
        error = error + ((total - (new - part)) - (square + part))
        total = new
    return torch.where(error.isfinite(), error, 0.0)  # numbers above 1e300 are not split


def eta_phi(p4: Tensor) -> Tensor:
    """Pseudorapidity asinh(pz / pT) and azimuth atan2(py, px) of four-momenta (E, px, py, pz).

    Args:
        p4: [..., 4] floating.

    Returns:
        [..., 2]: (eta, phi), phi in [-pi, pi]. For pT = 0, eta is infinite with the sign of pz, or NaN if pz = 0.
    """
    pt = torch.hypot(p4[..., 1], p4[..., 2])
    return torch.stack([torch.asinh(p4[..., 3] / pt), torch.atan2(p4[..., 2], p4[..., 1])], dim=-1)
