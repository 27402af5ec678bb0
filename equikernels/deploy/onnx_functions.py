"""Gives the nodes of this package in an ONNX model their functions: one for each configuration of an op."""

from __future__ import annotations

from collections import Counter

import onnx

from . import onnx_pairs as onnx_pairs  # fills FORMULAS
from .onnx_body import Body
from .onnx_formulas import FORMULAS, Arguments, Unsupported
from .onnx_nodes import DOMAIN, NUMBER, VERSION, Configuration, Nodes

IR_VERSION = 8  # the first with functions in a model


def with_functions(model: onnx.ModelProto, nodes: Nodes) -> onnx.ModelProto:
    """The model with a function for each configuration that its nodes have.

    Raises:
        ValueError: an op, or an option of one, has no formula.
    """
    configurations = {number: configuration for configuration, number in nodes.made.items()}
    names: dict[int, str] = {}
    of_op: Counter[str] = Counter()
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        mark = next(attribute for attribute in node.attribute if attribute.name == NUMBER)
        if mark.i not in names:
            names[mark.i] = name_of_function(node.op_type, of_op[node.op_type])
            of_op[node.op_type] += 1
        node.op_type = names[mark.i]
        node.attribute.remove(mark)
    for number, name in names.items():
        model.functions.append(function_of(configurations[number], name))
    model.ir_version = IR_VERSION
    if not any(opset.domain == DOMAIN for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    return model


def name_of_function(op: str, number: int) -> str:
    """The op's name, with a number behind it for its further configurations: csrc/onnxruntime knows the first 32."""
    return op if number == 0 else f"{op}_{number}"


def function_of(configuration: Configuration, name: str) -> onnx.FunctionProto:
    """The formula of an op on these arguments."""
    formula = FORMULAS.get(configuration.op)
    if formula is None:
        raise Unsupported(f"export_onnx: {configuration.op} has no ONNX formula")
    body, arguments = Body(), Arguments(configuration)
    try:
        outputs = formula(body, arguments)
    except Unsupported as error:
        raise Unsupported(f"export_onnx: {configuration.op}: no ONNX formula for {error}") from None
    assert len(outputs) == configuration.outputs
    attributes = [name for name, _ in configuration.attributes]
    return body.function(name, arguments.inputs, outputs, attributes)
