"""PELICAN against the published formula and pelican-hep's, in eager PyTorch and compiled.

The 48k network of arXiv 2307.16506 (48,482 parameters: so2, spurions, letter M), four-momenta in float64 for all sides,
the rest in float32. Multiplicities n are evenly spaced and count the two spurions; padding goes to the largest.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels.data import Jets
from equikernels.demo import PELICAN
from equikernels.packing import prepend
from equikernels.published import pelican as published
from equikernels.published import pelican_hep

from . import side_by_side
from .ceilings import ceilings
from .plan import Entry, Plan, Row, Setting, pair
from .side_by_side import OURS, PUBLISHED, interleaved, row, same

SPURIONS = 2
C, D, NBAR = 35, 60, 49.0  # of one layer
# A pre-activation within rounding of zero may fall on either side of the leaky ReLU, which changes float32 gradients of
# both sides: the error of ours varies from 1e-4 to 1e-2 when weights change by 1e-7. float64 gradients do not vary.
KINKS = 2e-2
RATE = "multiply_adds_gflops"
HEP, COMPILED = "pelican_hep", "pelican_hep_compiled"


def evenly(low: int, high: int, events: int) -> list[int]:
    return torch.linspace(low, high, events).round().int().tolist()


def hardest(sizes: list[int]) -> Jets:
    """The n - 2 hardest constituents of sample jets, for the given multiplicities n."""
    jets, events, labels = ek.data.load_sample_jets(), [], []
    following = 0
    for n in sizes:
        while int(jets.ptr[following % len(jets) + 1] - jets.ptr[following % len(jets)]) < n - SPURIONS:
            following += 1
        first = int(jets.ptr[following % len(jets)])
        events.append(jets.p4[first : first + n - SPURIONS])
        labels.append(int(jets.label[following % len(jets)]))
        following += 1
    ptr = torch.tensor([0, *(len(event) for event in events)]).cumsum(0)
    return Jets(torch.cat(events), ptr, torch.tensor(labels))


class Sides(side_by_side.Sides):
    """Jets, or multiplicities; ``widths`` replaces some of the network's."""

    kinks = KINKS

    def __init__(self, events: list[int] | Jets, config: str = "M", **widths: Any) -> None:
        jets = events if isinstance(events, Jets) else hardest(events)
        self.p4, self.ptr, self.label = jets.p4.double(), jets.ptr, jets.label
        self.padded = published.PELICANClassifier.padded_inputs(self.p4, self.ptr)
        torch.manual_seed(0)
        network = PELICAN()
        network.widths = {**network.widths, **widths}  # type: ignore[misc]
        both = network.models(config)
        self.ours, self.published = both[OURS], both[PUBLISHED]
        ours: Any = self.ours
        # Products of zero (of two spurions) have derivative 1 in the encoder; the published formula's autograd says 0.
        torch.nn.init.normal_(ours.linear.bias, std=0.1)
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        return self.published(*self.padded) if side == PUBLISHED else self.ours(self.p4, self.ptr)

    def exact(self) -> None:
        """Converts both sides to float64, where gradients agree to rounding."""
        self.ours.double(), self.published.double()
        same("gradients in float64", self.gradient(OURS), self.gradient(PUBLISHED), 1e-8)


class HepSides(Sides):
    """The same with letter s, against pelican-hep's formulation of the same network, eager or compiled."""

    def __init__(self, sizes: list[int], compiled: bool) -> None:
        super().__init__(sizes, config="s")
        sums = {**PELICAN.widths, "config": "s", "config_out": "s"}
        self.published = pelican_hep.PackedPELICANClassifier(**sums)
        self.published.load_state_dict(self.ours.state_dict())
        network: Any = self.ours
        graph = ek.Graph.complete(self.ptr, True)
        labels = torch.eye(SPURIONS + 1)
        parts = (self.p4, network.spurions.double()), (labels[:1].expand(len(self.p4), -1), labels[1:])
        (p4, onehot), with_spurions = prepend(graph, *parts)
        assert with_spurions.ptr is not None
        self.inputs: tuple[Any, ...] = p4, onehot, pelican_hep.make_edges(with_spurions.ptr), len(sizes)
        self.call = torch.compile(self.published, dynamic=False) if compiled else self.published

    def exact(self) -> None:
        p4, onehot, *rest = self.inputs
        self.inputs = p4, onehot.double(), *rest
        super().exact()

    def logits(self, side: str) -> Tensor:
        return self.call(*self.inputs) if side == PUBLISHED else self.ours(self.p4, self.ptr)


class Layer:
    """One 2 -> 2 layer, 35 -> 60 channels, sums, LeakyReLU, in every formulation."""

    def __init__(self, sizes: list[int]) -> None:
        ptr = torch.tensor([0, *sizes]).cumsum(0)
        generator = torch.Generator().manual_seed(0)

        def leaf(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.graph = ek.Graph.complete(ptr, True)
        self.pairs, self.nodes, self.events = sum(n * n for n in sizes), sum(sizes), len(sizes)
        T = leaf(self.pairs, C)
        weights = [leaf(C, D, 15) / (15 * C) ** 0.5, leaf(D), leaf(D)]
        cotangent = leaf(self.pairs, D)
        dense, mask = ek.unpack_pairs(T, ptr)
        edges = pelican_hep.make_edges(ptr)
        self.mask = mask

        def hep(T: Tensor, *weights: Tensor) -> Tensor:
            return pelican_hep.linear_2to2(T, *weights, NBAR, edges, self.events)

        forms: dict[str, tuple[Callable[..., Tensor], Tensor, Tensor]] = {
            OURS: (self._ours, T, cotangent),
            PUBLISHED: (lambda T, *w: published.linear_2to2(T, mask, *w), dense, ek.unpack_pairs(cotangent, ptr)[0]),
            HEP: (hep, T, cotangent),
            COMPILED: (torch.compile(hep, dynamic=False), T, cotangent),
        }
        self.ptr, self.forms, self.weights = ptr, forms, weights

    def _ours(self, T: Tensor, coefs: Tensor, bias: Tensor, diag_bias: Tensor) -> Tensor:
        return ek.linear_2to2(T, self.graph, coefs, bias, diag_bias, ek.Aggregation(nbar=NBAR), activation="leaky_relu")

    def forward(self, side: str) -> Tensor:
        f, T, _ = self.forms[side]
        with torch.no_grad():
            return f(T, *self.weights)

    def gradients(self, side: str) -> tuple[Tensor, ...]:
        f, T, cotangent = self.forms[side]
        leaves = [t.detach().requires_grad_() for t in (T, *self.weights)]
        return torch.autograd.grad(f(*leaves), leaves, cotangent)

    def agree(self, side: str) -> None:
        def packed(t: Tensor) -> Tensor:
            return ek.pack_pairs(t, self.mask)[0] if t.dim() == 4 else t

        same(f"{side}: one layer", self.forward(OURS), packed(self.forward(side)), 1e-5)
        for name, a, b in zip(
            ("T", "coefs", "bias", "diag_bias"), self.gradients(OURS), self.gradients(side), strict=True
        ):
            same(f"{side}: one layer's gradient of {name}", a, packed(b), 1e-4)

    def work(self, backward: bool) -> tuple[float, float]:
        """FLOPs and bytes of the formula: products of pairs, particles and events; each large tensor once."""
        flops = 2.0 * C * D * (2 * self.pairs + 9 * self.nodes + 4 * self.events) + 2.0 * C * self.pairs
        size = 4.0 * self.pairs * (C + D)
        # backward: the same products twice; reads T, the output (for the activation), its gradient; writes T's
        return (3 * flops, size + 4.0 * self.pairs * (2 * C + 2 * D)) if backward else (flops, size)

    def row(self, what: str, side: str, backward: bool, rounds: tuple[int, int], limits: dict[str, float]) -> Entry:
        self.agree(side)
        call = self.gradients if backward else self.forward
        flops, size = self.work(backward)
        times = interleaved(lambda: call(OURS), lambda: call(side), rounds, what)
        seconds = statistics.median(times[0])
        entry = {**row(what, *times, side), "fraction_of_fma_peak": 1e-9 * flops / seconds / limits[RATE]}
        return {**entry, "fraction_of_copy_bandwidth": 1e-9 * size / seconds / limits["copy_gb_per_s"]}


def plan(setting: Setting) -> Plan:
    """On a GPU, networks only, without the single layer. ``quick``: without rows that take minutes."""
    quick, device, on_cpu = setting.quick, setting.device, setting.device == "cpu"
    small, large = evenly(27, 54, 16), evenly(64, 128, 16)
    limits = functools.cache(lambda: ceilings(setting.threads, device))
    layer = functools.cache(lambda: Layer(small))
    both = made(Sides, small, device=device)

    def check() -> None:
        Sides([5, 9, 12]).to(device).exact()
        HepSides([5, 9, 12], compiled=False).to(device).exact()
        both().agree(), both().errors()

    def of_layer(side: str, backward: bool) -> Row:
        what = f"one 2->2 layer {C} -> {D}, {'forward and backward' if backward else 'forward'}"
        rounds = (5, 5) if quick else (20, 10)
        return Row(what, lambda name: layer().row(name, side, backward, rounds, limits()), side)

    def of_hep(side: str) -> list[Row]:
        sides = made(HepSides, small, side == COMPILED, device=device)
        rows = pair(sides, f"16 events, n 27 to 54, letter s, {side}", lambda: rounds)
        return [row.with_fields(baseline=side) for row in rows]

    rounds = (3, 2) if quick else (5, 5)
    sides = [PUBLISHED, HEP] if quick else [PUBLISHED, HEP, COMPILED]
    rows = pair(both, "16 events, n 27 to 54", lambda: rounds)
    if setting.device != "cpu":
        rows.append(Row("forward, 16 events, n 27 to 54, graphed", lambda what: both().graphed(what, rounds)))
    rows += pair(made(Sides, [54], device=device), "one event of n = 54", lambda: (5, 5) if quick else (15, 15))
    rows += [of_layer(side, backward) for backward in (False, True) for side in sides if on_cpu]
    rows += [row for side in sides[1:] for row in of_hep(side)]
    steps = {"n 27 to 54": lambda: (Sides(small), Sides([8]))}
    if not quick:
        rows += pair(made(Sides, large, device=device), "16 events, n 64 to 128", lambda: (3, 2))
        steps["n 64 to 128"] = lambda: (Sides(large), Sides([8]))
    pairs = {"n 27 to 54": sum(n * n for n in small), "n 64 to 128": sum(n * n for n in large)}
    return Plan(rows, check, steps, lambda _: {"ceilings": limits(), "pairs": pairs, "quick": quick})


def made(kind: type[Sides], *arguments: Any, device: str) -> Callable[[], Any]:
    """Makes sides on first use and keeps them."""
    return functools.cache(lambda: kind(*arguments).to(device))
