"""Exports forwards for any sizes: tells torch.export to make no assumptions about sizes 0 and 1. Refuses those that no
program can hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Forward = TypeVar("Forward", bound=Callable[..., Any])

# Earlier versions cannot trace values derived from such sizes: their programs take three events or more.
TAKES_ANY_SIZE = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 13)


def for_any_size(forward: Forward) -> Forward:
    """Decorates a forward, or a graph's constructor, so that torch.export makes a program for any number of events,
    particles and edges, including 0 and 1.

    PyTorch assumes that a derived size (the number of events of a graph's table, for example) is at least two whenever
    broadcasting or contiguity depend on it, and writes this into the program as a condition. This decorator disables
    the assumption. ``run_decompositions`` evaluates the sizes again and needs the same context. Before PyTorch 2.13 the
    decorator has no effect.
    """
    if not TAKES_ANY_SIZE:
        return forward

    @wraps(forward)
    def told(*arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() or not torch.compiler.is_exporting():
            return forward(*arguments, **options)
        with torch.fx.experimental._config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            return forward(*arguments, **options)

    # Dynamo caches and counts compiled code by code object: each forward needs its own.
    function: Any = told
    function.__code__ = function.__code__.replace(co_name=forward.__name__)
    return function


# Networks for which no program can be traced that holds for all sizes, and what they do size by size.
BY_SIZE = {"ParT": "attention", "ParticleNet": "the search for neighbours", "EFP": "the polynomials"}


def wanted_of_all_sizes(network: str) -> str:
    """What a network should be that is one of ``BY_SIZE``."""
    return f"a network whose steps do not depend on the sizes of events, as those of {BY_SIZE[network]} do"


def refuse_export(network: str) -> None:
    """For the forwards of ``BY_SIZE``.

    Raises:
        RuntimeError: torch.export traces.
    """
    if torch.compiler.is_exporting():
        raise RuntimeError(f"{network}: torch.export: expected {wanted_of_all_sizes(network)}")
