"""Tests the blocks as PyTorch Geometric's MessagePassing: same numbers fused, with hooks, in Sequential, in batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels import EdgeOutput
from equikernels.nn.lgeb import lorentz_update

from ..support.golden import filled
from ..support.hits import hits, pair
from ..support.hits import run as run_network
from ..support.points import close, weighted

torch_geometric = pytest.importorskip("torch_geometric")
from torch_geometric.data import Batch, Data  # noqa: E402
from torch_geometric.nn import MessagePassing, Sequential  # noqa: E402

N, E = 9, 40


def edge_index() -> Tensor:
    """No self-loops: there a unit vector is 0 / 1e-8, and its derivatives cancel to rounding at that scale."""
    sender, receiver = torch.randint(0, N - 1, (2, E), generator=torch.Generator().manual_seed(1))
    return torch.stack([sender, torch.where(sender == receiver, (receiver + 1) % (N - 1), receiver)])


def conv(name: str) -> Any:
    made = {
        "LGEBConv": lambda: ek.nn.LGEBConv(6, 6, 5, n_node_attr=0, c_weight=0.1),
        "LGEBConv last": lambda: ek.nn.LGEBConv(6, 6, 5, n_edge_attr=3, last_layer=True),
        "EGConv": lambda: ek.nn.EGConv(6, 6, 5, 3, attention=True, norm_diff=True, clamp=0.3),
        "EGConv unit": lambda: ek.nn.EGConv(6, 6, 5, 3, normalize=True, tanh=True, coords_agg="sum", clamp=None),
        "EuclidConv": lambda: ek.nn.EuclidConv(6, 2, 0.1),
        "InteractionConv": lambda: ek.nn.InteractionConv(6, 3, 4, 5, 8),
    }[name]()
    return filled(made).eval()


NAMES = ("LGEBConv", "LGEBConv last", "EGConv", "EGConv unit", "EuclidConv", "InteractionConv")


def inputs(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    shapes = {"h": (N, 6), "x": (N, 4), "edge_attr": (E, 3), "e": (E, 6)}
    t = {k: torch.randn(*s, dtype=torch.float64, generator=generator) for k, s in shapes.items()}
    wanted = {"EuclidConv": ("h", "x", "e"), "InteractionConv": ("h", "edge_attr"), "LGEBConv": ("h", "x")}
    return {k: t[k] for k in wanted.get(name, ("h", "x", "edge_attr"))}


def run(layer: Any, edges: Any, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    kind = type(layer).__name__
    if kind == "EuclidConv":
        return layer(given["h"], given["x"], given["e"], edges)
    if kind == "InteractionConv":
        return layer(given["h"], edges, given["edge_attr"])
    return layer(given["h"], given["x"], edges, given.get("edge_attr"))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by", ["hook", "explain"])
def test_watched_or_not_the_numbers_are_the_same(name: str, by: str) -> None:
    """Outputs and gradients, with messages made by PyTorch Geometric and without."""
    layer, results, seen = conv(name), [], []
    assert isinstance(layer, MessagePassing)
    for watched in (False, True):
        handle = None
        if watched and by == "hook":
            handle = layer.register_message_forward_hook(lambda *args: seen.append(1))
        if watched and by == "explain":
            layer.explain = True
            layer._edge_mask, layer._apply_sigmoid = torch.ones(E).double(), False
            layer._loop_mask = torch.ones(E, dtype=torch.bool)
        given = {k: t.clone().requires_grad_() for k, t in inputs(name).items()}
        out = run(layer, edge_index(), given)
        leaves = [*given.values(), *layer.parameters()]
        grads = torch.autograd.grad(weighted(*out), leaves, allow_unused=True)
        results.append([*out, *(torch.zeros(1).double() if g is None or not g.any() else g for g in grads)])
        if handle is not None:
            handle.remove()
    close(*results)
    assert len(seen) == (by == "hook")


@pytest.mark.parametrize("name", NAMES)
def test_edges_come_in_any_form(name: str) -> None:
    layer, given, edges = conv(name), inputs(name), edge_index()
    expected = run(layer, edges, given)
    kinds = [ek.Graph.from_edge_index(edges, N), torch_geometric.EdgeIndex(edges, sparse_size=(N, N))]
    for kind in kinds:
        assert all(torch.equal(a, b) for a, b in zip(run(layer, kind, given), expected, strict=True))


SOURCES, TARGETS = 6, 5


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_bipartite_is_a_graph_of_both_with_edges_into_targets(name: str, watched: bool) -> None:
    """Also in training, where BatchNorm must include only targets."""
    layer, given = conv(name).train(), inputs(name)
    generator = torch.Generator().manual_seed(4)
    edges = torch.stack([torch.randint(0, k, (E,), generator=generator) for k in (SOURCES, TARGETS)])
    both = {k: torch.randn(SOURCES + TARGETS, t.shape[1], dtype=t.dtype) for k, t in given.items() if len(t) == N}
    if watched:
        layer.register_message_forward_hook(lambda *_: None)
    pairs = {k: (t[:SOURCES].requires_grad_(), t[SOURCES:].requires_grad_()) for k, t in both.items()}
    out = run(layer, edges, {**given, **pairs})  # type: ignore[dict-item]
    assert all(len(t) in (TARGETS, E) for t in out)

    # The same as one graph whose nodes are sources and targets; of the norm over nodes, only the targets' part.
    whole = conv(name)
    if name.startswith("LGEBConv"):
        whole.phi_e[1].train()
        h = torch.cat(pairs["h"])
        x = torch.cat(pairs["x"])
        graph = ek.Graph.from_edge_index(edges + torch.tensor([[0], [SOURCES]]), SOURCES + TARGETS)
        made = whole._messages(h, x, graph, given.get("edge_attr"))
        whole.phi_h[1].train()
        parts = EdgeOutput(*(t if t is None else t[SOURCES:] for t in made))
        expected = lorentz_update(whole, h[SOURCES:], x[SOURCES:], parts)
    else:
        joined = {**given, **{k: torch.cat(t) for k, t in pairs.items()}}
        expected = run(whole, edges + torch.tensor([[0], [SOURCES]]), joined)
        expected = tuple(t[SOURCES:] if len(t) != E else t for t in expected)
    leaves = [t for pair in pairs.values() for t in pair]
    close(
        [*out, *torch.autograd.grad(weighted(*out), leaves, retain_graph=True)],
        [*expected, *torch.autograd.grad(weighted(*expected), leaves)],
    )


def test_bipartite_mistakes_are_named() -> None:
    layer, given = conv("EGConv"), inputs("EGConv")
    h, x, edges = (given["h"][:4], given["h"]), (given["x"][:4], given["x"]), edge_index()
    with pytest.raises(ValueError, match=r"EGConv: edge_index: expected sources in \[0, 4\)"):
        layer(h, x, edges, given["edge_attr"])
    with pytest.raises(TypeError, match="EGConv: x: expected a pair, of sources and of targets, got Tensor"):
        layer(h, given["x"], edges % 4, given["edge_attr"])
    with pytest.raises(ValueError, match=r"EGConv: x: expected \(4, 9\) rows of sources and targets, got \(3, 9\)"):
        layer(h, (x[0][:3], x[1]), edges % 4, given["edge_attr"])
    with pytest.raises(TypeError, match="EGConv: x: expected a tensor, got tuple"):
        layer(h[1], x, edges, given["edge_attr"])
    with pytest.raises(TypeError, match="EGConv: edge_index: expected a tensor"):
        layer(h, x, ek.Graph.from_edge_index(edges, N), given["edge_attr"])


def test_state_dicts_are_those_of_the_blocks() -> None:
    for name, block in (("EuclidConv", ek.nn.EuclidBlock(6, 2)), ("LGEBConv", ek.nn.LGEB(6, 6, 5))):
        assert list(conv(name).state_dict()) == list(block.state_dict())


def test_in_a_sequential_on_a_whole_batch() -> None:
    model = Sequential(
        "h, x, edge_index, edge_attr",
        [(conv("EGConv"), "h, x, edge_index, edge_attr -> h, x") for _ in range(2)],
    )
    given = inputs("EGConv")
    graphs = [Data(x=given["h"], pos=given["x"], edge_index=edge_index(), edge_attr=given["edge_attr"])] * 3
    batch = Batch.from_data_list(graphs)
    h, x = model(batch.x, batch.pos, batch.edge_index, batch.edge_attr)
    alone = model(given["h"], given["x"], edge_index(), given["edge_attr"])
    torch.testing.assert_close(h, alone[0].repeat(3, 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(x, alone[1].repeat(3, 1), rtol=1e-12, atol=1e-12)


def test_networks_take_a_whole_batch() -> None:
    p = hits()
    graph = Data(x=p.x, edge_index=p.graph.edge_index, edge_attr=p.edge_attr)
    batch = Batch.from_data_list([graph, graph])
    for name in ("SO(2)", "SO(3)", "IN"):
        model = pair(name)[0].eval()
        torch.testing.assert_close(model(batch), run_network(model, p).repeat(2, 1), rtol=1e-11, atol=1e-12)
        with pytest.raises(ValueError, match="graph: expected None with a batch"):
            model(batch, p.graph)
        with pytest.raises(TypeError, match="x: expected a tensor and a graph, or a batch"):
            model(p.x)


def test_an_explanation_runs() -> None:
    """PyTorch Geometric's explainer finds the one edge that an output depends on."""
    from torch_geometric.explain import Explainer, GNNExplainer

    layer = conv("InteractionConv")

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layer

        def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
            return self.conv(x, edge_index, edge_attr)[0]

    explainer = Explainer(
        Model(),
        GNNExplainer(epochs=3),
        explanation_type="model",
        edge_mask_type="object",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )
    given = inputs("InteractionConv")
    explained = explainer(given["h"].float().double(), edge_index(), edge_attr=given["edge_attr"], index=3)
    received = edge_index()[1] == 3
    assert explained.edge_mask.shape == (E,)
    assert explained.edge_mask[~received].abs().max() == 0
    assert explained.edge_mask[received].abs().max() > 0
