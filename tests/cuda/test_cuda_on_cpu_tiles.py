"""message_passing and row_mlp a tile at a time, emulated: every width, float64, storage in 16 bits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import equikernels as ek
from equikernels.checks import FLOATING
from equikernels.ops.message_passing import op as message_op
from equikernels.ops.message_passing import rows as row_op

from ..support.cases import Case, Inputs, select
from ..support.emulator import MARKS, Emulator, check
from ..support.mlp_cases import Spec, edge_inputs
from ..support.tools import assert_as_good_as_eager, cotangent_for, reference, value_and_grads
from ..support.wide_cases import everything, lorentz_case

pytestmark = MARKS
HALVES = (torch.bfloat16, torch.float16)


def tiled(case: Case, emulator: Emulator) -> bool:
    """Whether the calls so far have run on tiles."""
    calls = (row_op if case.op == "row_mlp" else message_op)._CALLS.values()
    return emulator.launches > 0 and all(call.options.plan == (2 if case.op == "row_mlp" else 3) for call in calls)


@pytest.mark.parametrize("workspace", ["", "30000"])
@pytest.mark.parametrize(
    "case",
    [
        everything("sparse"),
        everything("complete"),
        *(lorentz_case(width, graph) for width, graph in ((96, "complete"), (200, "sparse"), (512, "self_loops"))),
        *(c for c in select("sparse", "complete") if c.id in ("no kernel", "norms")),
    ],
    ids=str,
)
def test_values_and_gradients(
    case: Case, workspace: str, emulator: Emulator, poisoned: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIKERNELS_WORKSPACE", workspace)
    graph = case.graph()
    for dtype in (torch.float32, torch.float64):
        check(case, graph, case.inputs(dtype))
    assert tiled(case, emulator)


def test_no_order_of_blocks_and_threads_changes_a_bit(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIKERNELS_WORKSPACE", "100000")
    case = everything("complete")
    inputs, graph = case.inputs(torch.float32), case.graph()
    cotangent = cotangent_for(case.run(inputs, graph))
    found = []
    for seed, most_blocks in ((0, 0), (1, 0), (2, 1)):
        with emulator.schedule(seed, most_blocks):
            found.append(value_and_grads(lambda i: case.run(i, graph), inputs, cotangent))
    for again in found[1:]:
        for a, b in zip(found[0], again, strict=True):
            assert torch.equal(a, b)


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 bits are taken on the CPU, too, as on a GPU."""
    for module in (message_op, row_op):
        monkeypatch.setattr(module, "stored_as", lambda t: FLOATING)


def rounded(case: Case, dtype: torch.dtype) -> Inputs:
    return {name: t.float() if name == "x" else t.to(dtype) for name, t in case.inputs().items()}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    "case",
    [
        everything("sparse"),
        lorentz_case(96, "complete"),
        *(c for c in select("sparse", "complete") if c.id in ("no kernel", "norms")),
    ],
    ids=str,
)
def test_storage_in_16_bits(
    case: Case,
    keep: bool,
    dtype: torch.dtype,
    emulator: Emulator,
    halves: None,
    poisoned: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As exact as the formula that rounds the output of every operation to 16 bits."""
    if not keep:
        monkeypatch.setenv("EQUIKERNELS_WORKSPACE", "30000")
    inputs, graph = rounded(case, dtype), case.graph()
    exact = {name: t.double() for name, t in inputs.items()}
    cotangent = cotangent_for(reference(case, exact, graph)).to(dtype)
    oracle = value_and_grads(lambda i: reference(case, i, graph), exact, cotangent.double())
    found = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    with monkeypatch.context() as as_it_is:
        for module in (message_op, row_op):
            as_it_is.setattr(module, "as_computed", lambda tensors: tensors)
        eager = value_and_grads(lambda i: reference(case, i, graph), inputs, cotangent)
    found, eager = ([t.to(dtype) if t.is_floating_point() else t for t in ts] for ts in (found, eager))
    assert_as_good_as_eager(found, eager, oracle, ["out", *inputs], case.weights)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_narrow_layers_of_16_bits_are_computed_in_float32(dtype: torch.dtype, emulator: Emulator, halves: None) -> None:
    """By the other kernels: numbers are rounded where they come in and go out alone."""
    for id in ("lorentz", "euclidnet", "interaction"):
        case = next(c for c in select(op="message_passing") if c.id == id)
        inputs, graph = rounded(case, dtype), case.graph()
        found = case.run(inputs, graph)
        with ek.use_backend("reference"):
            expected = case.run({name: t.double() for name, t in inputs.items()}, graph)
        assert found.dtype in (dtype, torch.float32)
        error = (found.double() - expected).abs().max() / expected.abs().max()
        assert error < torch.finfo(dtype).eps


def test_many_edges_of_one_receiver_and_more_rows_than_lanes(emulator: Emulator) -> None:
    layers = Spec(33, "silu", "batch"), Spec(70, "relu", "batch affine")
    sender, receiver = torch.randint(0, 9, (2, 290), generator=torch.Generator().manual_seed(0))
    receiver[receiver > 2] = 2
    graph = ek.Graph.from_edge_index(torch.stack([sender, receiver]), 9)
    case = replace(everything(), options={"layers": layers}, make=edge_inputs(*layers))
    check(case, graph, case.inputs(torch.float32, graph))
    assert tiled(case, emulator)
