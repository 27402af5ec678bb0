"""EGNN, its velocity variant and Radial Field: symmetries, coincident points, odd graphs, dtypes, compilation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import equikernels as ek
from equikernels import published
from equikernels.models import EGNN
from equikernels.nn import EGCL, EGCLVelocity, RadialFieldLayer

from ..support.golden import filled
from ..support.points import (
    MODELS,
    Points,
    close,
    layer_pair,
    model_pair,
    points,
    run,
    weighted,
)
from ..support.tools import rotation


# --- Symmetries -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "options"), MODELS)
@pytest.mark.parametrize("dim", [2, 3, 5])
@pytest.mark.parametrize("reflection", [False, True])
def test_euclidean_equivariance(name: str, options: dict[str, Any], dim: int, reflection: bool, backend: str) -> None:
    p = points(dim=dim)
    q = rotation(dim, "euclidean")
    if (torch.linalg.det(q) < 0) != reflection:
        q = torch.cat([-q[:1], q[1:]])
    shift = torch.linspace(-2, 5, dim, dtype=torch.float64)
    model = model_pair(name, **options)[0]
    *h, x = run(model, p)
    *h_moved, x_moved = run(model, p._replace(x=p.x @ q.T + shift, vel=p.vel @ q.T))
    assert (x - p.x).abs().max() > 1e-2
    torch.testing.assert_close(x_moved, x @ q.T + shift, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(h_moved, h, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_permutation(name: str, options: dict[str, Any]) -> None:
    p = points()
    nodes, edges = torch.randperm(len(p.h)), torch.randperm(p.graph.num_edges)
    place = torch.argsort(nodes)
    graph = ek.Graph.from_edge_index(place[p.graph.edge_index][:, edges], len(nodes))
    moved = Points(p.h[nodes], p.x[nodes], p.vel[nodes], p.edge_attr[edges], graph)
    model = model_pair(name, **options)[0]
    for out, expected in zip(run(model, moved), run(model, p), strict=True):
        torch.testing.assert_close(out, expected[nodes], rtol=1e-11, atol=1e-12)


# --- Edges of the domain ----------------------------------------------------------------------------------------
def coincident() -> Points:
    p = points()  # with self-loops
    x = p.x.clone()
    x[p.graph.sender[0]] = x[p.graph.receiver[0]]
    return p._replace(x=x)


@pytest.mark.parametrize("name", ["plain", "attention", "normalize", "all"])
def test_coincident_points_give_the_published_gradients(name: str) -> None:
    p, results = coincident(), []
    for model in layer_pair("clean", name, 2, 0):
        x = p.x.clone().requires_grad_()
        out = model(p.h, x, p.graph, p.edge_attr) if isinstance(model, EGCL) else model(p.h, p.rows, x, p.edge_attr)[:2]
        results.append([*out, *torch.autograd.grad(weighted(*out), [x, *model.parameters()])])
    assert all(t.isfinite().all() for t in results[0])
    close(*results)


def test_coincident_points_where_the_published_formula_fails() -> None:
    """A norm that is differentiated: the published gradient is NaN, ours takes the norm's derivative as 0."""
    p = coincident()
    pairs = [layer_pair("old", "norm_diff", 2, 0), [filled(c(6, 2)) for c in (RadialFieldLayer, published.GCL_rf_vel)]]
    for pair in pairs:
        outputs, finite = [], []
        for model in pair:
            x = p.x.clone().requires_grad_()
            if isinstance(model, EGCL):
                out = model(p.h, x, p.graph, p.edge_attr)[1]
            elif isinstance(model, published.E_GCL):
                out = model(p.h, p.rows, x, p.edge_attr)[1]
            elif isinstance(model, RadialFieldLayer):
                out = model(x, p.graph, p.vel, p.edge_attr)
            else:
                out = model(x, p.speed, p.vel, p.rows, p.edge_attr)[0]
            outputs.append(out)
            finite.append(bool(torch.autograd.grad(weighted(out), x)[0].isfinite().all()))
        close(outputs[:1], outputs[1:])
        assert finite == [True, False]


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_no_edges_and_no_nodes(name: str, options: dict[str, Any]) -> None:
    model, theirs = model_pair(name, **options)
    p = points()
    for n in (3, 0):
        graph = ek.Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), n)
        empty = Points(p.h[:n], p.x[:n].clone().requires_grad_(), p.vel[:n], p.edge_attr[:0], graph)
        outputs = run(model, empty)
        for out, expected in zip(outputs, run(theirs, empty), strict=True):
            torch.testing.assert_close(out, expected)
        assert torch.autograd.grad(weighted(*outputs), empty.x)[0].shape == (n, 3)


def test_an_edge_index_serves_as_graph() -> None:
    p = points()
    for name, options in MODELS:
        model = model_pair(name, **options)[0]
        expected = run(model, p)
        given = run(model, p._replace(graph=p.graph.edge_index))
        assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))


def test_float64_coordinates_beside_float32_features() -> None:
    p = points()
    for name, options in MODELS:
        model = model_pair(name, **options)[0]
        expected = run(model, p)
        outputs = run(model.float(), p._replace(h=p.h.float(), edge_attr=p.edge_attr.float()))
        assert outputs[-1].dtype == torch.float64
        assert all(out.dtype == torch.float32 for out in outputs[:-1])
        for out, e in zip(outputs, expected, strict=True):
            torch.testing.assert_close(out.double(), e, rtol=1e-4, atol=1e-4)


def test_autocast_keeps_coordinates() -> None:
    p = points(self_loops=False)
    for name, options in MODELS:
        model = model_pair(name, **options)[0].float()
        single = Points(*(t.float() for t in p[:4]), p.graph)
        expected = run(model, single)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = run(model, single)
        assert outputs[-1].dtype == torch.float32
        for out, e in zip(outputs, expected, strict=True):
            assert (out.float() - e).abs().max() <= 0.05 * e.abs().max()


class LargestOutput(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            self.numel = max(self.numel, t.numel() if isinstance(t, Tensor) else 0)
        return out


def test_training_makes_no_tensor_of_edges() -> None:
    p = points(n=20, edges=4000, attr=0)
    p.graph.table  # noqa: B018 (made on first use: the edges' order)
    sizes = {}
    for make in (EGNN, published.EGNN):
        model = make(5, 16, 2, n_layers=2, attention=True).double()
        args = (p.graph if make is EGNN else p.rows,)
        with LargestOutput() as largest:
            weighted(*model(p.h, p.x, *args)).backward()
        sizes[make] = largest.numel
    assert sizes[EGNN] < 4000 < 4000 * 16 <= sizes[published.EGNN]


@pytest.mark.parametrize(("name", "options"), [MODELS[1], MODELS[4], MODELS[5]])
@pytest.mark.parametrize("edge_index", [False, True])
def test_compiles_with_changing_sizes(name: str, options: dict[str, Any], edge_index: bool) -> None:
    torch._dynamo.reset()
    model = model_pair(name, **options)[0]
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=True, backend="aot_eager")
    for n, edges in ((12, 50), (7, 31), (20, 90)):
        p = points(n, edges, self_loops=False)
        graph = p.graph.edge_index if edge_index else p.graph
        results = []
        for f in (model, compiled):
            x = p.x.clone().requires_grad_()
            if name == "EGNN":
                out = f(p.h, x, graph, p.edge_attr)
            elif name == "EGNNVelocity":
                out = (f(p.h, x, graph, p.vel, p.edge_attr),)
            else:
                out = (f(x, graph, p.vel, p.edge_attr),)
            results.append([*out, torch.autograd.grad(weighted(*out), x)[0]])
        close(results[1], results[0])


def test_exports_with_any_size() -> None:
    model = model_pair("EGNN", attention=True)[0]
    rows = {0: torch.export.Dim.AUTO}
    size = rows[0]

    def inputs(n: int, edges: int) -> tuple[Any, ...]:
        p = points(n, edges)
        return p.h, p.x, p.graph, p.edge_attr

    # a Graph's leaves: table, num_nodes, num_edges, edge_index
    shapes = (rows, rows, [rows, size, size, {1: size}], rows)
    program = torch.export.export(model, inputs(12, 50), dynamic_shapes=shapes)
    assert any("equikernels" in str(node.target) for node in program.graph.nodes)
    for sizes in ((12, 50), (20, 90)):
        for out, expected in zip(program.module()(*inputs(*sizes)), model(*inputs(*sizes)), strict=True):
            torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-14)


class Shifted(nn.SiLU):
    def forward(self, z: Tensor) -> Tensor:
        return super().forward(z) - 0.5


def test_checks_are_named() -> None:
    p = points()
    layer = filled(EGCL(5, 5, 6, 2, 3))
    velocity = filled(EGCLVelocity(5, 5, 6))
    radial = filled(RadialFieldLayer(6, 2))
    model = filled(EGNN(5, 8, 2, 2))
    s = torch.zeros(12, 3).double()
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (
            lambda: EGCL(5, 6, 7),
            ValueError,
            "EGCL: output_nf: expected 5, the width of the input, with",
        ),
        (lambda: EGCL(5, 5, 7, norm_diff=True, normalize=True), ValueError, "EGCL: normalize: expected False with"),
        (lambda: EGCL(5, 5, 7, coords_agg="max"), ValueError, "EGCL: coords_agg: expected one of mean, sum, got 'max'"),
        (lambda: EGCL(5, 5, 7, clamp=-1.0), ValueError, "EGCL: clamp: expected a number >= 0 or None, got -1.0"),
        (
            lambda: EGCL(5, 5, 7, act_fn=nn.Softplus(2.0)),
            ValueError,
            "EGCL: act_fn: expected one of SiLU, .*got Softplus",
        ),
        (lambda: EGCL(5, 5, 7, act_fn=nn.PReLU()), ValueError, "EGCL: act_fn: expected .*got PReLU"),
        (lambda: EGCL(5, 5, 7, act_fn=Shifted()), ValueError, "EGCL: act_fn: expected .*got Shifted"),
        (lambda: EGCLVelocity(5, 5, 7, act_fn=nn.SELU()), ValueError, "EGCLVelocity: act_fn: expected"),
        (lambda: layer(p.h[1:], p.x, p.graph, p.edge_attr, s), ValueError, r"EGCL: h: expected shape \[12, 5\]"),
        (lambda: layer(p.h, p.x[1:], p.graph, p.edge_attr, s), ValueError, r"EGCL: x: expected shape \[12, D\]"),
        (lambda: layer(p.h, p.x, p.graph, None, s), ValueError, r"EGCL: edge_attr: expected shape \[50, 2\], got None"),
        (
            lambda: layer(p.h, p.x, p.graph, p.edge_attr),
            ValueError,
            r"EGCL: node_attr: expected shape \[12, 3\]",
        ),
        (
            lambda: velocity(p.h, p.x, p.graph, p.vel, p.edge_attr),
            ValueError,
            "EGCLVelocity: edge_attr: expected None",
        ),
        (lambda: velocity(p.h, p.x, p.graph, p.vel[:, :2]), ValueError, r"EGCLVelocity: vel: expected shape \[12, 3\]"),
        (lambda: layer(p.h, p.x, p.rows, p.edge_attr, s), TypeError, "EGCL: graph: expected a Graph, or an edge_index"),
        (lambda: layer(p.h, p.x[:, :1], p.graph, p.edge_attr, s), ValueError, "x: expected 2 to 8 coordinates, got 1"),
        (lambda: radial(p.x, p.graph, p.vel), ValueError, r"RadialFieldLayer: edge_attr: expected shape \[50, 2\]"),
        (lambda: radial(p.x, p.graph, p.vel[1:], p.edge_attr), ValueError, r"RadialFieldLayer: vel: expected shape"),
        (lambda: model(p.h[:, 1:], p.x, p.graph, p.edge_attr), ValueError, r"EGNN: h: expected shape \[12, 5\]"),
        (lambda: model(p.h, p.x, p.rows, p.edge_attr), TypeError, "EGNN: graph: expected a Graph, or an edge_index"),
        (
            lambda: model(p.h, p.x, p.graph.edge_index + 1, p.edge_attr),
            ValueError,
            r"Graph.from_edge_index: edge_index: expected indices in \[0, 12\)",
        ),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
