r"""Finite-dimensional representations (k, n) of the Lorentz group and their Clebsch-Gordan product, arXiv 2006.04780.

(k, n) has (k + 1)(n + 1) complex components l, m: l from \|k - n\| / 2 to (k + n) / 2, m from -l to l, both ascending;
(0, 0) are scalars, (1, 1) four-vectors. An activation is a dict from (k, n) to a complex tensor
[(k + 1)(n + 1), C, n_nodes].
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from math import factorial, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Irrep = tuple[int, int]
Activation = dict[Irrep, Tensor]
Matrix = npt.NDArray[np.float64]
SCALAR, VECTOR = (0, 0), (1, 1)
MAXDIM = 3  # representations with k, n < 3 are kept
KEPT = tuple((k, n) for k in range(MAXDIM) for n in range(MAXDIM))


@functools.cache
def su2(a: int, b: int, c: int) -> Matrix:
    """Condon-Shortley coefficients <a/2 m, b/2 m' | c/2 M>, [c + 1, a + 1, b + 1], all m ascending (Racah)."""
    out = np.zeros((c + 1, a + 1, b + 1))
    f = factorial
    for i, j in itertools.product(range(a + 1), range(b + 1)):
        # i = a/2 + m, j = b/2 + m', k = c/2 + M
        k = i + j - (a + b - c) // 2
        if not 0 <= k <= c:
            continue
        norm = (c + 1) * f((c + a - b) // 2) * f((c - a + b) // 2) * f((a + b - c) // 2) / f((a + b + c) // 2 + 1)
        norm *= f(k) * f(c - k) * f(a - i) * f(i) * f(b - j) * f(j)
        total = 0.0
        for t in range((a + b - c) // 2 + 1):
            terms = [t, (a + b - c) // 2 - t, a - i - t, j - t]
            terms += [(c - b + 2 * i - a) // 2 + t, (c - a - 2 * j + b) // 2 + t]
            if min(terms) >= 0:
                total += (-1) ** t / np.prod([float(f(x)) for x in terms])
        out[k, i, j] = sqrt(norm) * total
    return out


def size(irrep: Irrep) -> int:
    return (irrep[0] + 1) * (irrep[1] + 1)


@functools.cache
def _uncoupled(irrep: Irrep) -> Matrix:
    """The components l, m in products of both spins, [(k + 1)(n + 1), k + 1, n + 1]."""
    k, n = irrep
    return np.concatenate([su2(k, n, c) for c in range(abs(k - n), k + n + 1, 2)])


@functools.cache
def clebsch_gordan(first: Irrep, second: Irrep) -> dict[Irrep, Matrix]:
    """The parts (k, n) of first x second: matrices [(k + 1)(n + 1), d_first d_second], the first index slow, k then n
    ascending. One below another they are orthogonal."""
    u, v = _uncoupled(first), _uncoupled(second)
    parts = {}
    for k in range(abs(first[0] - second[0]), first[0] + second[0] + 1, 2):
        for n in range(abs(first[1] - second[1]), first[1] + second[1] + 1, 2):
            left, right = su2(first[0], second[0], k), su2(first[1], second[1], n)
            spins = np.einsum("oxy,xij,ykl->oikjl", _uncoupled((k, n)), left, right)
            whole = np.einsum("oikjl,aik,bjl->oab", spins, u, v)
            parts[k, n] = whole.reshape(size((k, n)), -1)
    return parts


_made: dict[tuple[object, torch.device], Tensor] = {}


def _kept(key: object, make: Callable[[], list[Any] | Matrix], like: Tensor, dtype: torch.dtype) -> Tensor:
    """A constant on the device of another tensor, made on first use and kept."""
    if torch.compiler.is_compiling():
        return torch.tensor(np.asarray(make()).tolist(), dtype=dtype, device=like.device)
    if (key, like.device) not in _made:
        with torch.inference_mode(False):
            made = torch.tensor(np.asarray(make()), dtype=dtype, device=like.device)
        if type(made) is not Tensor:  # a fake one
            return made
        _made[key, like.device] = made
    return _made[key, like.device]


def _stacked(first: Irrep, second: Irrep) -> Matrix:
    parts = clebsch_gordan(first, second)
    return np.concatenate([matrix for irrep, matrix in parts.items() if irrep in KEPT])


def products(first: Mapping[Irrep, Tensor], second: Mapping[Irrep, Tensor]) -> dict[Irrep, list[Tensor]]:
    """The Clebsch-Gordan product channel by channel: the parts of each kind, in the published order.

    Args:
        first, second: complex128 [d, C, n], C and n of ``second`` may be 1.

    Returns:
        For each (k, n) with k, n < 3 the tensors [d, C, n] of all pairs that have such a part, first's keys outermost.
    """
    out: dict[Irrep, list[Tensor]] = {}
    for (a, x), (b, y) in itertools.product(first.items(), second.items()):
        if SCALAR in (a, b):
            out.setdefault(a if b == SCALAR else b, []).append(x * y)
            continue
        irreps = [irrep for irrep in clebsch_gordan(a, b) if irrep in KEPT]
        matrix = _kept((a, b), lambda: _stacked(a, b), x, torch.float64)  # noqa: B023
        pairs = torch.view_as_real(x[:, None] * y[None])  # [d_a, d_b, C, n, 2]
        coupled = matrix @ pairs.flatten(0, 1).flatten(1)
        whole = torch.view_as_complex(coupled.view(matrix.shape[0], *pairs.shape[2:]))
        for irrep, part in zip(irreps, whole.split([size(irrep) for irrep in irreps]), strict=True):
            out.setdefault(irrep, []).append(part)
    return out


def four_vectors(p: Tensor) -> Tensor:
    """[4, n] complex128 components of (1, 1): (t, (x - iy) / sqrt 2, z, -(x + iy) / sqrt 2), from p [n, 4] float64."""
    t, x, y, z = p.unbind(1)
    zero, root = torch.zeros_like(t), 2**-0.5
    real, imaginary = torch.stack([t, root * x, z, -root * x]), torch.stack([zero, -root * y, zero, -root * y])
    return torch.complex(real, imaginary)


def bilinear(irrep: Irrep) -> tuple[list[int], list[int]]:
    """(place of (l, -m), sign (-1)^(l + m)) of each component (l, m)."""
    k, n = irrep
    places: list[int] = []
    signs: list[int] = []
    for twice_l in range(abs(k - n), k + n + 1, 2):
        first = len(places)
        places += [first + twice_l - i for i in range(twice_l + 1)]
        signs += [(-1) ** i for i in range(twice_l + 1)]
    return places, signs


def squares(x: Tensor, irrep: Irrep) -> Tensor:
    """The invariant <x, x> [C, n] of each channel, complex; t^2 - x^2 - y^2 - z^2 of a four-vector."""
    places = _kept(("places", irrep), lambda: bilinear(irrep)[0], x, torch.int64)
    signs = _kept(("signs", irrep), lambda: bilinear(irrep)[1], x, torch.float64)
    return (x * x[places] * signs[:, None, None]).sum(0)
