"""Measures networks against their published formulas: forward pass, training step, peak memory, other sizes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import equikernels as ek
from equikernels import published
from equikernels.data import Jets

from . import lorentznet, pelican, side_by_side, tracking
from .clock import wall
from .plan import Entry, Plan, Row, Setting, pair
from .points import PASSES, Costs, point
from .side_by_side import OURS, PUBLISHED, same
from .tracking import EDGES, EGNNSides, EuclidNetSides, EuclidNetSO3Sides, InteractionSides


def multiplicities(events: int) -> list[int]:
    return pelican.evenly(27, 54, events) if events > 1 else [54]


class PelicanSides(pelican.Sides):
    """The network of another width: channels of scalars, of messages and of edges as the repository names them."""

    def __init__(self, events: int, scalar: int, message: int, edge: int) -> None:
        sizes = {"num_channels_scalar": scalar, "num_channels_m": [[message]] * 5, "num_channels_2to2": [edge] * 5}
        sizes |= {"num_channels_out": [message], "num_channels_m_out": [message, edge]}
        super().__init__(multiplicities(events), **sizes)
        self.name = f"widths {message} and {edge}, 5 blocks"


class NanoSides(pelican.Sides):
    """Eleven parameters and BatchNorm's four."""

    name = "n 1, with BatchNorm"

    def __init__(self, events: int) -> None:
        super().__init__(multiplicities(events))
        torch.manual_seed(0)
        self.ours = ek.models.PELICANNano(1, batchnorm="b", dropout=False)
        self.published = published.PELICANNano(1)
        self.published.load_state_dict(self.ours.state_dict())


class VecNetSides(lorentznet.Sides):
    """LorentzNet with a free stream of half its width."""

    name = "h 72, 36 free, L 6"

    def __init__(self, jets: int | Jets) -> None:
        super().__init__(jets)
        self.free = self.x.sign() * self.x.abs().log1p()
        sizes: dict[str, Any] = {"n_free_input": 4, "c_weight": 5e-3}
        torch.manual_seed(0)
        self.ours, self.published = ek.models.VecNet(2, 72, 36, **sizes), published.VecNet(2, 72, 36, **sizes)
        self.published.load_state_dict(self.ours.state_dict())
        self.rows = self.graph.receiver, self.graph.sender
        count = self.ptr.diff()
        self.events = torch.repeat_interleave(torch.arange(len(count)), count), count[:, None]

    def logits(self, side: str) -> Tensor:
        model = self.model(side)
        x, scalars, free = (t.to(next(model.parameters()).dtype) for t in (self.x, self.scalars, self.free))
        if side == PUBLISHED:
            return model(x, scalars, self.rows, self.events, free)
        return model(x, scalars, self.graph, free)


class LGNSides(lorentznet.Sides):
    """The published widths, on padded events as the published network sees them."""

    name = "channels 2, 4, 4, 2"

    def __init__(self, jets: int | Jets) -> None:
        super().__init__(jets)
        self.graph = ek.Graph.complete(self.ptr, True)
        self.scalars = torch.where(self.scalars[:, 1:] > 0, 1.0, -1.0)
        self.padded = published.LGN.padded_inputs(self.x, self.scalars, self.ptr)  # type: ignore[assignment]
        torch.manual_seed(0)
        self.ours, self.published = ek.models.LGN(compat=True), published.LGN()
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        model = self.model(side)
        if side == PUBLISHED:
            return model(*self.padded)
        x = self.x.to(next(model.parameters()).dtype)
        return model(x, self.scalars, self.graph, padded_to=self.padded[0].shape[1])

    def agree(self) -> float:
        """With the published formula in float64: in float32 it is 5e-4 off, and ours computes in float64."""
        self.ours.load_state_dict(self.published.state_dict())
        exact = copy.deepcopy(self.published).double()
        with torch.inference_mode():
            expected = exact(*(t.double() if t.is_floating_point() else t for t in self.padded))  # type: ignore
        return same("logits", self.forward(OURS), expected, 1e-5)


class ParTSides(side_by_side.Sides):
    """ParT: attention and embedding of the pairs of events, against all pairs of padded events. Without dropout."""

    name = "width 128, 8 heads, 8 + 2 blocks"
    momenta = torch.float32  # of the formula; its features of pairs have their accuracy, ours that of float64

    def __init__(self, jets: int | Jets) -> None:
        sample = ek.data.load_sample_jets()[:jets] if isinstance(jets, int) else jets
        self.p4, self.ptr, self.label = sample.p4, sample.ptr, sample.label
        self.features = ek.data.kinematic_features(sample.p4, sample.ptr, standardised=True)
        padded = ek.unpack(self.features, self.ptr)[0].transpose(1, 2).contiguous()
        self.padded = padded, *ek.data.to_weaver(self.p4, self.ptr)
        torch.manual_seed(0)
        self.ours, self.published = ek.models.ParT(dropout=0.0), published.ParT(dropout=0.0)
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        dtype = next(self.model(side).parameters()).dtype
        if side == PUBLISHED:
            features, momenta, mask = self.padded
            return self.published(features.to(dtype), momenta.to(self.momenta), mask)
        return self.ours(self.features.to(dtype), self.p4, self.ptr)

    def agree(self) -> float:
        """With the formula's features of pairs in float64, as ours are."""
        self.ours.load_state_dict(self.published.state_dict())
        self.momenta = torch.float64
        difference = same("logits", self.forward(OURS), self.forward(PUBLISHED), 1e-4)
        del self.momenta
        return difference

    def errors(self) -> tuple[float, float]:
        """On jets of equally many particles: otherwise padding enters the batch norms of the published formula."""
        if self._errors is None:
            sample = ek.data.load_sample_jets()
            cut = sample[sample.ptr.diff() >= 20][:8]
            rows = (cut.ptr[:-1, None] + torch.arange(20)).flatten()
            equal = ParTSides(Jets(cut.p4[rows], torch.arange(9) * 20, cut.label)).to(self.device)
            equal.momenta = torch.float64
            equal.ours.double(), equal.published.double()
            same("gradients in float64", equal.gradient(OURS), equal.gradient(PUBLISHED), 1e-8)
            equal.ours.float(), equal.published.float()
            self._errors = side_by_side.Sides.errors(equal)
        return self._errors


class Size(NamedTuple):
    """Size of an input: its name in the results, its edges or pairs (about), and the arguments of the sides."""

    name: str
    work: int
    arguments: tuple[int, ...]


def edges(count: int) -> Size:
    return Size(f"{count:,} edges", count, (count,))


def graphs(count: int) -> Size:
    return Size(f"{tracking.hit_edges(count):,} edges", tracking.hit_edges(count), (count,))


def wider(count: int, hidden: int) -> Size:
    name, work, arguments = graphs(count)
    return Size(f"{name}, H {hidden}", work * hidden // 8, (*arguments, hidden))


def jets(count: int) -> Size:
    return Size(f"{count} jet{'s'[: count - 1]}", 2800 * count, (count,))


def events(count: int) -> Size:
    return Size(f"{count} events, n 27 to 54" if count > 1 else "one event of n = 54", 1700 * count, (count,))


class Network(NamedTuple):
    """The sides of a size; the size of the tables, a smaller one for a quick run, and others in growing order, of which
    a quick run measures the first."""

    sides: Callable[..., Any]
    main: Size
    quick: Size
    others: tuple[Size, ...] = ()


HITS = (graphs(1), wider(1, 16), wider(1, 32), wider(20, 16), wider(20, 32))
BATCHES = (1, 16, 1024)
NETWORKS = {
    "egnn": Network(EGNNSides, edges(EDGES), edges(10_000), (edges(4_000), edges(20_000))),
    "euclidnet": Network(EuclidNetSides, graphs(20), graphs(5), HITS),
    "euclidnet_so3": Network(EuclidNetSO3Sides, graphs(20), graphs(5), (graphs(1),)),
    "interaction_network": Network(InteractionSides, graphs(20), graphs(5), (graphs(1),)),
    "vecnet": Network(VecNetSides, jets(100), jets(20), tuple(map(jets, BATCHES))),
    "lgn": Network(LGNSides, jets(20), jets(5), tuple(map(jets, (1, 5)))),
    "part": Network(ParTSides, jets(100), jets(20), (jets(1), jets(16))),
    "pelican_nano": Network(NanoSides, events(100), events(16), tuple(map(events, BATCHES))),
    "pelican_11k": Network(lambda count: PelicanSides(count, 10, 25, 15), events(16), events(4)),
    "pelican_208k": Network(lambda count: PelicanSides(count, 10, 132, 78), events(16), events(4)),
}


def plan(name: str, setting: Setting) -> Plan:
    network = NETWORKS[name]
    main = network.quick if setting.quick else network.main

    def made(size: Size) -> Any:
        return network.sides(*size.arguments).to(setting.device).prepared()

    both, other = functools.cache(lambda: made(main)), functools.lru_cache(maxsize=1)(made)

    @functools.cache
    def rounds() -> tuple[int, int]:
        return (3, 3) if setting.quick else (3, max(4, min(10, int(20 / wall(lambda: both().step(PUBLISHED))))))

    def check() -> None:
        both().agree(), both().errors()

    def about(rows: list[Entry]) -> Entry:
        return {"model": both().name, "parameters": sum(p.numel() for p in both().ours.parameters())}

    rows = pair(both, main.name, rounds)
    if setting.device != "cpu":
        rows.append(Row(f"forward, {main.name}, graphed", lambda what: both().graphed(what, rounds())))
    costs = Costs(lambda: other(network.quick), network.quick.work)
    for size in network.others[:1] if setting.quick else network.others:
        for what in PASSES:
            measure = point(functools.partial(other, size), what, size.work, costs)
            rows.append(Row(f"{what}, {size.name}", measure))
    return Plan(rows, check, {"": lambda: (made(main), made(network.quick))}, about)
