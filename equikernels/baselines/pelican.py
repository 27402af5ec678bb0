"""PELICAN's equivariant layers as published (arXiv 2307.16506): padded [B, N, N, C] tensors, all aggregators stacked,
one einsum. Padding is zero; it takes part in maxima and minima."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def aggregate(values: Tensor, dims: tuple[int, ...], letter: str, nobj: Tensor, nbar: float) -> Tensor:
    """Over one or two particle indices of [B, C, N, ...]."""
    count = nobj.view(-1, *[1] * (values.dim() - len(dims) - 1))
    if letter == "s":
        return values.sum(dims) / nbar ** len(dims)
    if letter == "m":
        return values.sum(dims) / count ** len(dims)
    return values.amax(dims) - count.log() if letter == "x" else values.amin(dims) + count.log()


def maps_2to2(
    T: Tensor, nobj: Tensor, config: str = "s", nbar: float = 49.0, alphas: Sequence[Tensor] | None = None
) -> Tensor:
    """The 15 + 10 (len(config) - 1) maps of T [B, C, N, N], stacked: [B, C, maps, N, N]."""
    size = T.shape[-1]

    def everywhere(x: Tensor) -> Tensor:
        return x[:, :, None, None].expand(-1, -1, size, size)

    def rows(x: Tensor) -> Tensor:
        return x[:, :, :, None].expand(-1, -1, -1, size)

    def columns(x: Tensor) -> Tensor:
        return x[:, :, None, :].expand(-1, -1, size, -1)

    def on_diagonal(x: Tensor) -> Tensor:
        return torch.diag_embed(x)

    diagonal = T.diagonal(dim1=2, dim2=3)
    maps = [torch.stack([T, T.transpose(2, 3), on_diagonal(diagonal), columns(diagonal), rows(diagonal)], dim=2)]
    rest = iter(alphas or ())
    for letter in config:
        kind = letter.lower()
        over_rows, over_columns = aggregate(T, (3,), kind, nobj, nbar), aggregate(T, (2,), kind, nobj, nbar)
        trace, total = aggregate(diagonal, (2,), kind, nobj, nbar), aggregate(T, (2, 3), kind, nobj, nbar)
        of_letter = torch.stack(
            [
                on_diagonal(over_columns),
                columns(over_columns),
                rows(over_columns),
                on_diagonal(over_rows),
                columns(over_rows),
                rows(over_rows),
                everywhere(trace),
                on_diagonal(trace[:, :, None].expand(-1, -1, size)),
                everywhere(total),
                on_diagonal(total[:, :, None].expand(-1, -1, size)),
            ],
            dim=2,
        )
        if letter.isupper():
            alpha = next(rest).view(1, -1, 10, 1, 1)
            of_letter = of_letter * (nobj / nbar).view(-1, 1, 1, 1, 1) ** alpha
        maps.append(of_letter)
    return torch.cat(maps, dim=2)


def linear_2to2(
    T: Tensor,
    mask: Tensor,
    coefs: Tensor,
    bias: Tensor,
    diag_bias: Tensor,
    config: str = "s",
    nbar: float = 49.0,
    alphas: Sequence[Tensor] | None = None,
) -> Tensor:
    """One 2 -> 2 layer: T [B, N, N, C], mask [B, N] of real particles, coefs [C, D, maps]; [B, N, N, D]."""
    nobj = mask.sum(1).to(T.dtype)
    maps = maps_2to2(T.permute(0, 3, 1, 2), nobj, config, nbar, alphas)
    out = torch.einsum("dsb,ndbij->nijs", coefs, maps)
    size = T.shape[1]
    out = out + bias + torch.eye(size, dtype=T.dtype, device=T.device)[:, :, None] * diag_bias
    out = torch.nn.functional.leaky_relu(out, 0.01)
    pairs = mask[:, :, None] & mask[:, None, :]
    return out * pairs[..., None]
