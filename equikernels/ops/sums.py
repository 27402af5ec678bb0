"""Sums over the rows of tall tables whose bits do not depend on the number of threads (PyTorch's may): on the CPU rows
are summed in chunks that only the number of rows determines. Differentiable, and so are the gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..backend import use_shortcut
from ..checks import REAL
from .autograd import call

KERNEL_OF = "pairwise_linear"  # the op that computes these products
SERIAL = 1 << 15  # PyTorch sums fewer numbers with one thread, and with less overhead


def row_products(x: Tensor, weight: Tensor) -> Tensor:
    """x weight, [R, B], of x [R, A] and weight [A, B]."""
    if x.shape[1] == 1 and not _is_tall(x, weight.shape[1]):
        return x * weight
    return call("rows_product", x, weight) if _has_kernel(x, weight) else x @ weight


def column_products(x: Tensor, y: Tensor) -> Tensor:
    """x^T y, [A, B], of x [R, A] and y [R, B]."""
    if x.shape[1] == 1 and not _is_tall(y):
        return (x * y).sum(0, keepdim=True)
    return call("rows_outer", x, y) if _has_kernel(x, y) else x.T @ y


def column_sums(x: Tensor) -> Tensor:
    """[C] of x [R, C]."""
    return column_products(x.new_ones(x.shape[0], 1), x)[0] if _is_tall(x) and _has_kernel(x) else x.sum(0)


def repeat_row(row: Tensor, rows: int) -> Tensor:
    """[R, C] of row [C]."""
    return row_products(row.new_ones(rows, 1), row[None])


def _is_tall(x: Tensor, columns: int | None = None) -> bool:
    """Whether a table with the rows of ``x``, and this many columns, is summed by several threads."""
    return torch.compiler.is_compiling() or x.shape[0] * (columns or x.shape[1]) >= SERIAL


def _has_kernel(*tensors: Tensor) -> bool:
    first = tensors[0]
    return first.device.type == "cpu" and first.dtype in REAL and use_shortcut(KERNEL_OF, *tensors)
