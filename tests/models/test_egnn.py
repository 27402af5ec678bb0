"""EGNN, its velocity variant and Radial Field: published outputs, and the published formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equikernels import published
from equikernels.models import EGNN, EGNNVelocity, RadialField
from equikernels.nn import EGCL, EGCLVelocity, RadialFieldLayer

from ..support.golden import filled, stored
from ..support.points import (
    CLEAN,
    MODELS,
    OLD,
    close,
    four_points,
    layer_pair,
    model_pair,
    points,
    run,
    weighted,
    with_distances,
)

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


# --- Published numbers ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "theirs", "count"),
    [
        (lambda: EGNN(1, 32, 1, 1), lambda: published.EGNN(1, 32, 1, 1), 29_793),
        (lambda: EGNN(1, 4, 2, 1, n_layers=2), lambda: published.EGNN(1, 4, 2, 1, n_layers=2), 306),
        (
            lambda: EGNN(1, 4, 2, 1, n_layers=2, attention=True, normalize=True, tanh=True),
            lambda: published.EGNN(1, 4, 2, 1, n_layers=2, attention=True, normalize=True, tanh=True),
            316,
        ),
        (lambda: EGNNVelocity(1, 2, 64), lambda: published.EGNN_vel(1, 2, 64), 134_020),
        (lambda: RadialField(64, 2), lambda: published.RF_vel(64, 2), 2_052),
    ],
)
def test_counts_keys_and_initial_weights(
    model: Callable[[], nn.Module], theirs: Callable[[], nn.Module], count: int
) -> None:
    states = []
    for make in (model, theirs):
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
        check(filled(published.EGNN(1, 4, 2, 1, n_layers=2, **options))(p.h, p.x, p.rows, p.edge_attr), *goldens)
    p = with_distances(p)
    model, theirs = (c(1, 2, 4, n_layers=2, recurrent=True) for c in (EGNNVelocity, published.EGNN_vel))
    check(filled(model)(p.speed, p.x, p.graph, p.vel, p.edge_attr), VELOCITY_X)
    check(filled(theirs)(p.speed, p.x, p.rows, p.vel, p.edge_attr), VELOCITY_X)
    check(filled(RadialField(4, 2, n_layers=2))(p.x, p.graph, p.vel, p.edge_attr), RADIAL_X)
    check(filled(published.RF_vel(4, 2, n_layers=2))(p.speed, p.x, p.rows, p.vel, p.edge_attr), RADIAL_X)


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
@pytest.mark.parametrize(("attr", "node_attr"), [(0, 0), (2, 3)])
@pytest.mark.parametrize(("variant", "name"), [*(("clean", k) for k in CLEAN), *(("old", k) for k in OLD)])
def test_layer_is_the_published_one(variant: str, name: str, attr: int, node_attr: int, backend: str) -> None:
    ours, theirs = layer_pair(variant, name, attr, node_attr)
    # A self-loop's difference over its norm, 0 / 1e-8, has a gradient that cancels up to rounding; if the norm is
    # differentiated, the published gradient is NaN. Other tests cover coincident points.
    p = points(self_loops=name not in ("normalize", "norm_diff", "all"))
    s = torch.randn(len(p.h), node_attr, dtype=torch.float64) if node_attr else None
    results = []
    for model in (ours, theirs):
        h, x, a = (t.clone().requires_grad_() for t in (p.h, p.x, p.edge_attr))
        edge_attr = a if attr else None
        if model is ours:
            out = model(h, x, p.graph, edge_attr, s)
        else:
            out = model(h, p.rows, x, edge_attr, s)[:2]
        leaves = [h, x, *([a] if attr else []), *model.parameters()]
        results.append([*out, *torch.autograd.grad(weighted(*out), leaves)])
    close(*results)
    assert torch.equal(results[0][1][-1], p.x[-1])  # receives nothing, stays


def test_clamp_acts_as_published() -> None:
    ours, theirs = layer_pair("old", "plain", 2, 0)
    free, _ = layer_pair("clean", "plain", 2, 0)
    p = points()
    far = p._replace(x=300 * p.x)
    results = []
    for model in (ours, theirs, free):
        x = far.x.clone().requires_grad_()
        args = (p.rows, x) if model is theirs else (x, p.graph)
        out = model(p.h, *args, p.edge_attr)[:2]
        results.append([*out, *torch.autograd.grad(weighted(*out), [x, *model.parameters()])])
    close(*results[:2])
    assert not torch.allclose(results[0][1], results[2][1])


def test_velocity_layer_and_radial_field_are_the_published_ones(backend: str) -> None:
    p = points(self_loops=False)
    for options in OLD.values():
        recurrent = options.get("recurrent", True)
        out_nf = 5 if recurrent else 3
        pair = [filled(c(5, out_nf, 6, 2, **options)) for c in (EGCLVelocity, published.E_GCL_vel)]
        results = []
        for model in pair:
            h, x, vel = (t.clone().requires_grad_() for t in (p.h, p.x, p.vel))
            args = (x, p.graph, vel) if model is pair[0] else (p.rows, x, vel)
            out = model(h, *args, p.edge_attr)[:2]
            results.append([*out, *torch.autograd.grad(weighted(*out), [h, x, vel, *model.parameters()])])
        close(*results)
    for act_fn in (nn.SiLU(), nn.LeakyReLU(0.2), nn.Softplus()):
        for attr in (0, 2):
            pair = [filled(c(6, attr, act_fn)) for c in (RadialFieldLayer, published.GCL_rf_vel)]
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
    # Weights without effect on forces: absent from one graph, zero in the other.
    results = [[torch.zeros(1).double() if t is None or not t.any() else t for t in r] for r in results]
    close(*results)


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
    # If only x is returned, the last features are unused.
    assert all(key.startswith("gcl_2.node_mlp") for key in still)
    assert len(still) == (4 if name == "EGNNVelocity" else 0)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_state_dicts_interchange(name: str, options: dict[str, Any]) -> None:
    p = points(self_loops=False)
    ours, theirs = model_pair(name, **options)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = run(theirs, p)
    ours.load_state_dict(theirs.state_dict())
    close([*run(ours, p)], [*expected])
    back = model_pair(name, **options)[1]
    back.load_state_dict(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(run(back, p), expected, strict=True))
