"""Replaces the ops of an exported program by ONNX nodes of the domain ``equikernels``, all arguments kept.

A node has the op's name. Its inputs are the tensors that are given, in the order of the op's schema; its attributes are
the other arguments by name (numbers that are not whole as text), ``present`` (for each tensor of the schema: whether it
is given) and ``dynamic``: where among all integers of the call those stand that the last input, an int64 vector, has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..ops.fused_op import fused_op
from .onnx_double import DECOMPOSITIONS

DOMAIN, VERSION = "equikernels", 1
IN_DOUBLE = ("invariants", "rank2_products")  # ops whose formula is in float64 whatever their input
ALSO_DOUBLE = ("segment_sum",)  # ops whose formula is in the dtype of their input
NUMBER = "configuration"  # attribute of a node while a model is made: the number of its Configuration


@dataclass(frozen=True)
class Configuration:
    """What a node's formula depends on.

    Attributes:
        op: the op's name.
        arguments: by name; a tensor or a list of tensors as its shape or shapes, a size known at run time as None.
        attributes: of the node.
        outputs: number of outputs of the node.
        double: whether the node has tensors of float64, for which there is no kernel.
    """

    op: str
    arguments: tuple[tuple[str, Any], ...]
    attributes: tuple[tuple[str, Any], ...]
    outputs: int
    double: bool = False

    @property
    def node(self) -> str:
        """The name of the node: without a kernel another one."""
        return f"{self.op}_double" if self.double else self.op


@dataclass
class Nodes:
    """The configurations of the nodes that were made, in the order of their numbers."""

    made: dict[Configuration, int] = field(default_factory=dict)

    def table(self) -> dict[Any, Callable[..., Any]]:
        """For ``ExportedProgram.run_decompositions``: an op to the function that makes its node."""
        names = torch._C._dispatch_get_all_op_names()
        ours = sorted({name for name in names if name.startswith("equikernels::") and "backward" not in name})
        ops = (getattr(torch.ops.equikernels, name.split("::")[1].split(".")[0]).default for name in ours)
        nodes = {op: partial(self.node, op) for op in ops if _returns_tensors(op)}
        others: dict[Any, Any] = torch.export.default_decompositions()
        aten = torch.ops.aten
        others.update({**nodes, **DECOMPOSITIONS, aten.repeat_interleave.Tensor: _repeated, aten.sort.stable: _sorted})
        others[aten.empty_permuted.default] = _room
        return others

    def node(self, op: Any, *given: Any, **named: Any) -> Any:
        """What the op returns, from a node; outputs that evaluation does not read are empty."""
        values = [*given, *(named[a.name] for a in op._schema.arguments[len(given) :])]
        with _disable_current_modes():  # which would decompose this call too
            fakes = op(*values)
        outputs = [fakes] if isinstance(fakes, Tensor) else list(fakes)
        kept = read_outputs(op, outputs)
        inputs, configuration = described(op, values, len(kept))
        number = self.made.setdefault(configuration, len(self.made))
        made = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{configuration.node}",
            inputs,
            {**{k: list(v) if isinstance(v, tuple) else v for k, v in configuration.attributes}, NUMBER: number},
            dtypes=[
                torch.float64 if configuration.double else torch.float32 for _ in kept
            ],  # a custom op's have one type
            shapes=[outputs[k].shape for k in kept],
            version=VERSION,
        )
        for k, t in zip(kept, made, strict=True):
            outputs[k] = t.to(outputs[k].dtype)
        return outputs[0] if isinstance(fakes, Tensor) else outputs


def described(op: Any, values: Sequence[Any], outputs: int) -> tuple[list[Tensor], Configuration]:
    """The inputs of an op's node, and what else there is to say of it.

    Args:
        op: of ``torch.ops.equikernels``.
        values: its arguments, all of them.
        outputs: how many its node has.

    Raises:
        ValueError: float64 tensors, of an op that is not computed in float64 anyway.
    """
    inputs: list[Tensor] = []
    attributes: dict[str, Any] = {}
    present: list[int] = []
    dynamic: list[tuple[int, Any]] = []
    integers = 0
    arguments: list[tuple[str, Any]] = []
    for argument, value in zip(op._schema.arguments, values, strict=True):
        name, kind = argument.name, str(argument.type)
        several = "List" in kind
        if "Tensor" in kind:
            tensors = list(value) if several else [value]
            present += [int(t is not None) for t in tensors]
            inputs += [t for t in tensors if t is not None]
            shapes = tuple(None if t is None else _known(t.shape) for t in tensors)
            arguments.append((name, shapes if several else shapes[0]))
        elif "int" in kind or "bool" in kind:
            whole = list(value) if several else [value]
            dynamic += [(integers + k, v) for k, v in enumerate(whole) if _symbolic(v)]
            integers += len(whole)
            fixed = tuple(-1 if _symbolic(v) else int(v) for v in whole)
            attributes[name] = fixed if several else fixed[0]
            arguments.append((name, _known(whole) if several else _known(whole)[0]))
        else:
            arguments.append((name, tuple(value) if several else value))
            if value is not None:
                # exact, and of ONNX's attributes only text keeps all digits of a double
                attributes[name] = " ".join(repr(float(number)) for number in (value if several else [value]))
    double = name_of(op) not in IN_DOUBLE and any(t.dtype == torch.float64 for t in inputs)
    if double and name_of(op) not in ALSO_DOUBLE:
        raise ValueError(f"export_onnx: {name_of(op)}: expected float32 tensors, got float64")
    if 0 in present:
        attributes["present"] = tuple(present)
    if dynamic:
        attributes["dynamic"] = tuple(at for at, _ in dynamic)
        device = inputs[0].device
        inputs.append(torch.cat([torch.full((1,), size, dtype=torch.int64, device=device) for _, size in dynamic]))
    frozen = tuple((k, v) for k, v in attributes.items() if v not in ((), ""))  # ONNX has no type for an empty list
    return inputs, Configuration(name_of(op), tuple(arguments), frozen, outputs, double)


def read_outputs(op: Any, outputs: Sequence[Tensor]) -> list[int]:
    """Which outputs a node has: those that evaluation may read."""
    fused = fused_op(name_of(op))
    return [
        k
        for k, t in enumerate(outputs)
        if t.is_floating_point() and (fused is None or (k < fused.spec.differentiable and t.dim() > 1))
    ]


def name_of(op: Any) -> str:
    return str(op._schema.name.split("::")[1])


def _repeated(repeats: Tensor, *, output_size: Any) -> Tensor:
    """The number of each row, as often as ``repeats`` says: PyTorch's exporter does not take ``output_size``."""
    ends = repeats.cumsum(0)
    return (torch.arange(output_size, device=repeats.device)[:, None] >= ends).sum(1)


def _room(size: Sequence[Any], physical_layout: Sequence[int], **options: Any) -> Tensor:
    """Zeros: the exporter does not take tensors of no values in a layout."""
    return torch.zeros(size, dtype=options.get("dtype"), device=options.get("device"))


def _sorted(values: Tensor, *, stable: bool, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    """A stable sort of a vector of indices (not negative): ONNX has none, but no two of these keys are equal."""
    if values.dim() != 1 or values.dtype != torch.int64 or descending:
        raise ValueError("export_onnx: only vectors of indices can be sorted")
    length = values.shape[0]
    count = torch.full((1,), length, device=values.device).clamp(min=1)  # a tensor: the exporter takes no symbol
    keys = values * count + torch.arange(length, device=values.device)
    order = torch.topk(keys, length, largest=False, sorted=True)[0] % count
    return values[order], order


def _returns_tensors(op: Any) -> bool:
    return all("Tensor" in str(output.type) for output in op._schema.returns)


def _symbolic(value: Any) -> bool:
    return isinstance(value, torch.SymInt) and not value.node.is_constant()


def _known(sizes: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(None if _symbolic(size) else int(size) for size in sizes)
