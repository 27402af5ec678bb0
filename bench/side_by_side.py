"""Measures whole networks: compares results first, then times both sides in turn in one run.

Nothing is timed if results disagree.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

import equikernels as ek

from .clock import Call, clock_of, wall

OURS, PUBLISHED = "equikernels", "published"
SIDES = (OURS, PUBLISHED)
NOISY = 0.15  # interquartile range over median above which a row is noisy


class Disagreement(SystemExit):
    """Results differ by more than rounding; if not caught, ends the program with its message."""


class Sides:
    """The same events and weights for both: ours packed, the published formula padded."""

    ours: nn.Module
    published: nn.Module
    label: Tensor
    device = "cpu"
    kinks = 1e-6  # accepted error of float32 gradients
    _errors: tuple[float, float] | None = None

    def logits(self, side: str) -> Tensor:
        raise NotImplementedError

    def prepared(self) -> Any:
        """Makes the tensors that a graph makes on first use; they count as inputs, which are not measured."""
        if graph := getattr(self, "graph", None):
            graph.table, graph.edge_index  # noqa: B018
        return self

    def to(self, device: str) -> Any:
        """Moves all tensors and modules to a device."""
        for name, value in vars(self).items():
            moved = tree_map(lambda v: v.to(device) if isinstance(v, Tensor | nn.Module) else v, value)
            setattr(self, name, moved)
        self.device = device
        return self

    def model(self, side: str) -> nn.Module:
        return self.published if side == PUBLISHED else self.ours

    def in_mode(self, side: str, training: bool) -> nn.Module:
        """The model in a mode; train() and eval() visit all modules, so they are called only if the mode changes."""
        model = self.model(side)
        return model if model.training == training else model.train(training)

    def forward(self, side: str) -> Tensor:
        self.in_mode(side, False)
        with torch.inference_mode():
            return self.logits(side)

    def step(self, side: str) -> None:
        model = self.in_mode(side, True)
        model.zero_grad(set_to_none=True)
        F.cross_entropy(self.logits(side), self.label).backward()

    def gradient(self, side: str) -> Tensor:
        """The gradient of all weights, sorted by name, as one vector."""
        self.step(side)
        weights = sorted(self.model(side).named_parameters())
        return torch.cat([p.grad.flatten() for _, p in weights if p.grad is not None])

    def errors(self) -> tuple[float, float]:
        """The errors of our and the published gradient relative to ours in float64; raises if ours is larger than twice
        the other and than :attr:`kinks`."""
        if self._errors is None:
            ours = self.ours
            self.ours = copy.deepcopy(ours).double()
            exact = self.gradient(OURS)
            self.ours = ours
            self._errors = apart(self.gradient(OURS), exact), apart(self.gradient(PUBLISHED), exact)
        if not self._errors[0] <= max(2 * self._errors[1], self.kinks):
            raise Disagreement("gradients: {:.1e} off, the published formula {:.1e}: no speed-up".format(*self._errors))
        return self._errors

    def agree(self) -> float:
        """Largest difference of logits over the largest logit, in eval; raises if it exceeds rounding."""
        self.ours.load_state_dict(self.published.state_dict())  # training steps have changed the running statistics
        return same("logits", self.forward(OURS), self.forward(PUBLISHED), 1e-4)

    def graphed(self, name: str, rounds: tuple[int, int]) -> dict[str, Any]:
        """A row of the forward pass, ours as one CUDA graph."""
        difference = self.agree()
        eager, self.ours = self.ours, ek.graphed(self.ours)
        try:
            return {**self.time(name, self.forward, rounds), "difference": difference}
        finally:
            self.ours = eager

    def time(self, name: str, call: Callable[[str], Any], rounds: tuple[int, int]) -> dict[str, Any]:
        """A row of call("equikernels") against call("published")."""
        return row(name, *interleaved(lambda: call(OURS), lambda: call(PUBLISHED), rounds, name, self.device))


def apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def same(what: str, a: Tensor, b: Tensor, tolerance: float) -> float:
    """Largest difference over the largest value of b; raises if it exceeds ``tolerance``."""
    difference = apart(a, b)
    if not difference < tolerance:
        raise Disagreement(f"{what} differ by {difference:.2e} of the largest: no speed-up is reported")
    return difference


def interleaved(
    a: Call, b: Call, rounds: tuple[int, int], name: str = "", device: str = "cpu"
) -> tuple[list[float], list[float]]:
    """Seconds of each call: several calls of a for each call of b, in turn, after one warm-up call of each."""
    times: tuple[list[float], list[float]] = ([], [])
    clock = clock_of(device)
    a(), b()
    for _ in progress(range(rounds[1]), name):
        for _ in range(rounds[0]):
            times[0].append(clock(a))
        times[1].append(clock(b))
    return times


def progress(rounds: Iterable[int], name: str) -> Iterable[int]:
    """A progress bar on a terminal, if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return rounds
    return tqdm(rounds, desc=name, leave=False, disable=None)


def median(call: Call, rounds: int) -> float:
    call()
    return statistics.median(wall(call) for _ in range(rounds))


def row(name: str, ours: list[float], theirs: list[float], baseline: str = PUBLISHED) -> dict[str, Any]:
    medians = statistics.median(ours), statistics.median(theirs)
    quartiles = [statistics.quantiles(t, n=4, method="inclusive") for t in (ours, theirs)]
    return {
        "what": name,
        f"{OURS}_ms": 1e3 * medians[0],
        f"{baseline}_ms": 1e3 * medians[1],
        "ratio": medians[1] / medians[0],
        "quartiles_ms": [[1e3 * q[0], 1e3 * q[2]] for q in quartiles],
        "range_ms": [[1e3 * min(t), 1e3 * max(t)] for t in (ours, theirs)],
        "repetitions": [len(ours), len(theirs)],
        "noise": max((q[2] - q[0]) / m for q, m in zip(quartiles, medians, strict=True)),
    }


def noisy(rows: Iterable[dict[str, Any]]) -> list[str]:
    """A warning for each noisy row."""
    return [
        f"noisy: {row['what']}: the middle half of the times spans {100 * row['noise']:.0f} % of their median"
        for row in rows
        if row.get("noise", 0.0) > NOISY
    ]
