"""rank2_products: what PELICAN sees of an event, the products of its particles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ... import _native
from ...backend import COMPOSED, KERNELS, use_shortcut
from ...checks import REAL, check_tensor
from ...metric import Metric, signature
from ..autograd import call, register_autograd
from ..common import graph_arguments, promote
from ..invariants import pairwise_invariants
from .batch import Pairs, pairs_of

OP = "rank2_products"
KERNELS[OP] = ("cpu",)
COMPOSED.add(OP)


def rank2_products(x: Tensor, ptr: Pairs, metric: Metric = "minkowski") -> Tensor:
    r"""Products of all pairs of particles of an event, :math:`T_{ij} = \langle x_i, x_j \rangle`.

    PELICAN, arXiv 2307.16506, section 2. They are those of :func:`pairwise_invariants`, in the same precision.

    Args:
        x: [n, D] coordinates, float32 or float64 (GeV for four-momenta (E, px, py, pz)), D from 2 to 8. Under
            autocast, lower precision is raised to float32.
        ptr: as in :func:`rank2_reduce`.
        metric: "minkowski" (+, -, -, -), "euclidean", or a signature of D entries.

    Returns:
        [n_pairs, 1] in the dtype of x, pairs row-major inside each event.

    Raises:
        ValueError, TypeError: wrong shape, dtype, device or metric; the message names the argument.
    """
    x = promote(OP, "x", x)
    check_tensor(OP, "x", x, ["n", "D"], REAL)
    pairs = pairs_of(OP, ptr, x, None, x.shape[0])
    eta = signature(OP, metric, x.shape[1])
    if not use_shortcut(OP, x):
        return pairwise_invariants(x, pairs, eta, psi=False)[:, 1:]
    return call("rank2_products", x, *graph_arguments(pairs), eta)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, table, *ctx.rest = inputs
    ctx.save_for_backward(x, table)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grad_x = call("invariants_backward", F.pad(grad, (1, 0)), *ctx.saved_tensors, *ctx.rest, False)
    return grad_x, None, None, None, None


if _native.cpu_reason is None:
    fake = lambda x, table, num_edges, *rest: x.new_empty(num_edges, 1)  # noqa: E731
    torch.library.register_fake("equikernels::rank2_products", fake)
    register_autograd("rank2_products", _backward, _setup)
