"""Particle Transformer (ParT), arXiv 2202.03772, on packed events."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import REAL, check_tensor, fail
from ..data.kinematics import cylindrical, wrapped
from ..data.order import warn_of_order
from ..equal_sizes import equal_sizes
from ..export import refuse_export
from ..graph import Graph
from ..nn.folded import affine, folded
from ..ops.message_passing import EdgeMLP, row_mlp
from .inputs import cast_features, complete_graph

LEAST = 1e-8  # the least argument of the pair features' logarithms


def pair_features(p4: Tensor, i: Tensor, j: Tensor) -> Tensor:
    r"""The features of pairs of particles that ParT reads.

    .. math:: \ln(\min(p_{T,i}, p_{T,j}) \Delta), \quad \ln\frac{\min(p_{T,i}, p_{T,j})}{p_{T,i} + p_{T,j}}, \quad
              \ln\Delta, \quad \ln m_{ij}^2

    with Delta the distance in rapidity and azimuth; no logarithm is of less than 1e-8.

    Args:
        p4: [n, 4] (E, px, py, pz) in GeV.
        i, j: int64 [m], the rows of both particles.

    Returns:
        float64 [m, 4].
    """
    p, wide = cylindrical(p4), p4.double()
    y, phi = p.rapidity[i] - p.rapidity[j], wrapped(p.phi[i] - p.phi[j])
    delta = torch.stack([y, phi], dim=1).norm(dim=1)
    a, b = p.pt[i], p.pt[j]
    least = torch.minimum(a, b)
    total = wide[i] + wide[j]
    mass2 = total[:, 0].square() - total[:, 1:].square().sum(1)
    return torch.stack([least * delta, least / (a + b), delta, mass2], dim=1).clamp(min=LEAST).log()


class Embed(nn.Module):
    """A batch norm over particles, then layer norms, linear layers and GELUs."""

    def __init__(self, n_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.input_bn = nn.BatchNorm1d(n_in)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise([n_in, *widths]):
            layers += [nn.LayerNorm(a), nn.Linear(a, b), nn.GELU()]
        self.embed = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.embed(self.input_bn(x))
        return out


class PairEmbed(nn.Module):
    """A number for each pair of particles and each head, added to the logits of attention.

    In evaluation batch norms are part of the weights, and layers keep nothing but their result.
    """

    def __init__(self, widths: Sequence[int], last_activation: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm1d(4)]
        for a, b in itertools.pairwise([4, *widths]):
            layers += [nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.GELU()]
        self.embed = nn.Sequential(*layers[: None if last_activation else -1])

    def forward(self, features: Tensor) -> Tensor:
        """[m, heads] of pair features [m, 4]."""
        first: Any = self.embed[0]
        rows, layers = first(features) if self.training else features, []
        for k in range(1, len(self.embed), 3):
            conv, norm = self.embed[k], self.embed[k + 1]
            weight: Tensor = conv.get_parameter("weight").flatten(1)
            bias: Tensor = conv.get_parameter("bias")
            gelu = k + 2 < len(self.embed)
            if self.training:
                rows = norm(F.linear(rows, weight, bias))
                rows = F.gelu(rows) if gelu else rows
                continue
            if k == 1:
                scale, shift = affine(first)
                weight, bias = weight * scale, bias + weight @ shift
            layers.append(folded(weight, bias, norm, "gelu" if gelu else "identity"))
        return rows if self.training else row_mlp(EdgeMLP(tuple(layers), len(layers)), rows)


class Attention(nn.Module):
    """The two linear layers of attention: queries, keys and values; and what becomes of the sums."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)


class Block(nn.Module):
    """Attention between the particles of an event, or of its class token to them, and a network on each row."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.width, self.dropout = heads, dim // heads, dropout
        self.pre_attn_norm = nn.LayerNorm(dim)
        self.attn = Attention(dim)
        self.post_attn_norm = nn.LayerNorm(dim)
        self.pre_fc_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.post_fc_norm = nn.LayerNorm(4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.c_attn = nn.Parameter(torch.ones(heads))
        self.w_resid = nn.Parameter(torch.ones(dim))

    def particles(self, x: Tensor, sizes: Sequence[tuple[int, int]], bias: Sequence[Tensor]) -> Tensor:
        """x' [n, dim] of particles [n, dim], sorted by the sizes of their events.

        Args:
            sizes: (events, particles of each) for every group of events of one size.
            bias: [events, heads, size, size] for every group.
        """
        qkv = self.attn.in_proj(self.pre_attn_norm(x))
        out, first = [], 0
        for (events, size), u in zip(sizes, bias, strict=True):
            part = qkv[first : first + events * size].view(events, size, 3, self.heads, self.width)
            q, k, v = part.permute(2, 0, 3, 1, 4).unbind(0)
            out.append(self._attention(q, k, v, u).flatten(0, 1))
            first += events * size
        return self._rest(torch.cat(out) if out else x, x)

    def token(self, token: Tensor, x: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """token' [B, dim] of the class token of every event [B, dim], which looks at itself and the particles."""
        dim = x.shape[1]
        weight, offset = self.attn.in_proj.weight, self.attn.in_proj.bias
        q = F.linear(token, weight[:dim], offset[:dim])
        own, others = (F.linear(self.pre_attn_norm(t), weight[dim:], offset[dim:]) for t in (token, x))
        out, event, first = [], 0, 0
        for events, size in sizes:
            seen = others[first : first + events * size].view(events, size, 2 * dim)
            seen = torch.cat([own[event : event + events, None], seen], dim=1)
            k, v = seen.view(events, size + 1, 2, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
            query = q[event : event + events].view(events, self.heads, 1, self.width)
            out.append(self._attention(query, k, v, None).squeeze(1))
            event, first = event + events, first + events * size
        return self._rest(torch.cat(out) if out else token, token)

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """[b, n, dim] of q, k, v [b, heads, n, dim / heads]."""
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, bias, dropout).transpose(1, 2).flatten(2)

    def _rest(self, x: Tensor, residual: Tensor) -> Tensor:
        """What follows attention on each row."""
        x = (self.attn.out_proj(x).unflatten(1, (self.heads, self.width)) * self.c_attn[:, None]).flatten(1)
        x = residual + F.dropout(self.post_attn_norm(x), self.dropout, self.training)
        residual = x
        x = F.dropout(F.gelu(self.fc1(self.pre_fc_norm(x))), self.dropout, self.training)
        x = F.dropout(self.fc2(self.post_fc_norm(x)), self.dropout, self.training)
        return x + self.w_resid * residual


class ParT(nn.Module):
    """Classifies jets by attention between particles, with a bias for each pair of them.

    2,141,134 parameters on seven features. State-dict keys are the released ones. Pairs are those of events, each once,
    and attention runs on all events of one size at a time: no work and no memory is spent on padding. In training batch
    norms count particles and pairs of events; the released ones also count padding.

    Args:
        n_features: columns of the features.
        n_class: number of logits.
        embed: widths of the particles' embedding; the last one is the width of the network.
        pair_embed: widths of the pairs' embedding, before the number of heads.
        heads: of attention.
        n_blocks: of particles.
        n_class_blocks: of the class token.
        dropout: in the blocks of particles.
        last_activation: whether the pairs' embedding ends in a GELU, as in the published configurations.
    """

    def __init__(
        self,
        n_features: int = 7,
        n_class: int = 2,
        embed: Sequence[int] = (128, 512, 128),
        pair_embed: Sequence[int] = (64, 64, 64),
        heads: int = 8,
        n_blocks: int = 8,
        n_class_blocks: int = 2,
        dropout: float = 0.1,
        last_activation: bool = True,
    ) -> None:
        super().__init__()
        dim = embed[-1]
        if dim % heads != 0:
            fail("ParT", "heads", f"a divisor of the width {dim}", heads)
        self.n_features, self.dim = n_features, dim
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        self.embed = Embed(n_features, embed)
        self.pair_embed = PairEmbed([*pair_embed, heads], last_activation)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(n_blocks))
        self.cls_blocks = nn.ModuleList(Block(dim, heads, 0.0) for _ in range(n_class_blocks))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Sequential(nn.Linear(dim, n_class))

    def forward(self, features: Tensor, p4: Tensor, ptr: Tensor | Graph) -> Tensor:
        """Logits of each event.

        Args:
            features: [n, n_features], any floating dtype, such as :func:`equikernels.data.kinematic_features` with
                ``standardised=True``.
            p4: [n, 4] four-momenta (E, px, py, pz) in GeV, float32 or float64, of which pair features are made in
                float64.
            ptr: int64 [n_events + 1], or the complete graph made from it.

        Returns:
            [n_events, n_class].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        refuse_export("ParT")
        op = "ParT"
        check_tensor(op, "p4", p4, ["n", 4], REAL)
        warn_of_order(op, "p4", p4)
        features = cast_features(op, "features", features, p4.shape[0], self.n_features, self.norm.weight)
        ptr = complete_graph(op, ptr, p4.shape[0])._ptr
        groups = equal_sizes(ptr)
        sizes = [(len(group.events), group.size) for group in groups]
        order = torch.cat([group.rows.flatten() for group in groups]) if groups else ptr[:0]
        x = self.embed(features[order])
        bias = self._bias(p4[order], sizes, x.dtype)
        for block in self.blocks:
            assert isinstance(block, Block)
            x = block.particles(x, sizes, bias)
        token = self.cls_token.view(1, self.dim).expand(ptr.shape[0] - 1, self.dim)
        for block in self.cls_blocks:
            assert isinstance(block, Block)
            token = block.token(token, x, sizes)
        events = torch.cat([group.events for group in groups]) if groups else ptr[:0]
        logits: Tensor = self.fc(self.norm(token))
        return logits[events.argsort()]

    def _bias(self, p4: Tensor, sizes: Sequence[tuple[int, int]], dtype: torch.dtype) -> list[Tensor]:
        """[events, heads, size, size] for every group, of each pair once: the features are symmetric."""
        ends, mirrored, first = [], [], 0
        for events, size in sizes:
            i, j = torch.tril_indices(size, size, device=p4.device)
            start = first + size * torch.arange(events, device=p4.device)
            ends.append(torch.stack([(start[:, None] + i).flatten(), (start[:, None] + j).flatten()]))
            row = torch.arange(size, device=p4.device)
            low, high = torch.minimum(row[:, None], row), torch.maximum(row[:, None], row)
            mirrored.append(high * (high + 1) // 2 + low)
            first += events * size
        pairs = torch.cat(ends, dim=1) if ends else p4.new_empty(2, 0, dtype=torch.int64)
        u = self.pair_embed(pair_features(p4, pairs[0], pairs[1]).to(dtype))
        parts = u.split([end.shape[1] for end in ends])
        return [
            part.view(events, len(part) // events, u.shape[1])[:, place].permute(0, 3, 1, 2)
            for (events, _), part, place in zip(sizes, parts, mirrored, strict=True)
        ]
