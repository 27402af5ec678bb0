"""Gives the nodes of this package in an ONNX model their functions: one for each configuration of an op."""

from __future__ import annotations

import onnx

from . import onnx_pairs as onnx_pairs  # fills FORMULAS
from .onnx_body import Body
from .onnx_formulas import FORMULAS, Arguments, Unsupported
from .onnx_nodes import DOMAIN, NUMBER, VERSION, Configuration, Nodes


def with_functions(model: onnx.ModelProto, nodes: Nodes) -> onnx.ModelProto:
    """The model with a function for each configuration that its nodes have.

    Raises:
        ValueError: an op, or an option of one, has no formula.
    """
    configurations = {number: configuration for configuration, number in nodes.made.items()}
    used: dict[int, str] = {}
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        mark = next(attribute for attribute in node.attribute if attribute.name == NUMBER)
        node.overload = used.setdefault(mark.i, str(len(used)))
        node.attribute.remove(mark)
    for number, overload in used.items():
        model.functions.append(function_of(configurations[number], overload))
    model.ir_version = max(model.ir_version, 10)
    if not any(opset.domain == DOMAIN for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    return model


def function_of(configuration: Configuration, overload: str) -> onnx.FunctionProto:
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
    return body.function(configuration.op, arguments.inputs, outputs, attributes, overload)
