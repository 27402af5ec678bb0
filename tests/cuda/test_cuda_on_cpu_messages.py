"""message_passing's CUDA kernels, emulated on the CPU: precisions, depths, shares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.ops.message import op as message_op

from ..support.cases import (
    GRAPHS,
    MESSAGE_WEIGHTS,
    message_inputs,
    select,
)
from ..support.emulator import MARKS, Emulator
from ..support.tools import assert_as_good_as_eager, cotangent_for, reference, value_and_grads

pytestmark = MARKS


@pytest.mark.parametrize("name", ["complete", "csr"])
@pytest.mark.parametrize("options", [{}, {"reduce": "mean", "coordinate_reduce": "sum", "activation": "tanh"}], ids=str)
def test_messages_of_three_layers_and_float64_coordinates(
    name: str, options: dict[str, Any], emulator: Emulator
) -> None:
    """Everything at once, at odd widths, with a cotangent for every output."""
    graph = GRAPHS[name]()
    made = message_inputs(70, 9, 33, attr=3, head=41)(torch.Generator().manual_seed(3), graph)
    made["x"] = made["x"] * 30
    options = {"metric": "minkowski", "clamp": 40.0, "activation": "silu", **options}

    def run(inputs: dict[str, Tensor]) -> Tensor:
        i = inputs
        layers = [(i["weight2"], i["bias2"]), (i["weight3"], i["bias3"])]
        given = {k: i[k] for k in ("invariant_weight", "edge_attr", "edge_weight")}
        out = ek.message_passing(
            i["receiver"], i["sender"], i["x"], graph, **given, layers=layers, gate=(i["gate_weight"], i["gate_bias"]),
            head=(i["head_weight"], i["head_bias"], i["head_out"]), **options, return_edges=True,
        )  # fmt: skip
        return torch.cat([t.double().flatten() for t in out if t is not None])

    def plain(inputs: dict[str, Tensor]) -> Tensor:
        with ek.use_backend("reference"):
            return run(inputs)

    exact = {k: v if k == "x" else v.float() for k, v in made.items()}
    oracle_inputs = {k: v.double() for k, v in exact.items()}
    cotangent = cotangent_for(plain(oracle_inputs))
    oracle = value_and_grads(plain, oracle_inputs, cotangent)
    eager, result = (value_and_grads(f, exact, cotangent) for f in (plain, run))
    for found in (eager, result):
        found[:] = [t.float() for t in found]  # float64 inputs are included, with the accuracy of the other inputs
    assert_as_good_as_eager(result, eager, oracle, ["out", *exact], MESSAGE_WEIGHTS)


@pytest.mark.parametrize("id", ["wide", "relu", "deep"])
def test_messages_of_bfloat16(id: str, emulator: Emulator) -> None:
    (case,) = (c for c in select("complete", op="message_passing") if c.id == id)
    case = replace(case, options={**case.options, "precision": "bfloat16"})
    inputs, graph = case.inputs(torch.float32), case.graph()
    result, expected = case.run(inputs, graph), reference(case, inputs, graph)
    # sums that differ by one rounding may differ in bfloat16
    assert (result - expected).abs().max() <= 2e-3 * expected.abs().max()
    assert (result - expected).abs().median() <= 1e-6 * expected.abs().max()


def test_messages_in_tf32_where_pytorch_may(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = (c for c in select("complete", op="message_passing") if c.id == "wide")
    inputs, graph = case.inputs(torch.float32), case.graph()
    expected = reference(case, inputs, graph)
    cotangent = cotangent_for(expected)
    exact = value_and_grads(lambda i: reference(case, i, graph), inputs, cotangent)
    monkeypatch.setattr(message_op, "allows_tf32", lambda t: True)
    found = value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True)]
    assert 1e-5 < errors[0] < 1e-2
    assert 1e-5 < max(errors[1:]) < 1e-2  # biases need no product


def test_weights_of_messages_from_more_blocks_than_there_are_shares(emulator: Emulator) -> None:
    """Blocks take more than one group of nodes then."""
    ptr = torch.arange(17000)
    ptr[9000:] += 1  # one event of two particles among events of one
    ptr[16990:] += 6
    graph = ek.Graph.complete(ptr)
    made = message_inputs(3, 3, columns=1, gate=False)(torch.Generator().manual_seed(3), graph)
    tensors = {k: v.float().requires_grad_(k != "x") for k, v in made.items()}

    def gradients() -> list[Tensor]:
        tables = tensors["receiver"], tensors["sender"], tensors["x"]
        layer = tensors["weight2"], tensors["bias2"]
        out = ek.message_passing(
            *tables, graph, invariant_weight=tensors["invariant_weight"], invariants="product", layers=[layer]
        )[0]
        return list(torch.autograd.grad(out.square().sum(), [t for k, t in tensors.items() if k != "x"]))

    found = gradients()
    with ek.use_backend("reference"):
        expected = gradients()
    for a, b in zip(found, expected, strict=True):
        assert b.any()
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
