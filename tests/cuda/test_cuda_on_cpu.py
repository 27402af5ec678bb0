"""The CUDA kernels, emulated on the CPU (cuda_on_cpu/): the same cases and the same rule as for every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import equikernels as ek
from equikernels.ops.message_passing import op as message_op
from equikernels.ops.message_passing import reference as message_reference

from ..support.cases import (
    CASES,
    LARGE,
    TYPICAL,
    Case,
    Inputs,
    select,
)
from ..support.checks import check_bad_values, check_non_contiguous
from ..support.emulator import MARKS, Emulator, check, registered
from ..support.golden import jets
from ..support.tools import cotangent_for, reference, value_and_grads

pytestmark = MARKS

# Ops that launch our kernels on CUDA, and ops made of them.
EMULATED = (
    "pairwise_invariants", "coordinate_update", "message_passing", "row_mlp",
    "segment_reduce", "gather_segment_reduce", "segment_softmax", "rank2_reduce", "rank2_broadcast", "aggregate_2to2",
    "rank2_mix", "aggregate_2to1", "aggregate_2to0", "aggregate_1to2", "linear_2to2", "linear_2to1", "linear_2to0",
    "linear_1to2", "pairwise_linear", "pairwise_network", "encode_invariants",
)  # fmt: skip


def over(cases: list[Case]) -> pytest.MarkDecorator:
    cases = [c for c in cases if c.op in EMULATED]
    return pytest.mark.parametrize("case", cases, ids=[str(case) for case in cases])


# Ops of the CPU that are made of other ops on CUDA.
CPU_ONLY = {"rank2_products", "row_affine", "edge_table", "linear_1to2", "linear_1to2_backward"}


def test_every_cuda_op_is_emulated(built: Emulator) -> None:
    assert registered("CPU") - set(built.ops) == CPU_ONLY


@over(CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_and_gradients(case: Case, dtype: torch.dtype, emulator: Emulator, poisoned: None) -> None:
    graph = case.graph()
    before = emulator.launches
    check(case, graph, case.inputs(dtype))
    assert emulator.launches > before or graph.num_nodes == 0


def infinities_become_nan(case: Case, inputs: Inputs, graph: ek.Graph) -> Tensor:
    """The reference, but for one thing where products run on tensor cores: there an infinity counts as NaN, because a
    float32 number is the sum of two parts, and the second part of an infinity is inf - inf."""

    def linear(m: Tensor, weight: Tensor, bias: Tensor | None, on_tensor_cores: bool) -> Tensor:
        if on_tensor_cores:
            m, weight = (v.masked_fill(v.isinf(), math.nan) for v in (m, weight))
        return F.linear(m, weight, bias)

    evaluate = message_reference._evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_reference, "linear", linear)  # whose last argument tells the same products in bfloat16
        patch.setattr(message_reference, "_evaluate", lambda t, g, o: evaluate(t, g, o._replace(bfloat16=True)))
        return reference(case, inputs, graph)


@over([c for c in select(*TYPICAL) if not c.uses("gelu")])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_bad_values_stay_where_the_reference_has_them(case: Case, bad: float, emulator: Emulator) -> None:
    case.run(case.inputs(torch.float32), case.graph())
    plans = {call.options.plan for call in message_op._CALLS.values() if call.limit is None}
    on_tensor_cores = plans == {0}  # lanes across channels
    check_bad_values(case, bad, infinities_become_nan if on_tensor_cores else reference, gradients=False)


@over(select(*TYPICAL))
def test_non_contiguous_inputs(case: Case, emulator: Emulator) -> None:
    check_non_contiguous(case, torch.float32)


# 72 channels on the large graphs add nothing but time
@over([c for c in select(*TYPICAL, *LARGE) if c.id != "wide" or c.op != "message_passing" or c.graph_name in TYPICAL])
def test_no_order_of_blocks_and_threads_changes_a_bit(case: Case, emulator: Emulator) -> None:
    graph = case.graph()
    inputs = case.inputs(torch.float32)
    cotangent = cotangent_for(case.run(inputs, graph))

    def run(seed: int, most_blocks: int = 0) -> list[Tensor]:
        with emulator.schedule(seed, most_blocks):
            return value_and_grads(lambda i: case.run(i, graph), inputs, cotangent)

    first = run(0)
    for seed, most_blocks in ((1, 0), (2, 0), (3, 1), (0, 3)):  # a capped grid strides
        for a, b in zip(first, run(seed, most_blocks), strict=True):
            assert torch.equal(a, b), f"order {seed}, at most {most_blocks} blocks"


def networks() -> dict[str, tuple[torch.nn.Module, Callable[[torch.nn.Module], Tensor]]]:
    p4, ptr = jets(7, 1, 12)
    jet_graph = ek.Graph.complete(ptr)
    scalars = torch.randn(20, 2, dtype=torch.float64)
    hits = torch.rand(30, 3, dtype=torch.float64)
    pelican: dict[str, Any] = {
        "num_channels_scalar": 2, "num_channels_m": [[5], [5]], "num_channels_2to2": [4, 4], "num_channels_out": [6],
        "num_channels_m_out": [5, 4], "average_nobj": 6, "batchnorm": "b", "factorize": True,
    }  # fmt: skip
    return {
        "lorentznet": (ek.models.LorentzNet(2, 8, n_layers=2), lambda model: model(p4, scalars.float(), jet_graph)),
        "pelican": (
            ek.models.PELICANClassifier(**pelican, config="s", config_out="s"),
            lambda model: model(p4, jet_graph),
        ),
        "pelican_extrema": (
            ek.models.PELICANClassifier(**pelican, config="M", config_out="M"),
            lambda model: model(p4, jet_graph),
        ),
        "euclidnet": (ek.models.EuclidNet(4, 2, 2), lambda model: model(hits, ek.knn_graph(hits, 4))),
    }


@pytest.mark.parametrize("name", ["lorentznet", "pelican", "pelican_extrema", "euclidnet"])
def test_networks_give_what_they_give_on_the_cpu(name: str, built: Emulator) -> None:
    model, call = networks()[name]
    single = name == "lorentznet"  # tensor cores take float32
    model.float() if single else model.double()

    def gradients() -> list[Tensor]:
        out = call(model)
        grads = torch.autograd.grad(out.square().sum(), list(model.parameters()), allow_unused=True)
        return [out.detach(), *(g for g in grads if g is not None)]

    expected = gradients()
    before = built.launches
    with built.installed():
        found = gradients()
    assert built.launches > before
    for a, b in zip(found, expected, strict=True):
        tolerance = 1e-4 if single else 1e-10
        torch.testing.assert_close(a, b, rtol=100 * tolerance, atol=tolerance * max(1.0, float(b.abs().max())))
