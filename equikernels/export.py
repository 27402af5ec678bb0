"""What torch.export is told about sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Forward = TypeVar("Forward", bound=Callable[..., Any])

# Earlier versions cannot trace what is derived from such sizes: there, a program takes three events or more.
TAKES_ANY_SIZE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13)


def for_any_size(forward: Forward) -> Forward:
    """A forward, or a graph's constructor, that torch.export turns into a program for any number of events, particles
    and edges, 0 and 1 included.

    PyTorch assumes of a size that it derives (events from a graph's table, say) that it is at least two wherever
    broadcasting or contiguity ask, and writes that into the program as a condition. Here it is told not to.
    ``run_decompositions``, which asks again, needs the same context around it. Before PyTorch 2.13 nothing is told.
    """
    if not TAKES_ANY_SIZE:
        return forward

    @wraps(forward)
    def told(*arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or not torch.compiler.is_exporting():
            return forward(*arguments, **options)
        with torch.fx.experimental._config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            return forward(*arguments, **options)

    # Dynamo keeps what it has compiled, and counts it, by code object: each forward needs one of its own.
    function: Any = told
    function.__code__ = function.__code__.replace(co_name=forward.__name__)
    return function
