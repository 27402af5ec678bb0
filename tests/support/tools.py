"""Comparisons shared by the tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

import equikernels as ek
from equikernels.backend import NoKernelError

from .cases import Case, Inputs


def assert_as_good_as_eager(
    results: Sequence[Tensor],
    eager: Sequence[Tensor],
    oracles: Sequence[Tensor],
    names: Sequence[str] = ("result",),
    weights: Sequence[str] = (),
) -> None:
    """The tolerance rule for the output and the gradients of one call: the largest error against float64 is at most
    twice that of the same formula in eager PyTorch at the same dtype, plus 16 roundings, because the errors of sums
    depend on their order. Errors are relative to the tensor's largest value; the gradients of ``weights``, which are
    sums over all edges and may cancel, are relative to the largest value of all of them. float64 results have no finer
    oracle: 1e-12."""
    shared = max((_size(o) for o, name in zip(oracles, names, strict=True) if name in weights), default=0.0)
    errors, allowed = [0.0], 0.0
    for result, plain, oracle, name in zip(results, eager, oracles, names, strict=True):
        assert result.shape == oracle.shape, f"{name}: shape {tuple(result.shape)}, expected {tuple(oracle.shape)}"
        assert result.dtype == plain.dtype, f"{name}: dtype {result.dtype}, expected {plain.dtype}"
        scale = shared if name in weights else _size(oracle)
        errors.append(_error(result, oracle, scale))
        if result.dtype == torch.float64:
            allowed = max(allowed, 1e-12)
        else:
            allowed = max(allowed, 2 * _error(plain, oracle, scale) + 16 * torch.finfo(result.dtype).eps)
    report = ", ".join(f"{name} {error:.2e}" for name, error in zip(names, errors[1:], strict=True))
    assert max(errors) <= allowed, f"allowed {allowed:.2e}: {report}"


def _size(t: Tensor) -> float:
    return t.abs().max().item() if t.numel() > 0 else 0.0


def _error(result: Tensor, oracle: Tensor, scale: float) -> float:
    difference = _size(result.double() - oracle)
    return difference / scale if scale > 0 else difference


def lacks_kernel(error: BaseException, backend: str) -> bool:
    """Whether a backend chosen by name has no kernel for a call, as opposed to what else may be wrong with it."""
    return isinstance(error, NoKernelError) and f"backend {backend!r} was requested" in str(error)


def require_grad(inputs: Inputs) -> Inputs:
    return {name: t.detach().clone().requires_grad_() for name, t in inputs.items()}


def reference(case: Case, inputs: Inputs, graph: ek.Graph) -> Tensor:
    with ek.use_backend("reference"):
        return case.run(inputs, graph)


def value_and_grads(function: Callable[[Inputs], Tensor], inputs: Inputs, cotangent: Tensor) -> list[Tensor]:
    leaves = require_grad(inputs)
    out = function(leaves)
    grads = torch.autograd.grad(out, list(leaves.values()), cotangent.to(out.dtype), allow_unused=True)
    return [
        out.detach(),
        *(torch.zeros_like(t) if g is None else g for t, g in zip(leaves.values(), grads, strict=True)),
    ]


def cotangent_for(out: Tensor, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(out.shape, dtype=torch.float64, generator=generator).to(out.device)


class RecordOps(TorchDispatchMode):
    """Records every call of our ops with its arguments, for later checks."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func.namespace == "equikernels" and any(isinstance(a, Tensor) for a in tree_leaves(args)):
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def fresh(arguments: Any) -> Any:
    """The arguments of a recorded call, with leaves for tensors."""
    return tree_map_only(Tensor, lambda t: t.detach().clone().requires_grad_(t.is_floating_point()), arguments)


def boost(rapidity: float, dim: int = 4) -> Tensor:
    """Lorentz boost along a fixed skew direction, [dim, dim]."""
    direction = torch.arange(1, dim, dtype=torch.float64)
    direction /= direction.norm()
    r = torch.tensor(rapidity, dtype=torch.float64)
    matrix = torch.eye(dim, dtype=torch.float64)
    matrix[0, 0] = r.cosh()
    matrix[0, 1:] = matrix[1:, 0] = r.sinh() * direction
    matrix[1:, 1:] += (r.cosh() - 1) * torch.outer(direction, direction)
    return matrix


def rotation(dim: int, metric: str) -> Tensor:
    """A rotation of the space-like (or, for a Euclidean metric, all) axes, [dim, dim]."""
    generator = torch.Generator().manual_seed(3)
    space = dim - 1 if metric == "minkowski" else dim
    q, _ = torch.linalg.qr(torch.randn(space, space, dtype=torch.float64, generator=generator))
    matrix = torch.eye(dim, dtype=torch.float64)
    matrix[-space:, -space:] = q
    return matrix
