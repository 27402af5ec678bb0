"""Writes formulas in ONNX: a body collects the nodes of one function, by names of the standard's operators.

``body.MatMul(a, b)`` adds a node and returns the name of its output. The bodies use operators of opset 18 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

OPSET = 18
Value = str  # the name of a tensor inside a function


class Body:
    """The nodes of a function; names are its own."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], Value] = {}

    def __getattr__(self, operator: str) -> Callable[..., Value]:
        if not operator[0].isupper():
            raise AttributeError(operator)

        def add(*inputs: Value, **attributes: Any) -> Value:
            name = f"{operator}_{len(self.nodes)}"
            self.nodes.append(onnx.helper.make_node(operator, inputs, [name], name, **attributes))
            return name

        return add

    def constant(self, value: Any, dtype: Any = np.float32) -> Value:
        """A tensor of given numbers."""
        array = np.asarray(value, dtype=dtype)
        key = array.dtype.str, array.tobytes(), array.shape
        if key not in self._constants:
            self._constants[key] = self.Constant(value=onnx.numpy_helper.from_array(array))
        return self._constants[key]

    def ints(self, *values: int) -> Value:
        """An int64 vector."""
        return self.constant(values, np.int64)

    # --- what ONNX spells at length ---
    def columns(self, t: Value, first: int, end: int, axis: int = -1) -> Value:
        """Entries first to end - 1 of an axis."""
        return self.Slice(t, self.ints(first), self.ints(end), self.ints(axis))

    def column(self, t: Value, k: int, axis: int = -1) -> Value:
        """Entry k of an axis, without that axis."""
        return self.Squeeze(self.columns(t, k, k + 1, axis), self.ints(axis))

    def size(self, t: Value, axis: int) -> Value:
        """The length of an axis, int64 [1]."""
        return self.Shape(t, start=axis, end=axis + 1)

    def scalar(self, vector: Value) -> Value:
        """A vector of one entry as a number."""
        return self.Squeeze(vector, self.ints(0))

    def wider(self, t: Value, *axes: int) -> Value:
        """With further axes of length one."""
        return self.Unsqueeze(t, self.ints(*axes))

    def total(self, t: Value, *axes: int, keep: bool = False) -> Value:
        """Axes count from the first: from the last, ONNX Runtime 1.17 to 1.30 gives wrong shapes where t is empty."""
        return self.ReduceSum(t, self.ints(*axes), keepdims=int(keep))

    def range(self, end: Value) -> Value:
        """0 to end - 1, int64; end is a number."""
        return self.Range(self.constant(0, np.int64), end, self.constant(1, np.int64))

    def turned(self, matrix: Value) -> Value:
        return self.Transpose(matrix, perm=[1, 0])

    def double(self, t: Value) -> Value:
        return self.Cast(t, to=onnx.TensorProto.DOUBLE)

    def float(self, t: Value) -> Value:
        return self.Cast(t, to=onnx.TensorProto.FLOAT)

    def integer(self, t: Value) -> Value:
        return self.Cast(t, to=onnx.TensorProto.INT64)

    def function(
        self, name: str, inputs: Sequence[Value], outputs: Sequence[Value], attributes: Sequence[str]
    ) -> onnx.FunctionProto:
        """The function of these nodes."""
        opsets = [onnx.helper.make_opsetid("", OPSET)]
        return onnx.helper.make_function(
            "equikernels", name, list(inputs), list(outputs), self.nodes, opsets, list(attributes)
        )
