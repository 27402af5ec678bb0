"""k nearest neighbours: jets against torch.cdist + topk, one large event of hits against scipy's k-d tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import equikernels as ek

from ..clock import rotated

JETS, CONSTITUENTS, K = 100, 100, 16
HITS = 80_000

Search = Callable[[Tensor, Tensor | None], Tensor]  # (x, ptr) -> distances [n, K], nearest first


def four_momenta() -> tuple[Tensor, Tensor]:
    p = 10 * torch.randn(JETS * CONSTITUENTS, 3, generator=torch.Generator().manual_seed(0))
    x = torch.cat([(p.square().sum(1, keepdim=True) + 1).sqrt(), p], dim=1)
    return x, torch.arange(JETS + 1) * CONSTITUENTS


def hits() -> tuple[Tensor, None]:
    """Points on ten cylinders, as in a barrel detector; mm."""
    generator = torch.Generator().manual_seed(0)
    r = 32 + 100 * torch.randint(0, 10, (HITS,), generator=generator)
    phi = 2 * torch.pi * torch.rand(HITS, generator=generator)
    z = 1000 * torch.rand(HITS, generator=generator) - 500
    return torch.stack([r * phi.cos(), r * phi.sin(), z], dim=1), None


def kernel(metric: str) -> Search:
    return lambda x, ptr: ek.k_nearest(x, K, ptr, metric)[1]


def cdist_topk(x: Tensor, ptr: Tensor | None) -> Tensor:
    events = x.view(JETS, CONSTITUENTS, 4)
    # "do not use matmul": by matrix products, distances of float32 numbers cancel and neighbours are wrong
    d = torch.cdist(events, events, compute_mode="donot_use_mm_for_euclid_dist")
    d.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return d.topk(K, largest=False).values.view(-1, K)


def interval_topk(x: Tensor, ptr: Tensor | None) -> Tensor:
    events = x.view(JETS, CONSTITUENTS, 4)
    square = (events[:, :, None] - events[:, None]).double().square()  # in float32, half the digits are lost
    d = (square[..., 0] - square[..., 1:].sum(-1)).abs().sqrt()
    d.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return d.topk(K, largest=False).values.view(-1, K).float()


def kd_tree(x: Tensor, ptr: Tensor | None) -> Tensor:
    spatial = pytest.importorskip("scipy.spatial")
    x64 = x.double().cpu().numpy()
    distance, _ = spatial.cKDTree(x64).query(x64, k=K + 1, workers=torch.get_num_threads())
    return torch.from_numpy(distance[:, 1:].astype(np.float32)).to(x.device)  # a hit is its own nearest


INPUTS = {"100 jets of 100": four_momenta, "80k hits": hits}
OURS, PAIRS, TREE = "equikernels", "topk over all pairs", "cKDTree"
ROWS: list[tuple[str, str, str, Search, Search]] = [  # metric, inputs, name, function, and the expected result
    ("euclidean", "100 jets of 100", OURS, kernel("euclidean"), cdist_topk),
    ("euclidean", "100 jets of 100", PAIRS, cdist_topk, kernel("euclidean")),
    ("minkowski", "100 jets of 100", OURS, kernel("minkowski"), interval_topk),
    ("minkowski", "100 jets of 100", PAIRS, interval_topk, kernel("minkowski")),
    ("euclidean", "80k hits", OURS, kernel("euclidean"), kd_tree),
    ("euclidean", "80k hits", TREE, kd_tree, kernel("euclidean")),
]


@pytest.mark.parametrize("case", ROWS, ids=lambda case: ", ".join(case[:3]))
def test_k_nearest(
    benchmark: Any, threads: int, case: tuple[str, str, str, Search, Search], request: pytest.FixtureRequest
) -> None:
    metric, inputs, by, search, other = case
    device = request.config.getoption("--device")
    if by == TREE and device != "cpu":
        pytest.skip("cKDTree runs on CPUs")
    x, ptr = tree_map(lambda t: t if t is None else t.to(device), INPUTS[inputs]())
    torch.testing.assert_close(search(x, ptr), other(x, ptr), rtol=1e-5, atol=1e-5)
    op = f"k_nearest, k = {K}, {metric}"
    benchmark.group = f"{op}, {inputs}, {threads}"
    size = sum(t.numel() * t.element_size() for t in (x, search(x, ptr)))
    row = {"op": op, "graph": inputs, "backward": False, "threads": threads, "by": by, "dtype": "float32"}
    call, arguments, calls, timed = search, [x, ptr], 1, "wall clock"
    if device == "cuda":
        call, calls, timed = rotated(search, [x, ptr])  # type: ignore[assignment]
        arguments = []
    benchmark.extra_info.update(**row, flops=0.0, bytes=size, calls=calls, timed=timed)
    benchmark(call, *arguments)
