"""Keeps arithmetic that others round otherwise out of AOTInductor's generated code: a program gives PyTorch's bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

aten = torch.ops.aten
# Generated code computes these by other functions, or adds in another order. (A product, a quotient and a sum of two
# numbers are the same, whoever computes them.)
ROUNDED = (
    aten.sqrt.default, aten.rsqrt.default, aten.exp.default, aten.log.default, aten.log1p.default, aten.tanh.default,
    aten.sigmoid.default, aten.sin.default, aten.cos.default, aten.sinh.default, aten.cosh.default, aten.asinh.default,
    aten.atan2.default, aten.remainder.Scalar, aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor,
    aten.silu.default, aten.gelu.default, aten.elu.default, aten.softplus.default, aten.mish.default,
    aten.hardswish.default, aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim,
    aten.var.correction, aten.linalg_vector_norm.default, aten._softmax.default, aten.native_layer_norm.default,
    aten._native_batch_norm_legit_no_training.default, aten.mm.default, aten.bmm.default,
)  # fmt: skip
# What AOTInductor calls anyway, unless it decomposes it. (By fallback_handler the call fails: PyTorch 2.13 writes alpha
# and beta into the file and does not read them.)
CALLED = (aten.addmm.default,)


@contextmanager
def as_pytorch() -> Iterator[None]:
    """Inside, AOTInductor calls PyTorch's operators for what is in ``ROUNDED`` and ``CALLED``, and for x + alpha y."""
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.lowering import fallback_handler, lowerings

    table: dict[Any, Any] = select_decomp_table()
    with patch.dict(table), patch.dict(lowerings):
        for op in (*ROUNDED, *CALLED):
            table.pop(op, None)
        for op in ROUNDED:
            lowerings[op] = fallback_handler(op, add_to_fallback_set=False)
        lowerings[aten.add.Tensor] = _add(lowerings[aten.add.Tensor], fallback_handler(aten.add.Tensor, False))
        yield


def _add(compiled: Callable[..., Any], called: Callable[..., Any]) -> Callable[..., Any]:
    """x + alpha y is one operation in PyTorch and two in generated code."""

    def add(x: Any, y: Any, *, alpha: Any = None) -> Any:
        return compiled(x, y) if alpha is None else called(x, y, alpha=alpha)

    return add
