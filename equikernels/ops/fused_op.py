"""FusedOp: a kernel and its reference behind one call, with every derivative derived.

The schema of a fused op ``name`` and of its backward, whatever the op:

    name(Tensor?[] tensors, Tensor graph, SymInt num_edges, int kind, int[] options, float[] numbers) -> Tensor[]
    name_backward(Tensor?[] grads, Tensor?[] tensors, Tensor[] saved, <the graph and the options>, bool[] wanted)
        -> Tensor[]

``tensors`` are the op's tensors, absent ones None; ``options`` and ``numbers`` encode the fields of its options. The
backward gives the gradients of the wanted tensors. Its own backward is the derivative of the reference, which PyTorch
takes: any higher order costs memory for all edges, and no kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _native
from ..backend import current, use_backend
from ..graph import Graph
from .autograd import _library, double_backward, reference_vjp
from .common import graph_arguments, graph_from, through_dispatcher

NO_GRAPH = 3  # the kind of graph that stands for rows
Tensors = list[Tensor | None]


@dataclass(frozen=True)
class Spec:
    """What there is to know of a fused op.

    Attributes:
        name: of its schema.
        options: the class of its options: a NamedTuple with ``encoded()`` and ``decoded(ints, numbers)``.
        reference: (tensors, graph or None, options) -> the differentiable outputs, as the kernel gives them; those not
            asked for are empty.
        shapes: (tensors, number of edges or rows, options) -> every output of the kernel, uninitialised.
        differentiable: how many outputs are; the others are for backward, or of the batch.
        saved: which outputs backward reads.
    """

    name: str
    options: Any
    reference: Callable[[Tensors, Graph | None, Any], list[Tensor]]
    shapes: Callable[[Tensors, Any, Any], list[Tensor]]
    differentiable: int
    saved: tuple[int, ...]


class Call(NamedTuple):
    """The options of a call, encoded, and the kernel's plan for it. Calls alike share one."""

    options: Any
    limit: str | None  # why no kernel runs it
    ints: list[int]
    numbers: list[float]
    needs_edges: bool

    @classmethod
    def of(cls, query: str, options: Any, shape: tuple[int, ...], like: Tensor) -> Call:
        """Plans a call: ``query`` names the op that is asked for the plan, ``shape`` is what it wants to know beside
        the options, ``like`` lies where the kernel would run."""
        plan = "no kernel"
        if like.numel() > 0 and _native.cpu_reason is None:
            plan = planned(query, options, shape, like)
        limit = None if plan.isdigit() else plan
        if limit is None:
            options = options._replace(plan=int(plan))
        ints, numbers = options.encoded()
        return cls(options, limit, ints, numbers, options.needs_edges())


class FusedOp:
    """Calls the kernel of a :class:`Spec`, and registers what PyTorch wants to know of it."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        _BY_NAME[spec.name] = self
        if _native.cpu_reason is not None:
            return
        namespace = torch.ops.equikernels
        self.op = getattr(namespace, spec.name).default
        self.backward_op = getattr(namespace, f"{spec.name}_backward").default
        torch.library.register_fake(f"equikernels::{spec.name}", self._fake)
        torch.library.register_fake(f"equikernels::{spec.name}_backward", self._fake_backward)
        _library.impl(spec.name, self._autograd, "Autograd", with_keyset=True)
        _library.impl(f"{spec.name}_backward", self._autograd_backward, "Autograd", with_keyset=True)

    def __call__(self, tensors: Tensors, graph: Graph | int, call: Call, kernel: bool) -> list[Tensor]:
        """All outputs of the kernel, or those of the reference.

        Args:
            tensors: in the op's order, None where absent.
            graph: the edges; or, where the op works on rows, how many there are.
            call: the options.
            kernel: whether the kernel runs, or the reference.
        """
        if not kernel:
            return self.spec.reference(tensors, graph if isinstance(graph, Graph) else None, call.options)
        traced = through_dispatcher()
        if isinstance(graph, Graph):
            where: tuple[Any, ...] = graph_arguments(graph, call.needs_edges)
        else:
            where = _no_table(tensors, traced), graph, NO_GRAPH
        if traced:
            return self.op(tensors, *where, call.ints, call.numbers)
        return self._autograd(None, tensors, *where, call.ints, call.numbers)

    def _autograd(self, keyset: Any, tensors: Tensors, *rest: Any) -> list[Tensor]:
        if torch.is_grad_enabled() and _any_requires_grad(tensors):
            where = [k for k, t in enumerate(tensors) if t is not None]
            places = where, len(tensors)
            return list(_Forward.apply(self, keyset, rest, places, *[t for t in tensors if t is not None]))
        return _below(self.op, keyset, tensors, *rest)

    def _autograd_backward(self, keyset: Any, grads: Tensors, tensors: Tensors, saved: Tensors, *rest: Any) -> Any:
        if torch.is_grad_enabled() and _any_requires_grad([*grads, *tensors]):
            return list(_Backward.apply(self, keyset, rest, len(grads), saved, *grads, *tensors))
        return _below(self.backward_op, keyset, grads, tensors, saved, *rest)

    def backward_directly(self, *arguments: Any) -> Any:
        """The backward op, called without the dispatcher above autograd."""
        return self._autograd_backward(None, *arguments)

    def _fake(self, tensors: Tensors, table: Tensor, num_edges: Any, kind: int, *encoded: Any) -> list[Tensor]:
        return self.spec.shapes(tensors, num_edges, self.spec.options.decoded(*encoded))

    def _fake_backward(self, grads: Tensors, tensors: Tensors, *rest: Any) -> list[Tensor]:
        given = zip(tensors, rest[-1], strict=True)
        return [t.new_empty(t.shape) for t, want in given if t is not None and want]

    def differentiated(self, grads: Tensors, tensors: Tensors, rest: Sequence[Any], flowing: Tensors) -> list[Any]:
        """Backward of the backward: gradients of ``grads`` and ``tensors``, given those of what it returned."""
        *where, wanted = rest
        function, present, outputs = self._reference_of(grads, tensors, where)
        primals: list[Tensor] = [tensors[k] for k in present]  # type: ignore[misc]
        # a gradient that was not wanted has nothing flowing back into it
        given = iter(flowing)
        of_tensor = [next(given) if want else None for want in wanted]
        back = [
            torch.zeros_like(t) if (g := of_tensor[k]) is None else g for k, t in zip(present, primals, strict=True)
        ]
        result = double_backward(function, primals, [grads[k] for k in outputs], back)  # type: ignore[misc]
        found: list[Any] = [None] * (len(grads) + len(tensors))
        for k, r in zip([*outputs, *(len(grads) + k for k in present)], result, strict=True):
            found[k] = r
        return found

    def by_reference(self, grads: Tensors, tensors: Tensors, rest: Sequence[Any]) -> list[Any]:
        """The backward where cotangents are batched, which no kernel takes."""
        function, present, outputs = self._reference_of(grads, tensors, rest)
        result = reference_vjp(function, [tensors[k] for k in present], [grads[k] for k in outputs])  # type: ignore[misc]
        found: list[Any] = [None] * len(tensors)
        for k, r in zip(present, result, strict=True):
            found[k] = r
        return found

    def _reference_of(self, grads: Tensors, tensors: Tensors, rest: Sequence[Any]) -> tuple[Any, list[int], list[int]]:
        """The reference as a function of the tensors that are present to the outputs that have a cotangent, and the
        numbers of both."""
        table, num_edges, kind, ints, numbers = rest
        options = self.spec.options.decoded(ints, numbers)
        present = [k for k, t in enumerate(tensors) if t is not None]
        outputs = [k for k, g in enumerate(grads) if g is not None]
        graph = None if kind == NO_GRAPH else graph_from(table, num_edges, kind, options.nodes(tensors))

        def function(*primals: Tensor) -> tuple[Tensor, ...]:
            filled: Tensors = [None] * len(tensors)
            for k, p in zip(present, primals, strict=True):
                filled[k] = p
            out = self.spec.reference(filled, graph, options)
            return tuple(out[k] for k in outputs)

        return function, present, outputs


_BY_NAME: dict[str, FusedOp] = {}


def fused_op(name: str) -> FusedOp | None:
    """The fused op of that name; None: the op is registered on its own."""
    return _BY_NAME.get(name)


_NO_TABLE = torch.empty(0, dtype=torch.int64)


def _no_table(tensors: Tensors, traced: bool) -> Tensor:
    like = tensors[0] if tensors[0] is not None else next(t for t in tensors if t is not None)
    if like.device.type == "cpu" and not traced:
        return _NO_TABLE  # making one takes as long as a small product
    return like.new_empty(0, dtype=torch.int64)


def planned(query: str, options: Any, shape: tuple[int, ...], like: Tensor) -> str:
    """The kernel's plan for a call, as a number; otherwise why no kernel runs it. C++ decides.

    Args:
        query: name of the op that is asked.
        options: as for the call.
        shape: what the choice depends on beside them, as the query takes it.
        like: a tensor where the kernel would run.
    """
    ints, numbers = options.for_plan().encoded()
    cuda = like.is_cuda and _native.cuda_reason is None
    name, index = (f"{query}_cuda", like.device.index) if cuda else (query, -1)
    if torch.compiler.is_compiling():
        return _asked(name, index, *(" ".join([f"{v}" for v in values]) for values in (shape, ints, numbers)))
    return _answer(name, index, shape, tuple(ints), tuple(numbers))


def _asked(query: str, index: int, shape: str, ints: str, numbers: str) -> str:
    whole = (tuple(map(int, text.split())) for text in (shape, ints))
    return _answer(query, index, *whole, tuple(map(float, numbers.split())))


# As torch._dynamo.assume_constant_result does (which takes no tuples); importing it would import Triton.
_asked._dynamo_marked_constant = True  # type: ignore[attr-defined]


@lru_cache(maxsize=4096)
def _answer(query: str, index: int, shape: tuple[int, ...], ints: tuple[int, ...], numbers: tuple[float, ...]) -> str:
    with torch.cuda.device(index if torch.cuda.is_available() else -1):  # C++ asks what it allows; -1: the current one
        return str(getattr(torch.ops.equikernels, query)(list(shape), list(ints), list(numbers)))


def _is_batched(t: Tensor, like: Tensor) -> bool:
    """Whether autograd batches cotangents (is_grads_batched); ``like`` is a tensor that is not batched."""
    keys = torch._C._dispatch_keys(t)
    return keys != torch._C._dispatch_keys(like) and "Batched" in repr(keys)  # a key that Python has no name for


def _any_requires_grad(tensors: Sequence[Tensor | None]) -> bool:
    return torch._C._any_requires_grad(*tensors)


def _below(op: Any, keyset: Any, *arguments: Any) -> Any:
    """The op without autograd; ``keyset`` as its autograd was called with, None where it was called directly."""
    with torch._C._AutoDispatchBelowAutograd():
        if keyset is None:
            return op(*arguments)
        return op.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)


class _Forward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fused: FusedOp, keyset: Any, rest: Any, places: Any, *given: Tensor) -> tuple[Tensor, ...]:
        spec = fused.spec
        outputs = _below(fused.op, keyset, _placed(given, places), *rest)
        table, *ctx.rest = rest
        ctx.fused, ctx.backend, ctx.places = fused, current(), places
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*outputs[spec.differentiable :])
        ctx.save_for_backward(*given, table, *(outputs[k] for k in spec.saved))
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
        fused: FusedOp = ctx.fused
        places, count = ctx.places
        # An output that was not asked for is empty, and tracing may still bring a (likewise empty) cotangent for it.
        given = [g if g is None or g.dim() > 1 else None for g in grads[: fused.spec.differentiable]]
        if all(g is None for g in given):
            return (None,) * (4 + len(places))
        saved = ctx.saved_tensors  # once: torch.utils.checkpoint keeps them for one reading
        tensors, table, kept = _placed(saved, ctx.places), saved[len(places)], list(saved[len(places) + 1 :])
        if any(g is not None and _is_batched(g, saved[0]) for g in given):
            found = fused.by_reference(given, tensors, [table, *ctx.rest])
            return None, None, None, None, *(found[k] for k in places)
        wanted = [False] * count
        for k, want in zip(places, ctx.needs_input_grad[4:], strict=True):
            wanted[k] = want
        arguments = given, tensors, kept, table, *ctx.rest, wanted
        with nullcontext() if ctx.backend == current() else use_backend(ctx.backend):
            backward = fused.backward_op if through_dispatcher() else fused.backward_directly
            out = iter(backward(*arguments))
        return None, None, None, None, *(next(out) if want else None for want in ctx.needs_input_grad[4:])


def _placed(given: Sequence[Tensor], places: tuple[list[int], int]) -> Tensors:
    """The first tensors given, in their places of a list that is None elsewhere."""
    where, count = places
    tensors: Tensors = [None] * count
    for k, t in zip(where, given, strict=False):
        tensors[k] = t
    return tensors


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fused: FusedOp, keyset: Any, rest: Any, count: int, saved: Any, *flat: Any) -> Any:
        grads, tensors = list(flat[:count]), list(flat[count:])
        out = _below(fused.backward_op, keyset, grads, tensors, saved, *rest)
        table, *ctx.rest = rest
        ctx.fused, ctx.count = fused, count
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*flat, table)
        return tuple(out)

    @staticmethod
    def backward(ctx: Any, *flowing: Tensor | None) -> tuple[Any, ...]:
        *flat, table = ctx.saved_tensors
        grads, tensors = flat[: ctx.count], flat[ctx.count :]
        found = ctx.fused.differentiated(grads, tensors, [table, *ctx.rest], list(flowing))
        return None, None, None, None, None, *found
