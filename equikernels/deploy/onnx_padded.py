"""Lets an ONNX model of packed events read padded ones: drops the padding before it and puts it back behind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from .inputs import NODES, PTR, Input
from .onnx_body import Body

BATCH, SLOTS = "batch", "particles"


def pad(model: onnx.ModelProto, inputs: Sequence[Input], slots: int | None) -> onnx.ModelProto:
    """The model on [B, N, ...] and a mask.

    Args:
        model: reads rows of particles and ptr.
        inputs: what it reads.
        slots: N; any, where None.
    """
    graph = model.graph
    b = Body()
    last: str | int = slots or SLOTS
    given = [helper.make_tensor_value_info("mask", TensorProto.FLOAT, [BATCH, last])]
    real = b.Greater("mask", b.constant(0.5))
    places = b.Reshape(real, b.ints(-1))
    row = next(v.type.tensor_type.shape.dim[0].dim_param for v in graph.input if v.name != PTR.name)
    offsets = next(v.type.tensor_type.shape.dim[0].dim_param for v in graph.input if v.name == PTR.name)
    events = f"{offsets} - 1"
    for k, of in enumerate(inputs):
        if of.rows != NODES:
            continue
        packed = f"{of.name}_packed"
        given.insert(k, helper.make_tensor_value_info(of.name, TensorProto.FLOAT, [BATCH, last, of.width]))
        rows = b.Compress(b.Reshape(of.name, b.ints(-1, of.width)), places, axis=0)
        _rename(graph, of.name, packed)
        b.nodes.append(helper.make_node("Identity", [rows], [packed]))
    counts = b.total(b.integer(real), 1)
    ptr = b.Concat(b.ints(0), b.CumSum(counts, b.constant(0, np.int64)), axis=0)
    b.nodes.append(helper.make_node("Identity", [ptr], [PTR.name]))
    before = len(b.nodes)
    for output in graph.output:
        dims = output.type.tensor_type.shape.dim
        if dims[0].dim_param == row:
            _unpack(graph, b, output, places, real)
        elif dims[0].dim_param == events:
            dims[0].dim_param = BATCH
    for number, node in enumerate(b.nodes):
        node.name = f"padding_{number}"
    nodes = [*b.nodes[:before], *graph.node, *b.nodes[before:]]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.input[:]
    graph.input.extend(given)
    return model


def _unpack(graph: onnx.GraphProto, b: Body, output: onnx.ValueInfoProto, places: str, real: str) -> None:
    """[B, N, ...] of an output of rows of particles."""
    name, rows = output.name, f"{output.name}_packed"
    _rename(graph, name, rows)
    at = b.Transpose(b.NonZero(places), perm=[1, 0])
    zeros = b.Expand(b.constant(0.0), b.Concat(b.Shape(places), b.Shape(rows, start=1), axis=0))
    whole = b.ScatterND(zeros, at, rows)
    shape = b.Concat(b.Shape(real), b.Shape(rows, start=1), axis=0)
    b.nodes.append(helper.make_node("Reshape", [whole, shape], [name]))
    rest = [d.dim_value or d.dim_param for d in output.type.tensor_type.shape.dim][1:]
    output.CopyFrom(helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, SLOTS, *rest]))


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                if name == old:
                    names[k] = new
    for value in graph.value_info:
        if value.name == old:
            value.name = new
