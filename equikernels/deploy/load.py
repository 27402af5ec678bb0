"""load: runs a program that ``package`` wrote, from Python, with the checks of ``equikernels.h``."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from .._version import __version__
from ..checks import check_tensor, fail
from ..indices import check_indices, check_offsets
from .inputs import EDGES, ENDS, IMAGES, NODES, OFFSETS, Input

OP = "load"


def load(path: str | os.PathLike[str]) -> Loaded:
    """A program of :func:`package` as a function of tensors. It checks their shapes, dtypes, offsets and indices at
    every call, since kernels read memory at them.

    Raises:
        ValueError: the file is of another version of equikernels, or not of :func:`package`; at a call, wrong values.
        TypeError: at a call, a wrong dtype.
    """
    from torch import _inductor

    run = _inductor.aoti_load_package(os.fspath(path))
    metadata = run.loader.get_metadata()
    if metadata.get("equikernels") != __version__:
        fail(OP, "path", f"a program of equikernels {__version__}", metadata.get("equikernels", "none of equikernels"))
    words = [line.split() for line in metadata["inputs"].splitlines()]
    return Loaded(run, [Input(name, rows, int(width), getattr(torch, dtype)) for name, rows, width, dtype in words])


class Loaded:
    """See :func:`load`.

    Attributes:
        inputs: what a call takes, in order.
    """

    def __init__(self, run: Any, inputs: list[Input]) -> None:
        self.run, self.inputs = run, inputs

    def __call__(self, *tensors: Tensor) -> Any:
        """The network's results."""
        if len(tensors) != len(self.inputs):
            fail(OP, "arguments", ", ".join(given.name for given in self.inputs), f"{len(tensors)} tensors")
        sizes: dict[str, Any] = {NODES: NODES, EDGES: EDGES}
        for given, t in zip(self.inputs, tensors, strict=True):
            if given.rows == OFFSETS:
                check_tensor(OP, given.name, t, ["n_events + 1"], [given.dtype])
                if t.shape[0] < 1:
                    fail(OP, given.name, "at least one entry", list(t.shape))
                continue
            if given.rows == IMAGES:
                check_tensor(OP, given.name, t, ["n_events", 1, given.width, given.width], [given.dtype])
                continue
            kind = EDGES if given.rows == ENDS else given.rows
            shape = [2, sizes[kind]] if given.rows == ENDS else [sizes[kind], given.width]
            check_tensor(OP, given.name, t, shape, [given.dtype])
            sizes[kind] = t.shape[1] if given.rows == ENDS else t.shape[0]
        for given, t in zip(self.inputs, tensors, strict=True):
            if given.rows == OFFSETS:
                check_offsets(OP, given.name, t, sizes[NODES])
            if given.rows == ENDS:
                check_indices(OP, given.name, t, sizes[NODES])
        return self.run(*(t.contiguous() for t in tensors))
