"""ParticleNet, arXiv 1902.08570, on packed events."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import fail
from ..equal_sizes import equal_sizes
from ..export import refuse_export
from ..graph import Graph
from ..metric import MAX_DIM
from ..nn.folded import folded
from ..ops.message_passing import EdgeMLP, message_passing
from ..ops.neighbors import knn_graph
from ..ops.segment import segment_reduce
from .inputs import cast_features, complete_graph


class EdgeConv(nn.Module):
    r"""Messages from the k nearest, their mean, and a shortcut.

    .. math:: x_i' = \mathrm{ReLU}(S x_i + \mathrm{mean}_{j} \, \phi(x_i, x_j - x_i))

    phi has three linear layers without bias, each with a batch norm over the edges and a ReLU; S is a linear layer and
    a batch norm over the particles, or the identity where widths are equal. The first layer is evaluated as a sum of a
    term of x_i and a term of x_j. In evaluation norms are part of the weights, and nothing is kept per edge.
    """

    def __init__(self, n_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        pairs = list(itertools.pairwise([2 * n_in, *widths]))
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 1, bias=False) for a, b in pairs)
        self.bns = nn.ModuleList(nn.BatchNorm1d(b) for _, b in pairs)
        self.sc = nn.Conv1d(n_in, widths[-1], 1, bias=False) if n_in != widths[-1] else nn.Identity()
        self.sc_bn = nn.BatchNorm1d(widths[-1]) if n_in != widths[-1] else nn.Identity()

    def forward(self, x: Tensor, graph: Graph) -> Tensor:
        """[n, C'] of features x [n, C] and edges from the neighbours."""
        first, *weights = (conv.get_parameter("weight").flatten(1) for conv in self.convs)
        own, difference = first.chunk(2, dim=1)
        if self.training:
            rows = F.linear(x, own - difference)[graph.receiver] + F.linear(x, difference)[graph.sender]
            rows = self.bns[0](rows).relu()
            for weight, norm in zip(weights, self.bns[1:], strict=True):
                rows = norm(F.linear(rows, weight)).relu()
            message = segment_reduce(rows, graph, "mean")
        else:
            weights = [torch.cat([own - difference, difference], dim=1), *weights]
            layers = tuple(folded(w, None, norm, "relu") for w, norm in zip(weights, self.bns, strict=True))
            mlp = EdgeMLP(layers, len(layers), order=("receiver", "sender"))
            message = message_passing(mlp, graph, h=x, messages="mean").messages  # type: ignore[assignment]
        if isinstance(self.sc, nn.Conv1d):
            x = self.sc_bn(F.linear(x, self.sc.weight.flatten(1)))
        return (x + message).relu()


class ParticleNet(nn.Module):
    """Classifies jets by graph convolutions between neighbours, first in (Delta eta, Delta phi), then in features.

    366,160 parameters. ParticleNet-Lite, with 26,416, is
    ``ParticleNet(k=7, widths=((32,) * 3, (64,) * 3), n_hidden=128)``. State-dict keys are the released ones.

    The released network reads padded events, and differs in three things:

    - a particle of an event with fewer than k + 1 has its n - 1 others as neighbours; the released one also has padding
      as neighbours there, with features 0;
    - in training, batch norms count particles and edges of events; the released ones also count padding;
    - a particle is never its own neighbour; the released one drops the nearest, which is another one of equal position
      or itself.

    In evaluation, events of more than k particles have the released results.

    Args:
        n_features: columns of the features; the last two are the position of the first block.
        k: neighbours.
        widths: of the three layers of each block.
        n_hidden: of the readout.
        n_class: number of logits.
        dropout: in the readout.
    """

    def __init__(
        self,
        n_features: int = 7,
        k: int = 16,
        widths: Sequence[Sequence[int]] = ((64,) * 3, (128,) * 3, (256,) * 3),
        n_hidden: int = 256,
        n_class: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if n_features < 2:
            fail("ParticleNet", "n_features", "at least 2, a position", n_features)
        self.n_features, self.k = n_features, k
        self.bn_fts = nn.BatchNorm1d(n_features)
        inputs = [n_features, *(block[-1] for block in widths)]
        self.edge_convs = nn.ModuleList(EdgeConv(a, block) for a, block in zip(inputs[:-1], widths, strict=True))
        hidden = nn.Sequential(nn.Linear(inputs[-1], n_hidden), nn.ReLU(), nn.Dropout(dropout))
        self.fc = nn.Sequential(hidden, nn.Linear(n_hidden, n_class))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], *, k: int = 16, dropout: float = 0.1) -> ParticleNet:
        """A network of the widths of ``state``, not yet filled; the state does not contain k."""
        blocks: dict[str, list[int]] = {}
        for key, value in state.items():
            if ".convs." in key:
                blocks.setdefault(key.split(".")[1], []).append(value.shape[0])
        n_class, n_hidden = state["fc.1.weight"].shape
        return cls(len(state["bn_fts.weight"]), k, list(blocks.values()), n_hidden, n_class, dropout)

    def forward(self, features: Tensor, ptr: Tensor | Graph) -> Tensor:
        """Logits of each event.

        Args:
            features: [n, n_features], any floating dtype, such as :func:`equikernels.data.kinematic_features`, whose
                last columns are (Delta eta, Delta phi).
            ptr: int64 [n_events + 1], or the complete graph made from it.

        Returns:
            [n_events, n_class].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        refuse_export("ParticleNet")
        op, n = "ParticleNet", features.shape[0] if isinstance(features, Tensor) else 0
        features = cast_features(op, "features", features, n, self.n_features, self.fc[1].get_parameter("weight"))
        events = complete_graph(op, ptr, n)
        x, points = self.bn_fts(features), features[:, -2:]
        for block in self.edge_convs:
            x = block(x, nearest_graph(points, self.k, events))
            points = x
        out: Tensor = self.fc(segment_reduce(x, events.events, "mean"))
        return out


def nearest_graph(points: Tensor, k: int, events: Graph) -> Graph:
    """Edges from the k nearest to every point, itself left out, n - 1 in an event of n <= k; for any dimension.

    :func:`equikernels.knn_graph` up to eight dimensions; more are searched by the distances of all pairs of an event.
    """
    ptr = events._ptr
    if points.shape[1] <= MAX_DIM:
        return knn_graph(points, k, ptr)
    points = points.detach()
    counts = ptr.diff().clamp(max=k + 1).sub(1).clamp(min=0)
    rowptr = F.pad(torch.repeat_interleave(counts, ptr.diff()).cumsum(0), (1, 0))
    col = ptr.new_empty(int(rowptr[-1]))
    for size, _, rows in equal_sizes(ptr):
        if size < 2:
            continue
        x, width = points[rows], min(k, size - 1)
        square = x.square().sum(2)
        distance = square[:, :, None] + square[:, None] - 2 * x @ x.transpose(1, 2)
        distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        near = distance.topk(width, largest=False).indices  # [b, size, width]
        slots = rowptr[rows][:, :, None] + torch.arange(width, device=col.device)
        col[slots] = rows.gather(1, near.flatten(1)).view_as(near)
    return Graph.from_csr(rowptr, col, validate=False)
