"""PELICAN against the published formula and pelican-hep's, in eager PyTorch and compiled; writes JSON and prints it.

python -m bench.pelican --out bench/results/pelican.json    (--quick: without what takes minutes)

The 48k network of arXiv 2307.16506 (48,482 parameters: so2, spurions, letter M), four-momenta in float64 for all sides,
the rest in float32. Multiplicities n are evenly spaced and count the two spurions; padding goes to the largest.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels import _native
from equikernels.baselines import pelican as published
from equikernels.data import Jets
from equikernels.demo import PELICAN
from equikernels.packing import prepend

from . import memory, side_by_side
from .baselines import pelican_hep
from .ceilings import ceilings
from .machine import machine
from .side_by_side import OURS, PUBLISHED, interleaved, row, same

SPURIONS = 2
C, D, NBAR = 35, 60, 49.0  # of one layer
# A pre-activation within a rounding of zero may fall on either side of the leaky ReLU, and moves float32 gradients by
# as much, on either side: ours go from 1e-4 off to 1e-2 and back as weights are nudged by 1e-7. Not so in float64.
KINKS = 2e-2
HEP, COMPILED = "pelican_hep", "pelican_hep_compiled"


def evenly(low: int, high: int, events: int) -> list[int]:
    return torch.linspace(low, high, events).round().int().tolist()


def hardest(sizes: list[int]) -> Jets:
    """Sample jets of n - 2 constituents, their hardest, for the multiplicities n asked for."""
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
        """Both sides to float64, where gradients agree to rounding or not at all."""
        self.ours.double(), self.published.double()
        same("gradients in float64", self.gradient(OURS), self.gradient(PUBLISHED), 1e-8)

    def rows(self, name: str, rounds: tuple[int, int]) -> list[dict[str, Any]]:
        """Forward and training step. Logits are held against the baseline's, gradients against float64's, which the
        baselines' own miss by a per cent (:meth:`exact` compares both sides in float64)."""
        logits, (gradient, theirs) = self.agree(), self.gradient_errors()
        forward = self.time(f"forward, {name}", self.forward, rounds)
        if theirs > 0.1:  # the compiled baseline's gradients are wrong: its time says nothing
            return [{**forward, "difference": logits}]
        step = self.time(f"training step, {name}", self.step, rounds)
        step |= {"gradient_error": gradient, "published_gradient_error": theirs}
        return [{**forward, "difference": logits}, step]


class HepSides(Sides):
    """The same with letter s, against pelican-hep's formulation of the same network, eager or compiled."""

    def __init__(self, sizes: list[int], compiled: bool) -> None:
        super().__init__(sizes, config="s")
        sums = {**PELICAN.widths, "config": "s", "config_out": "s"}
        self.published = pelican_hep.Classifier(**sums)
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
            return pelican_hep.linear_2to2(T, *weights, NBAR, edges, self.nodes, self.events)

        forms: dict[str, tuple[Callable[..., Tensor], Tensor, Tensor]] = {
            OURS: (self._ours, T, cotangent),
            PUBLISHED: (lambda T, *w: published.linear_2to2(T, mask, *w), dense, ek.unpack_pairs(cotangent, ptr)[0]),
            HEP: (hep, T, cotangent),
            COMPILED: (torch.compile(hep, dynamic=False), T, cotangent),
        }
        self.ptr, self.forms, self.weights = ptr, forms, weights

    def _ours(self, T: Tensor, coefs: Tensor, bias: Tensor, diag_bias: Tensor) -> Tensor:
        return ek.linear_2to2(T, self.graph, coefs, bias, diag_bias, nbar=NBAR, activation="leaky_relu")

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
        """FLOPs and bytes of the formula: products of pairs, particles and events; each large tensor passes once."""
        flops = 2.0 * C * D * (2 * self.pairs + 9 * self.nodes + 4 * self.events) + 2.0 * C * self.pairs
        size = 4.0 * self.pairs * (C + D)
        # backward: the same products twice; T, the output (for the activation) and its gradient come in, T's goes out
        return (3 * flops, size + 4.0 * self.pairs * (2 * C + 2 * D)) if backward else (flops, size)

    def rows(self, sides: list[str], rounds: tuple[int, int], limits: dict[str, float]) -> list[dict[str, Any]]:
        found = []
        for name, call in (("forward", self.forward), ("forward and backward", self.gradients)):
            flops, size = self.work(call == self.gradients)
            for side in sides:
                what = f"one 2->2 layer {C} -> {D}, {name}"
                times = interleaved(lambda: call(OURS), lambda: call(side), rounds, what)  # noqa: B023
                entry = row(what, *times, side)
                seconds = statistics.median(times[0])
                entry |= {"fraction_of_fma_peak": 1e-9 * flops / seconds / limits["multiply_adds_gflops"]}
                entry |= {"fraction_of_copy_bandwidth": 1e-9 * size / seconds / limits["copy_gb_per_s"]}
                found.append(entry)
        return found


def measure(threads: int, quick: bool, device: str = "cpu") -> dict[str, Any]:
    """On a GPU, networks only: not one layer alone."""
    torch.set_num_threads(threads)
    assert _native.host is not None, _native.cpu_reason
    Sides([5, 9, 12]).to(device).exact()
    HepSides([5, 9, 12], compiled=False).to(device).exact()
    limits = ceilings(threads, device)
    rounds = (3, 2) if quick else (5, 5)
    small, large = evenly(27, 54, 16), evenly(64, 128, 16)
    both = Sides(small).to(device)
    rows = both.rows("16 events, n 27 to 54", rounds)
    rows += Sides([54]).to(device).rows("one event of n = 54", (5, 5) if quick else (15, 15))
    sides = [PUBLISHED, HEP] if quick else [PUBLISHED, HEP, COMPILED]
    if device == "cpu":
        layer = Layer(small)
        for side in sides:
            layer.agree(side)
        rows += layer.rows(sides, (5, 5) if quick else (20, 10), limits)
    for side in sides[1:]:
        hep = HepSides(small, side == COMPILED).to(device)
        rows += [{**r, "baseline": side} for r in hep.rows(f"16 events, n 27 to 54, letter s, {side}", rounds)]
    mib = peaks(54, threads) if device == "cpu" else memory.on_device(both.step)
    if not quick:
        rows += Sides(large).to(device).rows("16 events, n 64 to 128", (3, 2))
        mib += peaks(128, threads) if device == "cpu" else []
    return {
        **machine("pelican", threads, device),
        "ceilings": limits,
        "pairs": {"n 27 to 54": sum(n * n for n in small), "n 64 to 128": sum(n * n for n in large)},
        "quick": quick,
        "rows": rows,
        memory.KEY: mib,
    }


def peaks(largest: int, threads: int) -> list[dict[str, Any]]:
    arguments = ["--threads", str(threads), "--largest", str(largest)]
    return memory.peaks(f"{__package__}.pelican", arguments, f"n {largest // 2} to {largest}, ")


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--largest", type=int, default=54, help="of a child's events")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        sides, one = Sides(evenly(options.largest // 2, options.largest, 16)), Sides([8])
        memory.print_peaks(lambda: sides.step(options.child), lambda: one.step(options.child))
    else:
        side_by_side.write(measure(options.threads, options.quick, options.device), options.out)


if __name__ == "__main__":
    main()
