"""Networks by name: how a batch becomes their arguments, for our networks and for the published formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import models, published
from ..checks import fail
from ..data import HitGraph, top_tagging_scalars, with_beams
from ..graph import Graph
from ..ops.segment import segment_reduce

Options = Mapping[str, Any]


class JetBatch(NamedTuple):
    """Jets as one batch; the fields of :class:`equikernels.data.Jets`. (Lightning converts tuples, no dataclasses.)"""

    p4: Tensor
    ptr: Tensor
    label: Tensor


class Hits(NamedTuple):
    """Hit graphs as one batch; the fields of :class:`equikernels.data.HitGraph`."""

    x: Tensor
    graph: Graph
    edge_attr: Tensor
    y: Tensor

    @classmethod
    def of(cls, events: list[HitGraph]) -> Hits:
        x, edge_attr, y = (torch.cat([getattr(event, name) for event in events]) for name in ("x", "edge_attr", "y"))
        return cls(x, Graph.batch([event.graph for event in events]), edge_attr, y)

    def to(self, device: Any, **_: Any) -> Hits:
        return Hits(self.x.to(device), self.graph.to(device), self.edge_attr.to(device), self.y.to(device))


class Task:
    """A network on events: two logits for each, or what :meth:`loss` and :meth:`score` take.

    Attributes:
        data: "jets" or "hits".
        formulas: whether there is a published formula beside our network.
    """

    data: ClassVar[str] = "jets"
    formulas: ClassVar[bool] = True

    def build(self, options: Options, formula: bool) -> nn.Module:
        raise NotImplementedError

    def arguments(self, batch: Any, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        """Of the network's forward, weights being of ``dtype``."""
        raise NotImplementedError

    def label(self, batch: Any) -> Tensor:
        return batch.label.long()

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits, label)

    def score(self, logits: Tensor) -> Tensor:
        """The probability of signal."""
        return logits.softmax(1)[:, 1]


class LorentzNet(Task):
    """LorentzNet with beams and masses (arXiv 2201.08187)."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        if not formula:
            return models.LorentzNet(2, **options)
        if options.get("readout", "masked_mean") != "padded_mean":
            fail("config", "options.readout", "padded_mean, as the published formula has it", "another")
        return published.LorentzNet(2, **{k: v for k, v in options.items() if k != "readout"})

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        x, scalars, ptr = self._inputs(batch, dtype)
        if formula:
            return published.LorentzNet.padded_inputs(x, scalars, ptr)
        return x, scalars, Graph.complete(ptr, num_nodes=x.shape[0], validate=False)

    def _inputs(self, batch: JetBatch, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        x, ptr, is_beam = with_beams(batch.p4, batch.ptr, validate=False)
        return x.to(dtype), top_tagging_scalars(x, is_beam).to(dtype), ptr


class VecNet(LorentzNet):
    """VecNet (arXiv 2202.06941) on the inputs of LorentzNet; free features are sign(p) log(1 + |p|)."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        return (published.VecNet if formula else models.VecNet)(2, n_free_input=4, **options)

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        x, scalars, ptr = self._inputs(batch, dtype)
        graph, free = Graph.complete(ptr, num_nodes=x.shape[0], validate=False), x.sign() * x.abs().log1p()
        if not formula:
            return x, scalars, graph, free
        event = graph.events.receiver
        return x, scalars, (graph.receiver, graph.sender), (event, ptr.diff()[:, None]), free


class PELICAN(Task):
    """PELICAN (arXiv 2307.16506); four-momenta are float64 whatever the weights."""

    ours_alone: ClassVar[tuple[str, ...]] = (
        "method", "compat", "factorize", "batchnorm", "dropout", "drop_rate", "drop_rate_out",
    )  # fmt: skip

    def build(self, options: Options, formula: bool) -> nn.Module:
        if not formula:
            return models.PELICANClassifier(**options)
        if options.get("dropout") and (options.get("drop_rate") or options.get("drop_rate_out")):
            fail("config", "options.drop_rate", "0 with the published formula, which has no dropout here", "more")
        rest = {k: v for k, v in options.items() if k not in self.ours_alone}
        return published.PELICANClassifier(**rest)

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        p4 = batch.p4.double()
        if formula:
            return published.PELICANClassifier.padded_inputs(p4, batch.ptr)
        return p4, Graph.complete(batch.ptr, True, num_nodes=p4.shape[0], validate=False)


class EGNN(LorentzNet):
    """EGNN (arXiv 2102.09844) under the Euclidean metric on (px, py, pz) / 100 GeV, the energy among the features; the
    mean over a jet, and two layers."""

    formulas: ClassVar[bool] = False

    def build(self, options: Options, formula: bool) -> nn.Module:
        return EGNNTagger(**options)

    def arguments(self, batch: JetBatch, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        graph = Graph.complete(batch.ptr, num_nodes=batch.p4.shape[0], validate=False)
        p4 = batch.p4.to(dtype)
        return p4[:, :1].log1p(), p4[:, 1:] / 100, graph


class EGNNTagger(nn.Module):
    """EGNN with a readout for events."""

    def __init__(self, hidden_nf: int = 32, **options: Any) -> None:
        super().__init__()
        self.network = models.EGNN(1, hidden_nf, hidden_nf, **options)
        self.readout = nn.Sequential(nn.Linear(hidden_nf, hidden_nf), nn.SiLU(), nn.Linear(hidden_nf, 2))

    def forward(self, h: Tensor, x: Tensor, graph: Graph) -> Tensor:
        """Logits [n_events, 2]."""
        out: Tensor = self.readout(segment_reduce(self.network(h, x, graph)[0], graph.events, "mean"))
        return out


class OfEdges(Task):
    """A network on hit graphs with a probability for each edge; the mean loss over edges."""

    data: ClassVar[str] = "hits"

    def label(self, batch: Hits) -> Tensor:
        return batch.y.long()

    def loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.binary_cross_entropy(logits.flatten(), label.to(logits.dtype))

    def score(self, logits: Tensor) -> Tensor:
        return logits.flatten()


class EuclidNet(OfEdges):
    """EuclidNet, the SO(2) network (arXiv 2304.05293), on (x, y, z) in metres."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        return (published.EuclidNetSO2 if formula else models.EuclidNet)(**options)

    def arguments(self, batch: Hits, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        r, phi, z = (batch.x * batch.x.new_tensor([1.0, torch.pi, 1.0])).unbind(1)
        x = torch.stack([r * phi.cos(), r * phi.sin(), z], dim=1).to(dtype)
        return x, (batch.graph.receiver, batch.graph.sender) if formula else batch.graph


class InteractionNetwork(OfEdges):
    """The Interaction Network (arXiv 2103.16701)."""

    def build(self, options: Options, formula: bool) -> nn.Module:
        return (published.InteractionNetwork if formula else models.InteractionNetwork)(**options)

    def arguments(self, batch: Hits, dtype: torch.dtype, formula: bool) -> tuple[Any, ...]:
        edges = torch.stack([batch.graph.sender, batch.graph.receiver]) if formula else batch.graph
        return batch.x.to(dtype), edges, batch.edge_attr.to(dtype)


TASKS: dict[str, Task] = {
    "LorentzNet": LorentzNet(),
    "PELICAN": PELICAN(),
    "VecNet": VecNet(),
    "EGNN": EGNN(),
    "EuclidNet": EuclidNet(),
    "InteractionNetwork": InteractionNetwork(),
}


def build(network: str, options: Options, backend: str) -> nn.Module:
    """A network with fresh weights.

    Raises:
        ValueError: no published formula of it.
        TypeError: an option that it has not.
    """
    task = TASKS[network]
    if backend == "published" and not task.formulas:
        fail("config", "backend", f"equikernels or reference: {network} has no published formula here", backend)
    try:
        return task.build(options, backend == "published")
    except TypeError as error:
        fail("config", "options", f"options of {network}", error, TypeError)
