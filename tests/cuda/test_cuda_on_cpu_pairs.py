"""CUDA kernels of linear layers and networks of pairs, emulated on the CPU: launches, widths, storage in 16 bits, bad
values, empty batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.ops.autograd import call
from equikernels.ops.common import graph_arguments
from equikernels.ops.fused_op import Call, FusedOp, Tensors
from equikernels.ops.pairs import fused, rows
from equikernels.ops.pairs import reference as rank2_reference
from equikernels.ops.pairs.reference import BATCH, NO_NORM, RUNNING, RowsOptions

from ..support.emulator import MARKS, Emulator
from ..support.tools import assert_as_good_as_eager

pytestmark = MARKS

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
WIDTHS = ((1, 1), (3, 2), (13, 35), (72, 131))  # with 16 bytes at a time and not, several blocks across


def events(*sizes: int) -> ek.Graph:
    return ek.Graph.complete(torch.tensor([0, *sizes]).cumsum(0)).pairs


def leaves(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    return [None if t is None else t.to(dtype).detach().requires_grad_() for t in tensors]


def gradients(run: Callable[[Tensors], list[Tensor]], tensors: Tensors) -> list[Tensor]:
    """Outputs of a call, and the gradients of what it was given."""
    out = [t for t in run(tensors) if t.numel() > 0]
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in out]
    given = [t for t in tensors if t is not None]
    return [*(t.detach() for t in out), *torch.autograd.grad(out, given, cotangents)]


def check(run: Callable[[Tensors, bool], list[Tensor]], tensors: Tensors, dtype: torch.dtype) -> None:
    """run(tensors, kernel) by the rule for every backend; numbers are those that ``dtype`` stores."""

    def by_reference(tensors: Tensors) -> list[Tensor]:
        with ek.use_backend("reference"):
            return gradients(lambda t: run(t, False), tensors)

    stored = leaves(tensors, dtype)
    found = gradients(lambda t: run(t, True), stored)
    names = [str(k) for k in range(len(found))]
    sums = [str(k) for k, t in enumerate(found) if t.shape[0] < 16]  # over many rows
    expected = by_reference(leaves(stored, dtype)), by_reference(leaves(stored, torch.float64))
    assert_as_good_as_eager(found, *expected, names, sums)


def fused_call(op: FusedOp, graph: ek.Graph | int, options: Any) -> Callable[[Tensors, bool], list[Tensor]]:
    plan = Call(options, None, *options.encoded(), isinstance(graph, ek.Graph))
    return lambda tensors, kernel: op(tensors, graph, plan, kernel)[: op.spec.differentiable]


def layer(pairs: ek.Graph, *, mean: bool = False, slope: float = 1.0, inner: float = 1.0) -> fused.LayerOptions:
    return fused.LayerOptions(pairs.num_nodes, len(pairs._ptr) - 1, mean, [], 5.0, inner, slope)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("width", "out"), WIDTHS)
@pytest.mark.parametrize("ranks", ["2to2", "2to0"])
def test_linear(ranks: str, width: int, out: int, dtype: torch.dtype, emulator: Emulator, poisoned: None) -> None:
    pairs = events(3, 0, 1, 11, 2) if width < 72 else events(5, 2)
    maps, exponents = (15, 10) if ranks == "2to2" else (2, 2)
    diagonal = torch.randn(out) if ranks == "2to2" else None
    tensors: Tensors = [
        torch.randn(pairs.num_edges, width), torch.rand(2, width) + 0.5,
        torch.randn(width, out, maps) / (maps * width) ** 0.5, None, None, None,
        torch.randn(out), diagonal, torch.rand(width, exponents),
    ]  # fmt: skip
    op = fused.FUSED[f"linear_{ranks}"]
    for mean, slope, inner in ((False, 0.1, 1.0), (True, 1.0, 1.0 if ranks == "2to2" else 0.0)):
        run = fused_call(op, pairs, layer(pairs, mean=mean, slope=slope, inner=inner))
        check(lambda t, kernel: run([*t, None], kernel), tensors, dtype)  # noqa: B023


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("width", "out"), WIDTHS)
def test_mix(width: int, out: int, dtype: torch.dtype, emulator: Emulator, poisoned: None) -> None:
    pairs = events(3, 0, 1, 17, 2)
    arguments = *graph_arguments(pairs), pairs.num_nodes, 0.25

    def run(tensors: Tensors, kernel: bool) -> list[Tensor]:
        T, identity, transpose, table = tensors
        if not kernel:
            assert T is not None
            return [rank2_reference.rank2_mix(T, identity, transpose, table, pairs, 0.25)]
        return [call("rank2_mix", T, identity, transpose, table, *arguments)]

    matrices = [torch.randn(width, out) / width**0.5 for _ in range(2)]
    table = torch.randn(pairs.num_nodes, 3, out)
    for given in ((*matrices, table), (matrices[0], None, None), (None, matrices[1], table)):
        check(run, [torch.randn(pairs.num_edges, width), *given], dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("width", "out"), [*WIDTHS, (2, 516)])
@pytest.mark.parametrize("norm", [NO_NORM, BATCH, RUNNING])
def test_network(norm: int, width: int, out: int, dtype: torch.dtype, emulator: Emulator, poisoned: None) -> None:
    count = 300 if width < 72 else 40
    vectors: Tensors = [torch.rand(out) + 0.5 for _ in range(4)]
    if norm != RUNNING:
        vectors[2:] = [None, None]
    if norm == NO_NORM:
        vectors[:2] = [None, None]
    run = fused_call(rows.FUSED, count, RowsOptions(norm, 0.25, 1e-3))
    check(run, [torch.randn(count, width), torch.randn(out, width) / width**0.5, torch.randn(out), *vectors], dtype)
    if norm == BATCH:
        alone = fused_call(rows.FUSED, count, RowsOptions(norm, 1.0, 1e-3))
        check(alone, [torch.randn(count, out), None, None, *vectors], dtype)


@pytest.mark.parametrize("count", [127, 129, 20000, 70000])  # shares of sums over rows, tiles of many rows
def test_many_rows(count: int, emulator: Emulator) -> None:
    run = fused_call(rows.FUSED, count, RowsOptions(BATCH, 0.0, 1e-3))
    check(run, [torch.randn(count, 3), torch.randn(5, 3), torch.randn(5), *[None] * 4], torch.float64)


@pytest.mark.parametrize("size", [9, 90])  # an event that one block of the sums takes, and one of several blocks
def test_launches(size: int, emulator: Emulator) -> None:
    pairs = events(size, 4, 0, 7)
    T = torch.randn(pairs.num_edges, 35, requires_grad=True)
    coefs = torch.randn(35, 60, 15, requires_grad=True)
    weight, bias = torch.randn(60, 35, requires_grad=True), torch.randn(60, requires_grad=True)
    affine, alpha = torch.rand(2, 35, requires_grad=True), torch.rand(35, 10, requires_grad=True)
    how = ek.Aggregation(config="M", alphas=(alpha,))
    norm = ek.PairNorm(bias, bias, None, None, 1e-5, of_batch=True)

    def launches(run: Callable[[], Any]) -> int:
        before = emulator.launches
        run()
        return emulator.launches - before

    for layer_of, forward, backward in (
        (lambda: ek.linear_2to2(T, pairs, coefs, bias, bias, how, activation="leaky_relu", affine=affine), 5, 12),
        (lambda: ek.linear_2to0(T, pairs, coefs[:, :, :2], bias, affine=affine), 3, 6),
        (lambda: ek.rank2_mix(T, pairs, coefs[:, :, 0], coefs[:, :, 1], activation="relu"), 1, 4),
        (lambda: ek.pairwise_network(T, weight, bias, norm, activation="leaky_relu")[0], 3, 5),
        (lambda: ek.pairwise_linear(T, weight, bias), 1, 3),
    ):
        made: list[Tensor] = []
        # One more adds the parts of rows' sums, where an event's columns are shared out.
        assert launches(lambda: made.append(layer_of())) <= min(forward + 1, 6)  # noqa: B023
        assert launches(lambda: made[0].sum().backward()) <= backward + 1  # noqa: B023


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_values(bad: float, emulator: Emulator) -> None:
    pairs = events(5, 3)
    T, weight, coefs = torch.randn(pairs.num_edges, 3), torch.randn(4, 3), torch.randn(3, 4, 15)
    T[2, 1] = T[20, 0] = bad
    norm = ek.PairNorm(None, None, torch.zeros(4), torch.ones(4), 1e-5, of_batch=False)
    for activation in ("identity", "relu", "leaky_relu"):
        for run in (
            lambda: ek.pairwise_network(T, weight, None, norm, activation=activation)[:2],  # noqa: B023
            lambda: ek.rank2_mix(T, pairs, weight.t(), weight.t(), activation=activation),  # noqa: B023
            lambda: ek.linear_2to2(T, pairs, coefs, activation=activation),  # noqa: B023
            lambda: ek.linear_2to0(T, pairs, coefs[:, :, :2], activation=activation),  # noqa: B023
        ):
            with ek.use_backend("reference"):
                expected = run()
            torch.testing.assert_close(run(), expected, equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0, 0)])
def test_nothing(sizes: tuple[int, ...], emulator: Emulator) -> None:
    pairs = events(*sizes)
    T, coefs = torch.randn(0, 3, requires_grad=True), torch.randn(3, 4, 15, requires_grad=True)
    bias = torch.randn(4, requires_grad=True)
    for run in (
        lambda: ek.linear_2to2(T, pairs, coefs, bias, bias),
        lambda: ek.linear_2to0(T, pairs, coefs[:, :, :2], bias),
        lambda: ek.pairwise_linear(T, coefs[:, :, 0].t(), bias),
        lambda: ek.rank2_mix(T, pairs, coefs[:, :, 0]),
    ):
        out = run()
        with ek.use_backend("reference"):
            expected = run()
        assert out.shape == expected.shape
        torch.testing.assert_close(out, expected)
        given = T, coefs, bias
        for a, b in zip(
            torch.autograd.grad(out.sum(), given, materialize_grads=True, allow_unused=True),
            torch.autograd.grad(expected.sum(), given, materialize_grads=True, allow_unused=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b)
