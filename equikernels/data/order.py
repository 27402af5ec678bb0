"""Warns if four-momenta seem to have another order of components."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .. import _native
from ..checks import REAL
from ..indices import on_host

ROWS = 1024  # rows to check, spread over the batch
SLACK = 1e-3  # of p^2: above rounding and above the deficit of a smeared massless particle
_warned: set[str] = set()


def warn_of_order(op: str, argument: str, p4: Tensor) -> None:
    """Warns, once per process and ``op``, if more than half of the rows of p4 [n, 4] have E < |p|.

    Tensors on a device, tensors under tracing, and all where the op library was not built, are not checked.
    """
    if _native.spacelike is None or not on_host(p4) or p4.shape[0] == 0 or op in _warned:
        return
    rows, step = p4.shape[0], -(-p4.shape[0] // ROWS)
    p4 = p4.contiguous()
    if p4.dtype not in REAL:  # in a file
        p4 = p4.double()
    count = _native.spacelike(p4.data_ptr(), p4.dtype == torch.float64, rows, step, SLACK)
    seen = -(-rows // step)
    if 2 * count > seen:
        _warned.add(op)
        warnings.warn(
            f"{op}: {argument}: expected (E, px, py, pz), got E < |p| in {count} of {seen} rows; for "
            f"(px, py, pz, E) pass {argument}[:, [3, 0, 1, 2]]",
            stacklevel=3,
        )
