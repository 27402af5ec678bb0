"""Counts calls through PyTorch's dispatcher in one forward pass and one training step: host work, without
noise."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from . import lorentznet, pelican
from .networks import NanoSides, VecNetSides
from .plan import Entry, Plan, Row, Setting
from .side_by_side import SIDES
from .tracking import EGNNSides, EuclidNetSides, InteractionSides

NETWORKS: dict[str, Callable[[], Any]] = {
    "LorentzNet, 20 jets": lambda: lorentznet.Sides(20),
    "LorentzNet, one jet": lambda: lorentznet.Sides(None),
    "VecNet, 20 jets": lambda: VecNetSides(20),
    "PELICAN, 16 events": lambda: pelican.Sides(pelican.evenly(27, 54, 16)),
    "PELICAN-nano, 16 events": lambda: NanoSides(16),
    "EGNN, 10,000 edges": lambda: EGNNSides(10_000),
    "EuclidNet, one graph": lambda: EuclidNetSides(1),
    "Interaction Network, one graph": lambda: InteractionSides(1),
}


class Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def count(call: Callable[[], object]) -> int:
    """Calls through the dispatcher, the second time: the first one fills caches."""
    call()
    with Counter() as counter:
        call()
    return counter.calls


def plan(setting: Setting) -> Plan:
    def row(name: str, make: Callable[[], Any], training: bool) -> Row:
        def measure(what: str) -> Entry:
            sides = make()
            call = sides.step if training else sides.forward
            return {"what": what, **{f"{side}_calls": count(lambda: call(side)) for side in SIDES}}  # noqa: B023

        return Row(f"{'training step' if training else 'forward'}, {name}", measure)

    made = {
        name: functools.cache(lambda make=make: make().to(setting.device).prepared()) for name, make in NETWORKS.items()
    }
    return Plan([row(name, make, training) for name, make in made.items() for training in (False, True)], lambda: None)
