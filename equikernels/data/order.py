"""Warns if four-momenta seem to have another order of components."""

from __future__ import annotations

import warnings

from torch import Tensor

from ..indices import on_host

ROWS = 1024  # rows to check, spread over the batch
SLACK = 1e-3  # of p^2: above rounding and above the deficit of a smeared massless particle
_warned: set[str] = set()


def warn_of_order(op: str, argument: str, p4: Tensor) -> None:
    """Warns, once per process and ``op``, if more than half of the rows of p4 [n, 4] have E < |p|.

    Tensors on a device, and tensors under tracing, are not checked.
    """
    if not on_host(p4) or p4.shape[0] == 0 or op in _warned:
        return
    # NumPy has less overhead than PyTorch in small operations.
    rows = p4.detach().numpy()[:: -(-p4.shape[0] // ROWS)].astype("float64")
    momentum = (rows[:, 1:] ** 2).sum(1)
    count = int((rows[:, 0] ** 2 - momentum < -SLACK * momentum).sum())
    if 2 * count > rows.shape[0]:
        _warned.add(op)
        warnings.warn(
            f"{op}: {argument}: expected (E, px, py, pz), got E < |p| in {count} of {rows.shape[0]} rows; for "
            f"(px, py, pz, E) pass {argument}[:, [3, 0, 1, 2]]",
            stacklevel=3,
        )
