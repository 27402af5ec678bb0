"""Runs calls side by side, in processes of one thread each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from types import TracebackType
from typing import Any

import torch


class Workers:
    """So many processes, started by the first calls and kept; one alone means that calls run in this process.

    Small networks gain little from a second thread, and jobs do not depend on each other.
    """

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self._pool: ProcessPoolExecutor | None = None

    def each(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(number of the call, result), as they finish; an error of one ends all.

        Args:
            function: of a module, which processes import.
            calls: its arguments, in the order in which calls start.
        """
        if self.number == 1 or len(calls) < 2:
            for k, arguments in enumerate(calls):
                yield k, function(*arguments)
            return
        if self._pool is None:
            # a fork would inherit the locks of PyTorch's threads
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.number, context, torch.set_num_threads, (1,))
        futures = {self._pool.submit(function, *arguments): k for k, arguments in enumerate(calls)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            for future in futures:
                future.cancel()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def minutes(seconds: float) -> str:
    """A duration in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
