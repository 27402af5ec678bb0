"""row_mlp: a network on the rows of tables side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...backend import KERNELS, use_kernel
from ...checks import check_tensor, fail
from ...graph import Graph
from ..common import as_computed, promote, stored_as
from ..fused_op import Call, FusedOp, Spec, Tensors
from . import reference
from .activations import ACTIVATIONS
from .edge_mlp import EdgeMLP, keep_running
from .options import MEASURED, STORAGE, LayerOptions, layer_options, planning_layers
from .reference import OF_LAYER
from .synchronised import is_synchronised, synchronise

OP = "row_mlp"
KERNELS[OP] = ("cpu", "cuda")
TABLES = 3  # most tables
FIRST = TABLES + 1  # tensors before the layers': the tables, the residual
LAYERS = 0  # as csrc's RowPlan: layer by layer, each one's output kept


class RowOptions(NamedTuple):
    """Everything beside tensors, in the order of csrc's RowMlpOptions."""

    plan: int
    residual: bool
    storage: int  # see options.py
    layers: tuple[LayerOptions, ...]

    def encoded(self) -> tuple[list[int], list[float]]:
        ints, numbers = [self.plan, int(self.residual), self.storage], []
        for layer in self.layers:
            ints += [ACTIVATIONS.index(layer.activation), layer.norm]
            numbers += [layer.slope, layer.eps]
        return ints, numbers

    @classmethod
    def decoded(cls, ints: list[int], numbers: list[float]) -> RowOptions:
        layers = tuple(
            LayerOptions(ACTIVATIONS[ints[k]], numbers[k - 3], ints[k + 1], numbers[k - 2])
            for k in range(3, len(ints), 2)
        )
        return cls(ints[0], bool(ints[1]), ints[2], layers)

    def for_plan(self) -> RowOptions:
        """As far as the choice of a kernel depends on them."""
        return self._replace(layers=planning_layers(self.layers))

    def needs_edges(self) -> bool:
        return False

    def nodes(self, tensors: Tensors) -> int:
        return 0  # no graph


def row_mlp(mlp: EdgeMLP, *tables: Tensor, residual: Tensor | None = None) -> Tensor:
    r"""A network on rows, of tables side by side: what :func:`message_passing` does on edges, on nodes.

    .. math:: u^0_i = [t^1_i, t^2_i, \ldots], \quad
              u^k_i = f_k(\mathrm{norm}_k(W_k u^{k-1}_i + b_k)), \quad \mathrm{out}_i = r_i + u^L_i

    The node updates of LorentzNet, EGNN, EuclidNet and the Interaction Network. The numbers do not depend on the number
    of threads. Batch norms work as in :func:`message_passing`, over rows.

    Args:
        mlp: the layers, :meth:`EdgeMLP.of`, without gate and head; float32 or float64, on CUDA also bfloat16 or
            float16.
        tables: one to three [n, C], in the dtype of the weights; the first layer has a column for each of theirs, in
            their order.
        residual: r [n, width of the last layer], added to the output.

    Returns:
        [n, width of the last layer].

    Raises:
        ValueError, TypeError: wrong shape, dtype or device, or one row only in training a batch norm; the message names
            the argument.
    """
    if not isinstance(mlp, EdgeMLP):
        fail(OP, "mlp", "an EdgeMLP", type(mlp).__name__, TypeError)
    if mlp.gate is not None or mlp.depth != len(mlp.layers):
        fail(OP, "mlp", "layers alone", "a gate or a head")
    if not 1 <= len(tables) <= TABLES:
        fail(OP, "tables", f"1 to {TABLES}", len(tables))
    like = mlp.layers[0].weight
    check_tensor(OP, "mlp", like, ["out", "in"], stored_as(like))
    given = [promote(OP, f"tables[{k}]", t) for k, t in enumerate(tables)]
    for k, table in enumerate(given):
        check_tensor(OP, f"tables[{k}]", table, ["n", "C"] if k == 0 else [given[0].shape[0], "C"], like=like)
    columns = sum(t.shape[1] for t in given)
    if columns != like.shape[1]:
        fail(OP, "mlp", f"a first layer of {columns} columns, for the tables", f"{like.shape[1]} columns")
    if residual is not None:
        residual = promote(OP, "residual", residual)
        check_tensor(OP, "residual", residual, [given[0].shape[0], mlp.layers[-1].weight.shape[0]], like=like)
    return run(mlp, given, residual)


def run(mlp: EdgeMLP, tables: Sequence[Tensor], residual: Tensor | None = None) -> Tensor:
    """The op on checked arguments; keeps running averages."""
    rows = tables[0].shape[0]
    measured = mlp.measured()
    if measured and any(is_synchronised(norm.module) for norm in measured):
        mlp = synchronise(OP, mlp, rows, lambda first: _run(first, tables, None)[1])
        measured = mlp.measured()
    if measured and rows == 1:
        fail("BatchNorm", "tables", "more than one row when training", 1)
    out = _run(mlp, tables, residual)
    if measured:
        _keep(mlp, out, rows)
    dtype = mlp.layers[0].weight.dtype
    return out[0] if out[0].dtype == dtype else out[0].to(dtype)


def _run(mlp: EdgeMLP, tables: Sequence[Tensor], residual: Tensor | None) -> list[Tensor]:
    tensors: Tensors = [*tables, *[None] * (TABLES - len(tables)), residual, *mlp.tensors()[2:]]
    call = _call(mlp, residual is not None)
    kernel = use_kernel(OP, *[t for t in tensors if t is not None], limit=call.limit)
    return FUSED(as_computed(tensors) if call.options.storage else tensors, tables[0].shape[0], call, kernel)


_CALLS: dict[Any, Call] = {}


def _call(mlp: EdgeMLP, residual: bool) -> Call:
    compiling = torch.compiler.is_compiling()
    like = mlp.layers[0].weight  # which may have been moved since the network was read
    now = residual, like.dtype, like.device
    found: Call | None = None if compiling else mlp.calls.get(now)
    if found is None:
        key = None if compiling else (mlp.signature(), residual)
        found = _CALLS.get(key)
        if found is None:
            mlp.check(OP)
            options = RowOptions(LAYERS, residual, STORAGE.get(like.dtype, 0), layer_options(mlp))
            found = Call.of("row_mlp_plan", options, mlp.shape(), like)
        if not compiling:
            _CALLS[key] = mlp.calls[now] = found
    return found


def _keep(mlp: EdgeMLP, out: list[Tensor], rows: int) -> None:
    if len(out) > 2:
        means, variances = out[2], out[3]
    else:
        means, variances = out[1].detach().unbind()
        variances = variances * (rows / max(rows - 1, 1))
    keep_running(mlp, means, variances, rows)


def _reference(tensors: Tensors, graph: Graph | None, options: RowOptions) -> list[Tensor]:
    """[out, statistics], the second empty without measured norms."""
    h = torch.cat([t for t in tensors[:TABLES] if t is not None], dim=1)
    measured = []
    for k, of_layer in enumerate(options.layers):
        at = FIRST + OF_LAYER * k
        h, mean, variance = reference.layer(h, tensors[at : at + OF_LAYER], of_layer)
        if of_layer.norm == MEASURED:
            measured.append(torch.stack([mean, variance]))
    residual = tensors[TABLES]
    statistics = torch.cat(measured, dim=1) if measured else h.new_empty(0)
    return [h if residual is None else residual + h, statistics]


def _shapes(tensors: Tensors, rows: Any, options: RowOptions) -> list[Tensor]:
    like = tensors[FIRST]
    assert like is not None
    widths = [w.shape[0] for w in tensors[FIRST::OF_LAYER] if w is not None]
    measured = sum(w for w, layer in zip(widths, options.layers, strict=True) if layer.norm == MEASURED)
    last = options.layers[-1]
    kept = sum(widths[:-1]) + (widths[-1] if last.norm == MEASURED or last.activation != "identity" else 0)
    return [
        like.new_empty(rows, widths[-1]),
        like.new_empty(2, measured, dtype=torch.float64) if measured else like.new_empty(0),
        *(like.new_empty(measured) for _ in range(2)),
        like.new_empty(rows * (kept if options.plan == LAYERS else 0)),
    ]


FUSED = FusedOp(Spec(OP, RowOptions, _reference, _shapes, differentiable=2, saved=(1, 4)))
