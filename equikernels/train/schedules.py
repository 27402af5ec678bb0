"""Learning rates, as factors of the highest one at a time measured in epochs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..checks import fail

Schedule = Callable[[float, int], float]  # (epochs passed, epochs in all) -> factor


def constant() -> Schedule:
    return lambda time, epochs: 1.0


def step(every: int = 100, factor: float = 0.3) -> Schedule:
    """Times ``factor`` after each ``every`` epochs; the default is that of hit-graph papers (arXiv 2304.05293)."""
    return lambda time, epochs: float(factor ** (math.floor(time) // every))


def one_cycle(rise: float = 0.3, start: float = 0.04, end: float = 4e-6) -> Schedule:
    """Along cosines from ``start`` to 1 in the first part ``rise`` of the training, then to ``end``."""

    def factor(time: float, epochs: int) -> float:
        share = min(time / epochs, 1.0)
        if share < rise:
            return _cosine(share / rise, start, 1.0)
        return _cosine((share - rise) / (1 - rise), 1.0, end)

    return factor


def flat_decay(flat: float = 0.7, end: float = 0.01) -> Schedule:
    """1 in the first part ``flat`` of the training, then an exponential fall to ``end``: ParT's (arXiv 2202.03772)."""

    def factor(time: float, epochs: int) -> float:
        share = min(time / epochs, 1.0)
        return float(end ** max((share - flat) / (1 - flat), 0.0))

    return factor


def lorentznet(warmup: int = 5, period: int = 4, growth: int = 2, cooldown: int = 3) -> Schedule:
    """LorentzNet's (arXiv 2201.08187), once an epoch: a linear rise, cosines with restarts after 4, 8, 16 epochs, and
    halves in the last three."""

    def factor(time: float, epochs: int) -> float:
        epoch, last = math.floor(time), epochs - cooldown - 1
        if epoch < warmup:
            return (epoch + 1) / warmup
        if epoch > last >= warmup:
            return factor(last, epochs) / 2 ** (epoch - last)
        return _restarts(epoch - warmup + 1, period, growth)

    return factor


def pelican(warmup: int = 4, period: int = 4, growth: int = 2, cooldown: int = 3) -> Schedule:
    """PELICAN's (arXiv 2307.16506): rise and cosines follow every step; the last three epochs have a half, a quarter
    and an eighth of the rate one epoch before them. (The release halves at every step there: its rate is 0.)"""

    def factor(time: float, epochs: int) -> float:
        last = epochs - cooldown
        if time < warmup:
            return time / warmup
        if time >= last > warmup:
            return factor(last - 1, epochs) / 2 ** (math.floor(time) - last + 1)
        return _restarts(time - warmup, period, growth)

    return factor


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "step": step,
    "one_cycle": one_cycle,
    "flat_decay": flat_decay,
    "lorentznet": lorentznet,
    "pelican": pelican,
}


def schedule_of(name: str, options: dict[str, Any]) -> Schedule:
    """A schedule by name.

    Raises:
        ValueError: an option that it has not.
    """
    try:
        return SCHEDULES[name](**options)
    except TypeError as error:
        fail("config", "training.schedule_options", f"options of {name}", error)


def _cosine(share: float, first: float, last: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def _restarts(time: float, period: int, growth: int) -> float:
    while time >= period:
        time, period = time - period, period * growth
    return _cosine(time / period, 1.0, 0.0)
