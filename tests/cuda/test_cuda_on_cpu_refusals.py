"""What the CUDA ops refuse, emulated on the CPU: the checks of tests/ops on bad arguments and direct calls of the ops,
calls without a kernel, and devices that have less than others. What the contents of a graph's table would show is
checked on the CPU alone, because on CUDA that waits for the device."""

from __future__ import annotations

import pytest
import torch

import equikernels as ek
from equikernels import backend
from equikernels.ops.message_passing import op as message_op

from ..ops import test_batch_norm as batch_norm
from ..ops import test_coordinates as coordinates
from ..ops import test_directions as directions
from ..ops import test_edge_mlp as edge_mlp
from ..ops import test_errors as errors
from ..ops import test_invariants as invariants
from ..ops import test_message_passing as message_passing
from ..ops import test_neighbors as neighbors
from ..ops import test_rank2_errors as rank2_errors
from ..ops import test_row_mlp as row_mlp
from ..ops import test_segment as segment
from ..support.cases import TYPICAL, Case, select
from ..support.emulator import MARKS, Emulator, check
from ..support.tools import lacks_kernel

pytestmark = [*MARKS, pytest.mark.usefixtures("emulator")]

test_arguments = errors.test_refusals_name_the_argument_and_no_source_file
test_one_edge_or_row = batch_norm.test_one_edge_or_row_is_refused_and_leaves_everything_as_it_was
test_coordinates_arguments = coordinates.test_errors_name_the_argument
test_coordinates_direct_calls = coordinates.test_a_direct_call_of_the_op_is_checked
test_direction_arguments = directions.test_errors_name_the_argument
test_parts_of_a_network = edge_mlp.test_refusals_name_the_part
test_a_row_network_has_neither_gate_nor_head = edge_mlp.test_a_row_network_has_neither_gate_nor_head
test_invariants_arguments = invariants.test_errors_name_the_argument
test_message_arguments = message_passing.test_errors_name_the_argument
test_neighbors_arguments = neighbors.test_errors_name_the_argument
test_neighbors_direct_calls = neighbors.test_a_direct_call_is_checked
test_rank2_arguments = rank2_errors.test_errors_name_the_argument
test_rank2_direct_calls = rank2_errors.test_a_direct_call_is_checked
test_row_arguments = row_mlp.test_errors_name_the_argument
test_segment_arguments = segment.test_errors_name_op_and_argument


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", select(*TYPICAL), ids=str)
def test_a_backend_chosen_by_name_runs_or_has_no_kernel(case: Case, dtype: torch.dtype, emulator: Emulator) -> None:
    """Nothing takes its place, and the error is the one for which tests on a GPU are skipped."""
    before, failed = emulator.launches, None
    try:
        with ek.use_backend("cpu"):
            case.run(case.inputs(dtype), case.graph())
    except RuntimeError as error:
        failed = error
    if failed is not None:
        assert lacks_kernel(failed, "cpu"), failed
    else:
        assert emulator.launches > before or case.op in backend.COMPOSED


def test_another_error_is_not_a_missing_kernel(emulator: Emulator) -> None:
    graph = ek.Graph.complete(torch.tensor([0, 3]))
    with ek.use_backend("cpu"), pytest.raises(ValueError) as wrong:
        ek.pairwise_invariants(torch.zeros(2, 4), graph)
    with ek.use_backend("cuda"), pytest.raises(RuntimeError) as elsewhere:
        ek.pairwise_invariants(torch.zeros(3, 4), graph)
    assert not lacks_kernel(wrong.value, "cpu")
    assert not lacks_kernel(elsewhere.value, "cuda")


T4, RTX = (75, 64 * 1024), (89, 99 * 1024)


def message_case(id: str, graph_name: str = "complete") -> Case:
    return next(case for case in select(graph_name, op="message_passing") if case.id == id)


def test_gpus_whose_tensor_cores_take_no_tf32_run_tiles(emulator: Emulator) -> None:
    case, before = message_case("lorentz"), emulator.launches
    with emulator.device(*T4):
        check(case, case.graph(), case.inputs(torch.float32))
        assert emulator.launches > before
        assert {call.options.plan for call in message_op._CALLS.values()} == {message_op.TILES}
        assert all(call.limit is None for call in message_op._CALLS.values())


@pytest.mark.parametrize("id", ["euclidnet", "layer norms", "norm and tables"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_other_kernels_fit_in_less_shared_memory(id: str, dtype: torch.dtype, emulator: Emulator) -> None:
    case = next(c for c in select(op="message_passing") if c.id == id)
    with emulator.device(*T4):
        before = emulator.launches
        check(case, case.graph(), case.inputs(dtype))
        assert emulator.launches > before


@pytest.mark.parametrize("id", ["wide", "deep"])
def test_tensor_cores_with_less_shared_memory(id: str, emulator: Emulator) -> None:
    case = next(c for c in select(op="message_passing") if c.id == id)
    with emulator.device(*RTX):
        before = emulator.launches
        check(case, case.graph(), case.inputs(torch.float32))
        assert emulator.launches > before
