"""Tests ONNX nodes op by op, on every sample case, as functions and, with the library, as kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..support import cases

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from equikernels.deploy import onnxruntime_library  # noqa: E402
from equikernels.deploy.onnx_formulas import Unsupported  # noqa: E402
from equikernels.deploy.onnx_functions import function_of  # noqa: E402
from equikernels.deploy.onnx_nodes import DOMAIN, described, read_outputs  # noqa: E402

TYPES = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float64: onnx.TensorProto.DOUBLE,
    torch.int64: onnx.TensorProto.INT64,
}
Call = tuple[Any, tuple[Any, ...], list[Tensor]]


class Calls(TorchDispatchMode):
    """Keeps the calls of this package's ops, and what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Call] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        if op.namespace == DOMAIN and not str(op).endswith("_plan.default"):
            self.made.append((op, args, [out] if isinstance(out, Tensor) else list(out)))
        return out


def calls_of(case: cases.Case) -> list[Call]:
    graph, inputs = case.graph(), case.inputs(torch.float32)
    with torch.no_grad(), Calls() as calls:
        case.run(inputs, graph)
    return calls.made


def model_of(op: Any, values: tuple[Any, ...], outputs: list[Tensor]) -> tuple[Any, list[Tensor]]:
    """A model of one node, and its inputs."""
    read = [outputs[k] for k in read_outputs(op, outputs)]
    inputs, configuration = described(op, values, len(read))
    function = function_of(configuration, configuration.op)
    names = [f"x{k}" for k in range(len(inputs))]
    made = [f"y{k}" for k in range(configuration.outputs)]
    node = onnx.helper.make_node(
        configuration.op,
        names,
        made,
        domain=DOMAIN,
        **{k: list(v) if isinstance(v, tuple) else v for k, v in configuration.attributes},
    )
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [value(name, TYPES[t.dtype], list(t.shape)) for name, t in zip(names, inputs, strict=True)],
        [value(name, onnx.TensorProto.FLOAT, list(t.shape)) for name, t in zip(made, read, strict=True)],
    )
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model, inputs


def run(model: Any, inputs: list[Tensor], library: bool) -> list[np.ndarray[Any, Any]]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if library:
        options.register_custom_ops_library(onnxruntime_library())
    session = ort.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {f"x{k}": t.numpy() for k, t in enumerate(inputs)})


ALL = [case for case in cases.CASES if case.kernel]


@pytest.mark.parametrize("case", ALL, ids=str)
def test_the_function_and_the_kernel_give_what_pytorch_gives(case: cases.Case) -> None:
    reasons = []
    for op, values, outputs in calls_of(case):
        try:
            model, inputs = model_of(op, values, outputs)
        except Unsupported as error:
            reasons.append(str(error))
            continue
        wanted = [outputs[k] for k in read_outputs(op, outputs)]
        for library in (False, True):
            found = run(model, inputs, library)
            assert len(found) == len(wanted)
            for got, want in zip(found, wanted, strict=True):
                assert got.shape == tuple(want.shape)
                if want.numel() == 0:
                    continue
                largest = float(want.abs().max())
                np.testing.assert_allclose(
                    got, want.numpy(), rtol=0, atol=1e-5 * largest if math.isfinite(largest) else 0
                )
                if library and want.dtype == torch.float32:
                    np.testing.assert_array_equal(got, want.numpy())
    if reasons:
        pytest.skip(reasons[0])
