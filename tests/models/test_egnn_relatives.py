"""SchNet, TFN, the plain GNN and radial field: published counts and formulas, symmetries, odd graphs, errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn.models.schnet import InteractionBlock

import equikernels as ek
from equikernels import models, published

from ..support.golden import filled
from ..support.points import Points, close, points, weighted
from ..support.tools import rotation

# name -> (network, its constructor's arguments)
CASES: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "GNN": ("GNN", (5, 8, 4, 2), {"n_layers": 2}),
    "GNN, ReLU": ("GNN", (5, 8, 4, 2), {"n_layers": 1, "act_fn": nn.ReLU()}),
    "SchNet": ("SchNet", (5, 8, 4), {"n_layers": 2, "n_gaussians": 7, "reach": 3.0}),
    "TFN": ("TFN", ((5, 2), 4, (3, 2)), {"edge_attr_nf": 2, "n_layers": 3}),
    "TFN, order 0": ("TFN", ((5, 2), 4, (3, 2)), {"order": 0, "edge_attr_nf": 2, "n_layers": 3}),
    "TFN, vectors alone": ("TFN", ((0, 2), 4, (0, 1)), {"edge_attr_nf": 2, "n_layers": 2, "act_fn": nn.SiLU()}),
    "TFN, one layer": ("TFN", ((5, 2), 4, (3, 0)), {"edge_attr_nf": 2, "n_layers": 1}),
    "RadialField": ("RadialField", (6, 2), {"velocity": False, "act_fn": nn.LeakyReLU(0.2), "n_layers": 3}),
}


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """Ours and the published formula, float64."""
    kind, sizes, options = CASES[name]
    rest = {key: value for key, value in options.items() if key != "velocity"}
    formula = getattr(published, "RF" if kind == "RadialField" else kind)
    return filled(getattr(models, kind)(*sizes, **options)), filled(formula(*sizes, **rest))


def run(model: nn.Module, p: Points) -> tuple[Tensor, ...]:
    """Of ours or of the published formula."""
    edges: Any = p.graph if type(model).__module__.startswith("equikernels.models") else p.rows
    if isinstance(model, models.GNN | published.GNN):
        return (model(p.h, edges, p.edge_attr),)
    if isinstance(model, models.SchNet | published.SchNet):
        return (model(p.h, p.x, edges),)
    if isinstance(model, models.TFN | published.TFN):
        first: Any = model.layers[0]
        vectors = torch.stack([p.vel, torch.linalg.cross(p.vel, p.vel.roll(1, 0))], dim=1)
        out: tuple[Tensor, ...] = model(p.h[:, : first.n_in[0]], vectors, p.x, edges, p.edge_attr)
        return out
    return (model(p.x, edges, edge_attr=p.edge_attr),)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_counts() -> None:
    """The published experiment's GNN; the others by the widths of their layers."""
    assert count(models.GNN(6, 64, 3, 1)) == count(published.GNN(6, 64, 3, 1)) == 104_387
    assert count(models.RadialField(64, 2, velocity=False)) == 4 * (3 * 64 + 64 + 64)
    block = 64 * 64 + (300 * 64 + 64 + 64 * 64 + 64) + 2 * (64 * 64 + 64)
    assert count(models.SchNet(1, 64, 1)) == count(published.SchNet(1, 64, 1)) == 128 + 3 * block + 65
    body = 2 * 32 + 2 * 64 + 32 * 32 + 32  # of a radial network, before its last layer
    first = 4 * body + 33 * 16 * (1 + 1 + 1 + 3) + 2 * 16
    middle = 4 * body + 33 * 16 * 16 * (1 + 1 + 1 + 3) + 2 * 16 * 16
    last = 2 * body + 33 * 16 * (1 + 3) + 16
    norms = 3 * 2 * (2 * 16 + 16 * 16 + 16)
    nbody = models.TFN((1, 1), 16, (0, 1)), published.TFN((1, 1), 16, (0, 1))
    assert count(nbody[0]) == count(nbody[1]) == first + 2 * middle + last + norms


@pytest.mark.parametrize("name", CASES)
def test_the_published_formula(name: str, backend: str) -> None:
    """Outputs, and gradients of everything; the same state dict."""
    p, results = points(self_loops=False), []
    ours, theirs = pair(name)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for model in (ours, theirs):
        leaves = [t.clone().requires_grad_() for t in (p.h, p.x, p.vel, p.edge_attr)]
        out = run(model, Points(*leaves, p.graph))
        grads = torch.autograd.grad(weighted(*out), [*leaves, *model.parameters()], allow_unused=True)
        results.append([*(t for t in out if t.numel()), *grads])
    # a formula may give a zero gradient where an op gives none
    for k, (a, b) in enumerate(zip(*results, strict=True)):
        if a is None or b is None:
            assert all(t is None or not t.any() for t in (a, b))
            results[0][k] = results[1][k] = None
    close(*results)


def test_seeds_give_the_published_weights() -> None:
    for ours, theirs in (
        (lambda: models.GNN(6, 8), lambda: published.GNN(6, 8)),
        (lambda: models.RadialField(8, velocity=False), lambda: published.RF(8)),
    ):
        states = []
        for make in (ours, theirs):
            torch.manual_seed(7)
            states.append(make().state_dict())
        assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


def test_schnet_is_that_of_pytorch_geometric() -> None:
    """Its interaction block, with a cutoff that is far away."""
    p = points(self_loops=False)
    ours = filled(ek.nn.ContinuousFilter(5, 7, 3.0))
    theirs: Any = InteractionBlock(5, 7, 5, 1e9).double()
    theirs.act.shift = theirs.mlp[1].shift = math.log(2)  # theirs is a float32's
    theirs.load_state_dict({
        **{f"mlp.{key}": value for key, value in ours.phi_cf.state_dict().items()},
        **{f"conv.nn.{key}": value for key, value in ours.phi_cf.state_dict().items()},
        "conv.lin1.weight": ours.phi_s.weight,
        "conv.lin2.weight": ours.phi_h[0].weight, "conv.lin2.bias": ours.phi_h[0].bias,
        "lin.weight": ours.phi_h[2].weight, "lin.bias": ours.phi_h[2].bias,
    })  # fmt: skip
    j, i = p.graph.edge_index
    distance = (p.x[i] - p.x[j]).norm(dim=1)
    expected = p.h + theirs(p.h, p.graph.edge_index, distance, ours.basis(distance[:, None]))
    torch.testing.assert_close(ours(p.h, p.x, p.graph), expected, rtol=1e-12, atol=1e-12)


# --- Symmetries -------------------------------------------------------------------------------------------------
def turned(dim: int, reflection: bool) -> Tensor:
    q = rotation(dim, "euclidean")
    return torch.cat([-q[:1], q[1:]]) if (torch.linalg.det(q) < 0) != reflection else q


@pytest.mark.parametrize("name", ["SchNet", "RadialField"])
@pytest.mark.parametrize("dim", [2, 3, 5])
@pytest.mark.parametrize("reflection", [False, True])
def test_euclidean_symmetry(name: str, dim: int, reflection: bool, backend: str) -> None:
    p, q = points(dim=dim), turned(dim, reflection)
    shift = torch.linspace(-2, 5, dim, dtype=torch.float64)
    model = pair(name)[0]
    (out,), (moved,) = run(model, p), run(model, p._replace(x=p.x @ q.T + shift))
    if name == "RadialField":
        assert (out - p.x).abs().max() > 1e-2
        out = out @ q.T + shift
    torch.testing.assert_close(moved, out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("reflection", [False, True])
def test_tfn_under_rotations_and_reflections(order: int, reflection: bool, backend: str) -> None:
    """Polar vectors enter. Order 1 has a cross product, which a reflection reverses; order 0 has none."""
    p, q = points(), turned(3, reflection)
    model = filled(models.TFN((5, 1), 4, (3, 2), order, n_layers=3))
    s, v = model(p.h, p.vel[:, None], p.x, p.graph)
    s_moved, v_moved = model(p.h, (p.vel @ q.T)[:, None], p.x @ q.T + 3, p.graph)
    off = max((s_moved - s).abs().max(), (v_moved - v @ q.T).abs().max())
    assert v.abs().max() > 1e-2
    if reflection and order == 1:
        assert off > 1e-3
    else:
        assert off < 1e-10


def test_gnn_has_no_symmetry() -> None:
    p, model = points(), filled(models.GNN(3, 8, 3))
    out, moved = (model(x, p.graph) for x in (p.x, p.x @ turned(3, False).T))
    assert (moved - out @ turned(3, False).T).abs().max() > 1e-3
    assert (moved - out).abs().max() > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_permutation_and_single_events(name: str) -> None:
    p, model = points(), pair(name)[0]
    nodes, edges = torch.randperm(len(p.h)), torch.randperm(p.graph.num_edges)
    place = torch.argsort(nodes)
    graph = ek.Graph.from_edge_index(place[p.graph.edge_index][:, edges], len(nodes))
    # a vector made of a neighbour in the list would not be permuted
    vel = p.vel.clone()
    vel[:] = p.vel[0]
    p = p._replace(vel=vel)
    moved = Points(p.h[nodes], p.x[nodes], p.vel[nodes], p.edge_attr[edges], graph)
    expected = run(model, p)
    for out, e in zip(run(model, moved), expected, strict=True):
        torch.testing.assert_close(out, e[nodes], rtol=1e-11, atol=1e-12)
    twice = Points(*(torch.cat([t, t]) for t in p[:4]), ek.Graph.batch([p.graph, p.graph]))
    for out, e in zip(run(model, twice), expected, strict=True):
        torch.testing.assert_close(out, torch.cat([e, e]), rtol=1e-11, atol=1e-12)


# --- Edges of the domain ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_no_edges_and_no_nodes(name: str) -> None:
    model, theirs = pair(name)
    p = points()
    for n in (3, 1, 0):
        graph = ek.Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), n)
        empty = Points(p.h[:n], p.x[:n].clone().requires_grad_(), p.vel[:n], p.edge_attr[:0], graph)
        for out, expected in zip(run(model, empty), run(theirs, empty), strict=True):
            torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("GNN")])
def test_coincident_points_have_finite_gradients(name: str) -> None:
    """The derivative of a norm of 0 is taken as 0, as torch.norm has it; other published formulas give NaN."""
    p = points()  # with self-loops
    x = p.x.clone()
    x[p.graph.sender[0]] = x[p.graph.receiver[0]]
    finite = []
    for model in pair(name):
        leaf = x.clone().requires_grad_()
        out = run(model, p._replace(x=leaf))
        finite.append(bool(torch.autograd.grad(weighted(*out), leaf)[0].isfinite().all()))
    assert finite == [True, name == "SchNet"]


@pytest.mark.parametrize("name", ["SchNet", "TFN"])
def test_second_derivatives(name: str) -> None:
    """Gradients of forces."""
    p, results = points(self_loops=False), []
    for model in pair(name):
        x = p.x.clone().requires_grad_()
        (force,) = torch.autograd.grad(weighted(*run(model, p._replace(x=x))), x, create_graph=True)
        results.append([force, torch.autograd.grad(force.square().sum(), x)[0]])
    close(*results)


def test_an_edge_index_serves_as_graph_and_coordinates_may_be_wider() -> None:
    p = points(self_loops=False)
    for name in CASES:
        model = pair(name)[0]
        expected = run(model, p)
        given = run(model, p._replace(graph=p.graph.edge_index))
        assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))
        narrow = [t.float() for t in (p.h, p.vel, p.edge_attr)]
        outputs = run(model.float(), Points(narrow[0], p.x, narrow[1], narrow[2], p.graph))
        for out, e in zip(outputs, expected, strict=True):
            assert out.dtype == (torch.float64 if name == "RadialField" else torch.float32)
            torch.testing.assert_close(out.double(), e, rtol=1e-4, atol=1e-4)


def test_checks_are_named() -> None:
    p = points()
    net = {name: pair(name)[0] for name in CASES}
    vel = p.vel[:, None]
    tfn = filled(models.TFN((5, 1), 4, (3, 1), n_layers=2))
    cases: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: models.TFN((1, 1), 4, (1, 1), order=2), ValueError, "TFN: order: expected 0 or 1, got 2"),
        (lambda: models.TFN((1, 1), 4, (1, 1), n_layers=0), ValueError, "TFN: n_layers: expected at least 1, got 0"),
        (lambda: models.TFN((0, 0), 4, (1, 1)), ValueError, "TensorFieldLayer: n_in: expected numbers of scalars and"),
        (lambda: models.SchNet(1, 4, 1, n_gaussians=1), ValueError, "n_gaussians: expected at least 2, got 1"),
        (lambda: models.SchNet(1, 4, 1, reach=0.0), ValueError, "reach: expected a number above 0, got 0.0"),
        (lambda: net["GNN"](p.h[:, 1:], p.graph, p.edge_attr), ValueError, r"GNN: h: expected shape \[n, 5\]"),
        (lambda: net["GNN"](p.h, p.graph), ValueError, r"GCL: edge_attr: expected shape \[50, 2\], got None"),
        (lambda: net["GNN"](p.h.float(), p.graph, p.edge_attr), TypeError, "GNN: h: expected dtype float64"),
        (lambda: net["SchNet"](p.h[1:], p.x, p.graph), ValueError, r"SchNet: h: expected shape \[12, 5\]"),
        (lambda: net["SchNet"](p.h, p.x, p.rows), TypeError, "SchNet: graph: expected a Graph, or an edge_index"),
        (lambda: tfn(p.h, vel, p.x[:, :2], p.graph), ValueError, r"TFN: x: expected shape \[n, 3\]"),
        (lambda: tfn(p.h, p.vel, p.x, p.graph), ValueError, r"TensorFieldLayer: v: expected shape \[12, 1, 3\]"),
        (lambda: tfn(p.h.float(), vel, p.x, p.graph), TypeError, "TensorFieldLayer: s: expected dtype float64"),
        (lambda: tfn(p.h, vel, p.x, p.graph, p.edge_attr), ValueError, "TensorFieldLayer: edge_attr: expected None"),
        (
            lambda: net["RadialField"](p.x, p.graph, p.vel, p.edge_attr),
            ValueError,
            r"RadialFieldLayer: vel: expected None, got \[12, 3\]",
        ),
        (lambda: models.RadialField(4).double()(p.x, p.graph), ValueError, r"vel: expected shape \[12, 3\], got None"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
