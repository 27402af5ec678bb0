"""CUDA kernels of rank-2 tensors, segments and the encoder, emulated on the CPU: widths and bad values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.ops.pairs import reference as rank2_reference
from equikernels.ops.pairs import tables as rank2_op

from ..support.emulator import MARKS, Emulator
from ..support.tools import assert_as_good_as_eager, value_and_grads

pytestmark = MARKS


WIDTHS = (1, 8, 13, 72, 131, 516)  # every layout of a block: many rows at a time, 16 bytes and not, several passes


@pytest.mark.parametrize(
    ("width", "dtype"),
    [(w, d) for d in (torch.float32, torch.float64) for w in WIDTHS]
    + [(w, d) for d in (torch.bfloat16, torch.float16) for w in (13, 72)],
    ids=str,
)
def test_rank2_of_any_width(width: int, dtype: torch.dtype, emulator: Emulator, poisoned: None) -> None:
    with emulator.filled_by(0):  # panels are wide, as those of many events
        rank2_of_any_width(width, dtype)


@pytest.mark.parametrize("width", [8, 13, 72])
@pytest.mark.parametrize("blocks", [12, 4 * 132])
def test_rank2_of_few_events(width: int, blocks: int, emulator: Emulator, poisoned: None) -> None:
    with emulator.filled_by(blocks):
        rank2_of_any_width(width, torch.float32)


def rank2_of_any_width(width: int, dtype: torch.dtype) -> None:
    longest = 11 if width > 500 else 70  # wider than a block takes: sums of rows come in parts
    pairs = ek.Graph.complete(torch.tensor([0, 3, 3, 4, 4 + longest, 5 + longest, 14 + longest])).pairs
    T = torch.randn(pairs.num_edges, width, dtype=dtype)
    T[::7] = T[0]  # equals, of which the first counts
    weight = torch.randn(pairs.num_nodes, dtype=dtype)
    table = torch.randn(pairs.num_nodes, 3, width, dtype=dtype)
    arguments = pairs.table, pairs.num_edges, pairs._kind, pairs.num_nodes
    i, j = pairs.receiver, pairs.sender
    ops = torch.ops.equikernels

    def check(result: Tensor, formula: Callable[..., Tensor], *tensors: Tensor) -> None:
        assert_as_good_as_eager([result], [formula(*tensors)], [formula(*(t.double() for t in tensors))])

    def weighted(table: Tensor, weight: Tensor) -> Tensor:
        return weight[i, None] * table[j, 1] + weight[j, None] * table[i, 2] + (i == j)[:, None] * table[i, 0]

    for reduce in ("sum", "max", "min"):
        formula = lambda T: rank2_reference.rank2_reduce(T, pairs, reduce, None)  # noqa: B023, E731
        check(rank2_op.reduce_table(T, pairs, reduce, None), formula, T)
    formula = lambda T, weight: rank2_reference.rank2_reduce(T, pairs, "sum", weight)  # noqa: E731
    check(rank2_op.reduce_table(T, pairs, "sum", weight), formula, T, weight)
    check(rank2_op.broadcast_table(table, pairs), lambda table: rank2_reference.rank2_broadcast(table, pairs), table)
    both = weight[:, None, None].expand(-1, 2, width)
    check(ops.rank2_broadcast.default(table, both, None, *arguments[:3]), weighted, table, weight)

    # with arguments: the adjoint of the extremum, and back
    top, arg = ops.rank2_extremum.default(T, *arguments, True)
    picked = ops.rank2_sum.default(T, None, arg, *arguments)
    assert torch.equal(picked, top)
    spread = ops.rank2_broadcast.default(table, None, arg, *arguments[:3])
    exact = (spread.double() * T).sum(), (picked.double() * table).sum()
    torch.testing.assert_close(*exact, rtol=1e-4, atol=1e-3 if dtype in (torch.float32, torch.float64) else 1)


@pytest.mark.parametrize("reduce", ["sum", "max", "min"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rank2_bad_values(reduce: str, bad: float, emulator: Emulator) -> None:
    pairs = ek.Graph.complete(torch.tensor([0, 30, 34])).pairs
    T = torch.randn(pairs.num_edges, 67)
    T[torch.rand_like(T) < 0.01] = bad
    result = rank2_op.reduce_table(T, pairs, reduce, None)
    expected = rank2_reference.rank2_reduce(T, pairs, reduce, None)
    torch.testing.assert_close(result, expected, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [72, 35, 33, 8, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_segments_of_any_width_aligned_or_not(channels: int, dtype: torch.dtype, emulator: Emulator) -> None:
    graph = ek.Graph.from_edge_index(torch.randint(0, 9, (2, 83)), 9)
    for offset in (0, 1):  # contiguous, but not on a 16-byte boundary

        def made(rows: int) -> Tensor:
            return torch.randn(rows * channels + 1).to(dtype)[offset : rows * channels + offset].view(rows, channels)  # noqa: B023

        values, nodes, weight = made(83), made(9), made(83)
        for reduce in ("sum", "mean", "max", "min"):
            for call in (
                lambda: ek.segment_reduce(values, graph, reduce),  # noqa: B023
                lambda: ek.gather_segment_reduce(nodes, graph, weight, reduce),  # noqa: B023
            ):
                with ek.use_backend("reference"):
                    expected = call()
                torch.testing.assert_close(call(), expected)
        with ek.use_backend("reference"):
            expected = ek.segment_softmax(values, graph)
        torch.testing.assert_close(ek.segment_softmax(values, graph), expected)


@pytest.mark.parametrize("channels", [1, 3, 58, 256, 300, 1028])  # 16 bytes at a time and not, several passes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_encoder_of_any_width(channels: int, dtype: torch.dtype, emulator: Emulator, poisoned: None) -> None:
    count = 2000 if channels < 10 else 37
    z = (torch.randn(count, channels) * (3 * torch.randn(count, channels)).exp()).to(dtype)
    z[0], z[1] = 0.0, torch.finfo(dtype).max
    t = torch.linspace(0.003, 0.9, channels, dtype=dtype)
    for angles in (False, True):

        def call(inputs: dict[str, Tensor]) -> Tensor:
            return ek.encode_invariants(**inputs, angles=angles)  # noqa: B023

        def plain(inputs: dict[str, Tensor]) -> Tensor:
            with ek.use_backend("reference"):
                return call(inputs)

        inputs = {"z": z, "t": t}
        cotangent = torch.randn(count, channels)
        before = emulator.launches
        result = value_and_grads(call, inputs, cotangent)
        assert emulator.launches == before + 3
        oracle = value_and_grads(plain, {name: a.double() for name, a in inputs.items()}, cotangent)
        assert_as_good_as_eager(result, value_and_grads(plain, inputs, cotangent), oracle, ["out", "z", "t"], ["t"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_encoder_of_bad_values(bad: float, emulator: Emulator) -> None:
    z, t = torch.tensor([[bad, 1.0], [2.0, -3.0]]), torch.tensor([0.3, 0.5])
    with ek.use_backend("reference"):
        expected = ek.encode_invariants(z, t)
    torch.testing.assert_close(ek.encode_invariants(z, t), expected, equal_nan=True)
