"""EGNN, its velocity variant and Radial Field: published outputs, the published formula, the symmetries."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import equikernels as ek
from equikernels import baselines
from equikernels.models import EGNN, EGNNVelocity, RadialField
from equikernels.nn import EGCL, EGCLVelocity, RadialFieldLayer

from .golden import filled, stored
from .tools import rotation

# Filled weights (width 4, 2 layers) on the four points below.
CLEAN_H = [-1.042058549, 1.250520477, -1.077492042, 1.287327777, -0.6622533259, 0.8377302481, -0.1907195825, 0.31039333]
CLEAN_X = [
    0.2885934642, 1.13368635, 0.8441228483, 1.124324296, 0.8597733797, 1.033597162,
    0.645117423, 0.1345420719, 0.9234537694, -0.6527664634, -0.7298423472, 0.5365248815,
]  # fmt: skip
GATED_H = [
    -1.032332922, 1.247723704, -1.068253394, 1.286105957, -0.6530936889, 0.8338243376, -0.1761946896, 0.3022683168,
]  # fmt: skip
GATED_X = [
    0.2559814299, 1.10778267, 0.8349036956, 1.096520105, 0.8249409601, 1.024764724,
    0.6290643415, 0.1092079786, 0.9190376417, -0.5481893422, -0.6156140011, 0.5670162773,
]  # fmt: skip
VELOCITY_X = [
    0.2447728352, 1.105528427, 0.8608819684, 1.087899455, 0.8646564512, 1.070610873,
    0.6612629146, 0.175275574, 0.9505904784, -0.5637647929, -0.6516970476, 0.5400287379,
]  # fmt: skip
RADIAL_X = [
    0.08288644093, 0.7246281789, 0.8315856686, 0.7040908411, 0.5632296746, 1.01089397,
    0.5578545173, 0.1723564687, 0.9321783795, 0.1434688185, 0.08595542203, 0.684440998,
]  # fmt: skip


class Points(NamedTuple):
    h: Tensor
    x: Tensor
    vel: Tensor
    edge_attr: Tensor
    graph: ek.Graph

    @property
    def rows(self) -> list[Tensor]:
        """The edges as the published code takes them: messages from the second to the first."""
        return [self.graph.receiver, self.graph.sender]

    @property
    def speed(self) -> Tensor:
        return self.vel.norm(dim=1, keepdim=True)


def four_points() -> Points:
    i = torch.arange(4).double()
    x = torch.stack([torch.sin(1.1 * i + 0.3), torch.cos(0.7 * i), torch.sin(0.5 * i + 1)], dim=1)
    vel = 0.2 * torch.cos(i[:, None] + torch.arange(3))
    attr = 0.3 * torch.cos(0.6 * torch.arange(12).double())[:, None]
    return Points(0.5 * torch.sin(i + 1)[:, None], x, vel, attr, ek.Graph.complete(torch.tensor([0, 4])))


def with_distances(p: Points) -> Points:
    """The N-body experiment's edge attributes: what was given, and the initial squared distance."""
    square = (p.x[p.graph.receiver] - p.x[p.graph.sender]).square().sum(1, keepdim=True)
    return p._replace(edge_attr=torch.cat([p.edge_attr, square], dim=1))


def points(n: int = 12, edges: int = 50, dim: int = 3, attr: int = 2, self_loops: bool = True) -> Points:
    """A random sparse graph, with duplicate edges, self-loops, and a last node that hears nobody."""
    generator = torch.Generator().manual_seed(2)
    sender = torch.randint(0, n, (edges,), generator=generator)
    receiver = torch.randint(0, n - 1, (edges,), generator=generator)
    if not self_loops:
        receiver = torch.where(receiver == sender, (receiver + 1) % (n - 1), receiver)
    normal = [torch.randn(n, w, dtype=torch.float64, generator=generator) for w in (5, dim, dim)]
    edge_attr = torch.randn(edges, attr, dtype=torch.float64, generator=generator)
    return Points(*normal, edge_attr, ek.Graph.from_edge_index(torch.stack([sender, receiver]), n))


def close(results: list[Tensor | None], expected: list[Tensor | None]) -> None:
    """Equal to 1e-11 of each one's largest value; a gradient that is lost in rounding counts against the largest."""
    scale = max(e.abs().max().item() for e in expected if e is not None)
    for k, (r, e) in enumerate(zip(results, expected, strict=True)):
        if r is None or e is None:
            assert r is e, k
            continue
        assert r.shape == e.shape
        assert (r - e).abs().max() <= 1e-11 * e.abs().max() + 1e-14 * scale, k


def weighted(*outputs: Tensor) -> Tensor:
    """A scalar in which every element of the outputs has its own weight."""
    return sum((torch.linspace(-1, 1.3, o.numel(), dtype=o.dtype).view_as(o) * o).sum() for o in outputs)  # type: ignore


# --- Published numbers ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "published", "count"),
    [
        (lambda: EGNN(1, 32, 1, 1), lambda: baselines.EGNN(1, 32, 1, 1), 29_793),
        (lambda: EGNN(1, 4, 2, 1, n_layers=2), lambda: baselines.EGNN(1, 4, 2, 1, n_layers=2), 306),
        (
            lambda: EGNN(1, 4, 2, 1, n_layers=2, attention=True, normalize=True, tanh=True),
            lambda: baselines.EGNN(1, 4, 2, 1, n_layers=2, attention=True, normalize=True, tanh=True),
            316,
        ),
        (lambda: EGNNVelocity(1, 2, 64), lambda: baselines.EGNN_vel(1, 2, 64), 134_020),
        (lambda: RadialField(64, 2), lambda: baselines.RF_vel(64, 2), 2_052),
    ],
)
def test_counts_keys_and_initial_weights(
    model: Callable[[], nn.Module], published: Callable[[], nn.Module], count: int
) -> None:
    states = []
    for make in (model, published):
        torch.manual_seed(7)
        made = make()
        assert sum(p.numel() for p in made.parameters()) == count
        states.append(made.state_dict())
    ours, theirs = states
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_keys_are_the_published_ones() -> None:
    linear = [f"{m}.{k}.{t}" for m in ("edge_mlp", "node_mlp") for k in "02" for t in ("weight", "bias")]
    head = ["coord_mlp.0.weight", "coord_mlp.0.bias", "coord_mlp.2.weight"]
    gate = ["att_mlp.0.weight", "att_mlp.0.bias"]
    assert list(EGCL(3, 3, 4).state_dict()) == linear + head
    assert list(EGCL(3, 3, 4, attention=True, tanh=True).state_dict()) == linear + head + gate
    velocity = [f"coord_mlp_vel.{k}.{t}" for k in "02" for t in ("weight", "bias")]
    assert list(EGCLVelocity(3, 3, 4).state_dict()) == linear + head + velocity
    assert list(RadialFieldLayer(4).state_dict()) == [*velocity, "phi.0.weight", "phi.0.bias", "phi.2.weight"]


def test_goldens(backend: str) -> None:
    """Printed to ten digits; by ours and by the published formula."""
    p = four_points()

    def check(outputs: Tensor | tuple[Tensor, ...], *goldens: list[float]) -> None:
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        for out, golden in zip(outputs, goldens, strict=True):
            expected = torch.tensor(golden, dtype=torch.float64).view_as(out)
            torch.testing.assert_close(out, expected, rtol=1e-9, atol=0)

    for options, goldens in (
        ({}, (CLEAN_H, CLEAN_X)),
        ({"attention": True, "normalize": True, "tanh": True}, (GATED_H, GATED_X)),
    ):
        check(filled(EGNN(1, 4, 2, 1, n_layers=2, **options))(p.h, p.x, p.graph, p.edge_attr), *goldens)
        check(filled(baselines.EGNN(1, 4, 2, 1, n_layers=2, **options))(p.h, p.x, p.rows, p.edge_attr), *goldens)
    p = with_distances(p)
    model, published = (c(1, 2, 4, n_layers=2, recurrent=True) for c in (EGNNVelocity, baselines.EGNN_vel))
    check(filled(model)(p.speed, p.x, p.graph, p.vel, p.edge_attr), VELOCITY_X)
    check(filled(published)(p.speed, p.x, p.rows, p.vel, p.edge_attr), VELOCITY_X)
    check(filled(RadialField(4, 2, n_layers=2))(p.x, p.graph, p.vel, p.edge_attr), RADIAL_X)
    check(filled(baselines.RF_vel(4, 2, n_layers=2))(p.speed, p.x, p.rows, p.vel, p.edge_attr), RADIAL_X)


def test_golden_stored(backend: str) -> None:
    """A published layer on 300 random edges, in its (row, col) order."""
    g = stored("egnn_att0")
    cfg = g["cfg"]
    layer = EGCL(output_nf=cfg["input_nf"], **cfg).double()
    layer.load_state_dict(g["state"])
    row, col = g["edge_index_rowcol"]
    edges = torch.stack([col, row])
    h, x = layer(g["h"], g["x"], edges, g["edge_attr"])
    torch.testing.assert_close(h, g["h_out"], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(x, g["x_out"], rtol=1e-11, atol=1e-12)
    assert not torch.allclose(layer(g["h"], g["x"], edges.flip(0), g["edge_attr"])[0], g["h_out"])


# --- The published formula --------------------------------------------------------------------------------------
CLEAN: dict[str, dict[str, Any]] = {
    "plain": {},
    "attention": {"attention": True},
    "normalize": {"normalize": True},
    "tanh": {"tanh": True},
    "sum": {"coords_agg": "sum"},
    "not residual": {"residual": False},
    "all": {"attention": True, "normalize": True, "tanh": True, "coords_agg": "sum", "residual": False},
    "relu": {"act_fn": nn.ReLU()},
    "leaky": {"act_fn": nn.LeakyReLU(0.2), "attention": True},
    "gelu": {"act_fn": nn.GELU()},
    "tanh everywhere": {"act_fn": nn.Tanh()},
}
OLD: dict[str, dict[str, Any]] = {
    "plain": {},
    "weight": {"coords_weight": 0.3},
    "norm_diff": {"norm_diff": True, "recurrent": False},
    "all": {"norm_diff": True, "attention": True, "tanh": True, "coords_weight": -0.3, "act_fn": nn.LeakyReLU(0.2)},
}


def layer_pair(variant: str, name: str, attr: int, node_attr: int) -> tuple[EGCL, nn.Module]:
    options = dict((CLEAN if variant == "clean" else OLD)[name])
    sizes = {"input_nf": 5, "hidden_nf": 6, "edges_in_d": attr, "nodes_att_dim": node_attr}
    recurrent = options.get("residual" if variant == "clean" else "recurrent", True)
    sizes["output_nf"] = 5 if recurrent else 3
    published = {"clean": baselines.E_GCL, "old": baselines.NBodyE_GCL}[variant](**sizes, **options)
    options.pop("residual", None)
    ours = EGCL(**sizes, **{**options, "recurrent": recurrent}, clamp=None if variant == "clean" else 100.0)
    return filled(ours), filled(published)  # type: ignore[return-value]


@pytest.mark.parametrize(("attr", "node_attr"), [(0, 0), (2, 3)])
@pytest.mark.parametrize(("variant", "name"), [*(("clean", k) for k in CLEAN), *(("old", k) for k in OLD)])
def test_layer_is_the_published_one(variant: str, name: str, attr: int, node_attr: int, backend: str) -> None:
    ours, published = layer_pair(variant, name, attr, node_attr)
    # A self-loop's difference over its norm, 0 / 1e-8, has a gradient that cancels but for rounding; over the norm that
    # is differentiated the published gradient is NaN. Coincident points have tests of their own.
    p = points(self_loops=name not in ("normalize", "norm_diff", "all"))
    s = torch.randn(len(p.h), node_attr, dtype=torch.float64) if node_attr else None
    results = []
    for model in (ours, published):
        h, x, a = (t.clone().requires_grad_() for t in (p.h, p.x, p.edge_attr))
        edge_attr = a if attr else None
        if model is ours:
            out = model(h, x, p.graph, edge_attr, s)
        else:
            out = model(h, p.rows, x, edge_attr, s)[:2]
        leaves = [h, x, *([a] if attr else []), *model.parameters()]
        results.append([*out, *torch.autograd.grad(weighted(*out), leaves)])
    close(*results)
    assert torch.equal(results[0][1][-1], p.x[-1])  # hears nobody, stays


def test_clamp_bites_as_published() -> None:
    ours, published = layer_pair("old", "plain", 2, 0)
    free, _ = layer_pair("clean", "plain", 2, 0)
    p = points()
    far = p._replace(x=300 * p.x)
    results = []
    for model in (ours, published, free):
        x = far.x.clone().requires_grad_()
        args = (p.rows, x) if model is published else (x, p.graph)
        out = model(p.h, *args, p.edge_attr)[:2]
        results.append([*out, *torch.autograd.grad(weighted(*out), [x, *model.parameters()])])
    close(*results[:2])
    assert not torch.allclose(results[0][1], results[2][1])


def test_velocity_layer_and_radial_field_are_the_published_ones(backend: str) -> None:
    p = points(self_loops=False)
    for options in OLD.values():
        recurrent = options.get("recurrent", True)
        out_nf = 5 if recurrent else 3
        pair = [filled(c(5, out_nf, 6, 2, **options)) for c in (EGCLVelocity, baselines.E_GCL_vel)]
        results = []
        for model in pair:
            h, x, vel = (t.clone().requires_grad_() for t in (p.h, p.x, p.vel))
            args = (x, p.graph, vel) if model is pair[0] else (p.rows, x, vel)
            out = model(h, *args, p.edge_attr)[:2]
            results.append([*out, *torch.autograd.grad(weighted(*out), [h, x, vel, *model.parameters()])])
        close(*results)
    for act_fn in (nn.SiLU(), nn.LeakyReLU(0.2), nn.Softplus()):
        for attr in (0, 2):
            pair = [filled(c(6, attr, act_fn)) for c in (RadialFieldLayer, baselines.GCL_rf_vel)]
            results = []
            for model in pair:
                x, vel = (t.clone().requires_grad_() for t in (p.x, p.vel))
                edge_attr = p.edge_attr if attr else None
                if model is pair[0]:
                    out = model(x, p.graph, vel, edge_attr)
                else:
                    out = model(x, vel.norm(dim=1, keepdim=True), vel, p.rows, edge_attr)[0]
                results.append([out, *torch.autograd.grad(weighted(out), [x, vel, *model.parameters()])])
            close(*results)


def test_second_derivatives_are_those_of_the_published_formula() -> None:
    """A loss on forces: gradients of a gradient with respect to positions."""
    p = points(self_loops=False)
    results = []
    for model in layer_pair("clean", "all", 2, 0):
        x = p.x.clone().requires_grad_()
        out = model(p.h, x, p.graph, p.edge_attr) if isinstance(model, EGCL) else model(p.h, p.rows, x, p.edge_attr)[:2]
        (force,) = torch.autograd.grad(weighted(*out), x, create_graph=True)
        results.append([force, *torch.autograd.grad(force.square().sum(), [x, *model.parameters()], allow_unused=True)])
    # Weights that forces do not depend on: absent from one graph, zero in the other.
    results = [[torch.zeros(1).double() if t is None or not t.any() else t for t in r] for r in results]
    close(*results)


NETWORKS = {
    "EGNN": (EGNN, baselines.EGNN, (5, 8, 2, 2)),
    "EGNNVelocity": (EGNNVelocity, baselines.EGNN_vel, (5, 2, 8)),
    "RadialField": (RadialField, baselines.RF_vel, (8, 2)),
}


def model_pair(name: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """Ours and the published formula, with weights that move points by less than their distances."""
    ours, published, sizes = NETWORKS[name]
    pair = filled(ours(*sizes, n_layers=3, **options)), filled(published(*sizes, n_layers=3, **options))
    for model in pair:
        for key, parameter in model.named_parameters():
            if key.endswith("coord_mlp.2.weight"):
                parameter.data *= 0.1
    return pair


def run(model: nn.Module, p: Points) -> tuple[Tensor, ...]:
    """Any of the six networks."""
    if isinstance(model, EGNN):
        return model(p.h, p.x, p.graph, p.edge_attr)
    if isinstance(model, baselines.EGNN):
        return model(p.h, p.x, p.rows, p.edge_attr)
    if isinstance(model, EGNNVelocity):
        return (model(p.h, p.x, p.graph, p.vel, p.edge_attr),)
    if isinstance(model, baselines.EGNN_vel):
        return (model(p.h, p.x, p.rows, p.vel, p.edge_attr),)
    if isinstance(model, RadialField):
        return (model(p.x, p.graph, p.vel, p.edge_attr),)
    return (model(p.speed, p.x, p.rows, p.vel, p.edge_attr),)


MODELS = [
    ("EGNN", {}),
    ("EGNN", {"attention": True, "normalize": True, "tanh": True}),
    ("EGNN", {"residual": False, "act_fn": nn.GELU()}),
    ("EGNNVelocity", {"recurrent": True}),
    ("EGNNVelocity", {"norm_diff": True, "tanh": True, "coords_weight": 0.5}),
    ("RadialField", {}),
]


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_optimizer_steps_are_the_published_ones(name: str, options: dict[str, Any]) -> None:
    p = points(self_loops=False)
    before = model_pair(name, **options)[0].state_dict()
    after = []
    for model in model_pair(name, **options):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
        losses = []
        for _ in range(2):
            optimizer.zero_grad()
            loss = sum((out - 0.1).square().mean() for out in run(model, p))
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        after.append([*losses, *model.state_dict().values()])
    close(*after)
    still = {key for new, (key, old) in zip(after[0][2:], before.items(), strict=True) if torch.equal(new, old)}
    # Where x alone is returned, the last features have no use.
    assert all(key.startswith("gcl_2.node_mlp") for key in still)
    assert len(still) == (4 if name == "EGNNVelocity" else 0)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_state_dicts_interchange(name: str, options: dict[str, Any]) -> None:
    p = points(self_loops=False)
    ours, published = model_pair(name, **options)
    with torch.no_grad():
        for parameter in published.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = run(published, p)
    ours.load_state_dict(published.state_dict())
    close([*run(ours, p)], [*expected])
    back = model_pair(name, **options)[1]
    back.load_state_dict(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(run(back, p), expected, strict=True))


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
    pairs = [layer_pair("old", "norm_diff", 2, 0), [filled(c(6, 2)) for c in (RadialFieldLayer, baselines.GCL_rf_vel)]]
    for pair in pairs:
        outputs, finite = [], []
        for model in pair:
            x = p.x.clone().requires_grad_()
            if isinstance(model, EGCL):
                out = model(p.h, x, p.graph, p.edge_attr)[1]
            elif isinstance(model, baselines.E_GCL):
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
    model, published = model_pair(name, **options)
    p = points()
    for n in (3, 0):
        graph = ek.Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), n)
        empty = Points(p.h[:n], p.x[:n].clone().requires_grad_(), p.vel[:n], p.edge_attr[:0], graph)
        outputs = run(model, empty)
        for out, expected in zip(outputs, run(published, empty), strict=True):
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
    for make in (EGNN, baselines.EGNN):
        model = make(5, 16, 2, n_layers=2, attention=True).double()
        args = (p.graph if make is EGNN else p.rows,)
        with LargestOutput() as largest:
            weighted(*model(p.h, p.x, *args)).backward()
        sizes[make] = largest.numel
    assert sizes[EGNN] < 4000 < 4000 * 16 <= sizes[baselines.EGNN]


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
            lambda: EGCL(5, 5, 7, act_fn=nn.Softplus()),
            ValueError,
            "EGCL: act_fn: expected one of SiLU, .*got Softplus",
        ),
        (lambda: EGCL(5, 5, 7, act_fn=nn.GELU("tanh")), ValueError, "EGCL: act_fn: expected .*approximate='tanh'"),
        (lambda: EGCLVelocity(5, 5, 7, act_fn=nn.ELU()), ValueError, "EGCLVelocity: act_fn: expected"),
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
