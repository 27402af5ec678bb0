"""Particle Transformer (ParT), arXiv 2202.03772, on padded events.

features [B, F, P], momenta [B, 4, P] of (px, py, pz, E), mask bool [B, 1, P].
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-8


def pairwise(momenta: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """[B, 4, M] of pairs i, j [M]: ln kT, ln z, ln Delta, ln m^2."""
    px, py, pz, e = momenta.unbind(1)
    pt = torch.sqrt(px * px + py * py)
    rapidity = 0.5 * torch.log(1 + 2 * pz / (e - pz).clamp(min=1e-20))
    phi = torch.atan2(py, px)
    turn = torch.remainder(phi[:, i] - phi[:, j] + math.pi, 2 * math.pi) - math.pi
    delta = torch.sqrt((rapidity[:, i] - rapidity[:, j]) ** 2 + turn**2)
    least = torch.minimum(pt[:, i], pt[:, j])
    total = momenta[:, :, i] + momenta[:, :, j]
    mass2 = total[:, 3] ** 2 - (total[:, :3] ** 2).sum(1)
    share = least / (pt[:, i] + pt[:, j]).clamp(min=EPS)
    return torch.stack([least * delta, share, delta, mass2], dim=1).clamp(min=EPS).log()


class Embed(nn.Module):
    def __init__(self, n_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.input_bn = nn.BatchNorm1d(n_in)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise([n_in, *widths]):
            layers += [nn.LayerNorm(a), nn.Linear(a, b), nn.GELU()]
        self.embed = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, F, P] -> [P, B, C]."""
        out: Tensor = self.embed(self.input_bn(x).permute(2, 0, 1))
        return out


class PairEmbed(nn.Module):
    def __init__(self, widths: Sequence[int], last_activation: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm1d(4)]
        for a, b in itertools.pairwise([4, *widths]):
            layers += [nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.GELU()]
        self.embed = nn.Sequential(*layers[: None if last_activation else -1])

    def forward(self, momenta: Tensor, mask: Tensor) -> Tensor:
        """[B, heads, P, P]: each pair once, mirrored, 0 for padding."""
        batch, _, n = momenta.shape
        i, j = torch.tril_indices(n, n, device=momenta.device)
        with torch.no_grad():
            features = pairwise(momenta, i, j).to(next(self.parameters()).dtype)
        u = self.embed(features) * (mask[:, :, i] & mask[:, :, j])
        full = u.new_zeros(batch, u.shape[1], n, n)
        full[:, :, i, j] = u
        full[:, :, j, i] = u
        return full


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, query: Tensor, seen: Tensor, padding: Tensor, bias: Tensor | None) -> Tensor:
        """[P, B, C] of query [P, B, C] and keys and values seen [S, B, C]; padding [B, S] is True for padding."""

        def heads(rows: Tensor) -> Tensor:
            return rows.unflatten(2, (self.heads, -1)).permute(1, 2, 0, 3)

        w, b = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        q, k, v = (heads(F.linear(x, w[n], b[n])) for n, x in enumerate((query, seen, seen)))
        mask = torch.zeros_like(padding, dtype=q.dtype).masked_fill(padding, -math.inf)[:, None, None]
        mask = mask if bias is None else bias + mask
        out = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        projected: Tensor = self.out_proj(out.permute(2, 0, 1, 3).flatten(2))
        return projected


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.pre_attn_norm = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, dropout)
        self.post_attn_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.pre_fc_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.post_fc_norm = nn.LayerNorm(4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.c_attn = nn.Parameter(torch.ones(heads))
        self.w_resid = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, token: Tensor | None, padding: Tensor, bias: Tensor | None) -> Tensor:
        """[P, B, C], or [1, B, C] for a class token; padding [B, P] is True for padding."""
        if token is None:
            residual, seen = x, self.pre_attn_norm(x)
            x = self.attn(seen, seen, padding, bias)
        else:
            residual, seen = token, self.pre_attn_norm(torch.cat([token, x]))
            x = self.attn(token, seen, F.pad(padding, (1, 0)), None)
        x = (x.unflatten(2, (self.heads, -1)) * self.c_attn[:, None]).flatten(2)
        x = self.dropout(self.post_attn_norm(x)) + residual
        residual = x
        x = self.post_fc_norm(self.dropout(F.gelu(self.fc1(self.pre_fc_norm(x)))))
        out: Tensor = self.dropout(self.fc2(x)) + self.w_resid * residual
        return out


class ParT(nn.Module):
    """2,141,134 parameters on seven features."""

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
        self.cls_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, dim), std=0.02))
        self.embed = Embed(n_features, embed)
        self.pair_embed = PairEmbed([*pair_embed, heads], last_activation)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(n_blocks))
        self.cls_blocks = nn.ModuleList(Block(dim, heads, 0.0) for _ in range(n_class_blocks))
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Sequential(nn.Linear(dim, n_class))

    def forward(self, features: Tensor, momenta: Tensor, mask: Tensor) -> Tensor:
        """Logits [B, n_class]."""
        padding = ~mask.squeeze(1)
        x = self.embed(features).masked_fill(padding.T[..., None], 0)
        bias = self.pair_embed(momenta, mask)
        for block in self.blocks:
            x = block(x, None, padding, bias)
        token = self.cls_token.expand(1, x.shape[1], -1)
        for block in self.cls_blocks:
            token = block(x, token, padding, None)
        logits: Tensor = self.fc(self.norm(token).squeeze(0))
        return logits
