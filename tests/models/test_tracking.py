"""Tests EuclidNet and the Interaction Network: published outputs, the published formula, unusual inputs."""

from __future__ import annotations

import copy
import io
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import equikernels as ek
from equikernels import published
from equikernels.models import EuclidNet, EuclidNetSO3, InteractionNetwork

from ..support.golden import filled, stored
from ..support.hits import NETWORKS, Hits, hits, pair, run, shuffled, six_hits, turned
from ..support.points import close, weighted
from ..support.tools import assert_as_good_as_eager

# Filled weights: width 4, 2 layers, 2 rounds, c 0.1, on the six hits.
SO2 = [
    0.5215745879, 0.5215742989, 0.5217072976, 0.5217144408, 0.522165672, 0.5219247948, 0.5219172638,
    0.5216668782, 0.5216252631, 0.5213847679, 0.5214341952, 0.5210423973, 0.521088851, 0.5212953468,
]  # fmt: skip
SO2_VECTORS_OUT = [
    0.5242961304, 0.5243010799, 0.5242683597, 0.5243082891, 0.5241827462, 0.524270664, 0.5240458429,
    0.5242420551, 0.5243014042, 0.5242664404, 0.5242439191, 0.5242072422, 0.5241952497, 0.524178689,
]  # fmt: skip
SO3 = [
    0.4766199642, 0.4770382426, 0.4770168491, 0.477115331, 0.4775227435, 0.4770763482, 0.4776354902,
    0.4753540352, 0.4770432974, 0.4772479304, 0.4772662084, 0.4773648233, 0.4773652913, 0.4774497274,
]  # fmt: skip
# Width 8, 1 and 3 passes.
IN1 = [
    0.4936204115, 0.4964167345, 0.4992779196, 0.4989089921, 0.4911284603, 0.4837692387, 0.476712435,
    0.4960666468, 0.4899419387, 0.4842335907, 0.4788129956, 0.4825467167, 0.4989882598, 0.4954745962,
]  # fmt: skip
IN3 = [
    0.5102496779, 0.5123065355, 0.5089870453, 0.5095019203, 0.5079969423, 0.495810061, 0.4999815928,
    0.5043403193, 0.5002990596, 0.5045472085, 0.4993873356, 0.5054331907, 0.520612956, 0.5112006648,
]  # fmt: skip


# --- Published numbers ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("width", [8, 16, 32])
def test_parameter_counts(width: int) -> None:
    h, layers = width, 3
    shared = 7 * (layers - 1) * (h * h + h) + 2
    counts = {
        EuclidNet(h): 12 * h * h + 12 * h + shared,
        EuclidNet(h, equi_output=False): 10 * h * h + 16 * h + shared,
        EuclidNetSO3(h, layers): layers * (2 * h * h + 8 * h + 1) + 2 * h * h + 9 * h + 1,
        InteractionNetwork(h): 3 * h * h + 41 * h + 8,
    }
    for model, count in counts.items():
        assert sum(p.numel() for p in model.parameters()) == count
    assert next(iter(counts.values())) == {8: 1_874, 16: 7_074, 32: 27_458}[h]


def test_goldens(backend: str) -> None:
    """Printed to ten digits; by ours and by the published formula."""
    p = six_hits()
    published_in = p._replace(graph=ek.Graph.from_edge_index(p.rows, 6))  # there the first index sends
    sizes = {"n_hidden": 4, "n_layers": 2, "n_graph_iters": 2, "c_weight": 0.1}
    cases: list[tuple[nn.Module, Hits, list[float]]] = [
        (EuclidNet(**sizes), p, SO2),
        (EuclidNet(**sizes), turned(p, 0.7), SO2),
        (EuclidNet(**sizes, equi_output=False), p, SO2_VECTORS_OUT),
        (EuclidNetSO3(4, 2, 0.1), p, SO3),
        (InteractionNetwork(8), published_in, IN1),
        (InteractionNetwork(8, 3), published_in, IN3),
        (published.EuclidNetSO2(**sizes), p, SO2),
        (published.EuclidNetSO2(**sizes, equi_output=False), p, SO2_VECTORS_OUT),
        (published.EuclidNetSO3(4, 2, 0.1), p, SO3),
        (published.InteractionNetwork(8), published_in, IN1),
        (published.InteractionNetwork(8, 3), published_in, IN3),
    ]
    for model, inputs, golden in cases:
        out = run(filled(model).eval(), inputs)
        torch.testing.assert_close(out[:, 0], torch.tensor(golden).double(), rtol=1e-7, atol=0)


def test_stored_outputs(backend: str) -> None:
    """The released code's outputs on random graphs, its weights loaded by key."""
    g = stored("euclidnet_so2")
    cfg = g["cfg"]
    model = EuclidNet.from_state_dict(g["state"], n_graph_iters=cfg["n_graph_iters"], c_weight=cfg["c_weight"]).double()
    model.load_state_dict(g["state"])
    torch.testing.assert_close(model(g["x"], g["edge_index_ij"].flip(0)), g["out"], rtol=1e-11, atol=0)
    assert not torch.allclose(model(g["x"], g["edge_index_ij"]), g["out"], atol=1e-6)
    g = stored("interaction_network")
    net = InteractionNetwork.from_state_dict(g["state"], n_layers=g["cfg"]["n_layers"]).double()
    net.load_state_dict(g["state"])
    torch.testing.assert_close(net(g["x"], g["edge_index"], g["edge_attr"]), g["out"], rtol=1e-11, atol=0)


def test_checkpoints_tell_their_network() -> None:
    made = {
        "EuclidNet": (EuclidNet(6, 2, equi_output=False), {"n_graph_iters": 5, "c_weight": 0.005}),
        "EuclidNetSO3": (EuclidNetSO3(4, 2), {}),
        "InteractionNetwork": (InteractionNetwork(8, 2), {"n_layers": 2}),
    }
    p = six_hits()
    for name, (model, options) in made.items():
        filled(model).eval()
        file = io.BytesIO()
        torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, file)
        file.seek(0)
        loaded = ek.load_checkpoint(file, **options).eval()
        assert type(loaded).__name__ == name
        assert torch.equal(run(loaded, p), run(model, p))
    with pytest.raises(ValueError, match="EuclidNet: equi_output: expected True or False at width 2"):
        EuclidNet.from_state_dict(EuclidNet(2).state_dict())


# --- The published formula --------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_network_is_the_published_one(name: str, backend: str) -> None:
    """Output, and gradients of hits, edge attributes and all weights."""
    p = hits()
    results = []
    for model in pair(name):
        x, a = p.x.clone().requires_grad_(), p.edge_attr.clone().requires_grad_()
        out = run(model, p._replace(x=x, edge_attr=a))
        leaves = [x, *([a] if name == "IN" else []), *model.parameters()]
        results.append([out, *torch.autograd.grad(weighted(out), leaves, allow_unused=True)])
    # the readout of features does not depend on the last move of points
    results = [[torch.zeros(1).double() if t is None or not t.any() else t for t in r] for r in results]
    close(*results)


@pytest.mark.parametrize("name", NETWORKS)
def test_same_keys_and_initial_weights(name: str) -> None:
    ours, theirs, options, extra = NETWORKS[name]
    states = []
    for make in (lambda: ours(**options, **extra), lambda: theirs(**options)):
        torch.manual_seed(7)
        states.append(make().state_dict())
    assert sorted(states[0]) == sorted(states[1])
    assert all(states[0][key].shape == value.shape for key, value in states[1].items())


def test_clamp_acts_as_published() -> None:
    p = hits()
    far = p._replace(x=torch.cat([3e3 * p.x[:, :2], p.x[:, 2:]], dim=1))
    for name in ("SO(2) vectors out", "SO(3)"):
        close(*([run(model, far)] for model in pair(name)))


@pytest.mark.parametrize("name", ["SO(2)", "SO(3)", "IN"])
def test_optimizer_steps_are_the_published_ones(name: str) -> None:
    p = hits()
    after = []
    for model in pair(name):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.binary_cross_entropy(run(model, p)[:, 0], (torch.arange(150) % 3 == 0).double()).backward()
            optimizer.step()
        state = model.state_dict()
        after.append([state[key] for key in sorted(state)])
    close(*after)


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_is_as_good_as_eager(name: str) -> None:
    p = hits(200, 900)
    results = []
    for model, dtype in zip((*pair(name), pair(name)[1]), (torch.float32, torch.float32, torch.float64), strict=True):
        q = Hits(p.x.float().to(dtype).requires_grad_(), p.edge_attr.float().to(dtype), p.graph)
        model = model.float().to(dtype)
        weights = dict(model.named_parameters())
        out = run(model, q)
        grads = torch.autograd.grad(weighted(out), [q.x, *(weights[k] for k in sorted(weights))], allow_unused=True)
        leaves = [q.x, *(weights[k] for k in sorted(weights))]
        results.append(
            [out.detach(), *(torch.zeros_like(v) if g is None else g for v, g in zip(leaves, grads, strict=True))]
        )
    names = ["out", "x", *sorted(weights)]
    assert_as_good_as_eager(*results, names, sorted(weights))


class EdgeTensors(TorchDispatchMode):
    """The widths of all tensors with a row per edge."""

    def __init__(self, edges: int) -> None:
        super().__init__()
        self.edges, self.widths = edges, Counter[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, Tensor) and t.dim() == 2 and t.shape[0] == self.edges and t._base is None:
                self.widths[t.shape[1]] += 1
        return out


def test_edge_memory_is_written_once_a_round() -> None:
    """And its gradient once, in training; of the output's single column there is one, and one in the user's order."""
    p = hits(30, 151)
    model = EuclidNet(16, n_graph_iters=4).double()
    p.graph.by_receiver  # noqa: B018 (made on first use)
    with EdgeTensors(151) as forward:
        out = model(p.x, p.graph)
    assert forward.widths == {16: 1 + 4, 1: 3}  # index_copy makes its result from an empty tensor
    with EdgeTensors(151) as backward:
        out.sum().backward()
    assert backward.widths[16] == 1 + 4
    assert set(backward.widths) == {16, 1}


# --- Symmetries -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("name", ["SO(2)", "SO(2) depth 3", "paper"])
def test_rotations_about_the_beam(name: str, reflect: bool, backend: str) -> None:
    p, model = hits(), pair(name)[0]
    q = turned(p, 1.1, reflect)
    torch.testing.assert_close(run(model, q), run(model, p), rtol=1e-10, atol=1e-12)
    h, v, e = model.rounds(*model.embed(p.x, p.graph)[:4])
    h_turned, v_turned, e_turned = model.rounds(*model.embed(q.x, p.graph)[:4])
    assert (v - p.x[:, :2]).abs().max() > 1e-3
    moved = turned(Hits(torch.cat([v, p.x[:, 2:]], dim=1), p.edge_attr, p.graph), 1.1, reflect).x[:, :2]
    torch.testing.assert_close(v_turned, moved, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(h_turned, h, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(e_turned, e, rtol=1e-10, atol=1e-12)


def test_what_is_not_invariant() -> None:
    """Points of the SO(3) blocks are covariant; the readout of raw coordinates is not invariant."""
    p = hits()
    q = turned(p, 1.1)
    for name in ("SO(2) vectors out", "SO(3)", "IN"):
        model = pair(name)[0]
        assert (run(model, q) - run(model, p)).abs().max() > 1e-4
    model = pair("SO(3)")[0]
    x, m = model.rounds(p.x, p.graph)
    x_turned, m_turned = model.rounds(q.x, p.graph)
    torch.testing.assert_close(x_turned, turned(p._replace(x=x), 1.1).x, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(m_turned, m, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_permutation(name: str, backend: str) -> None:
    p = hits()
    moved, _, edges = shuffled(p)
    model = pair(name)[0]
    torch.testing.assert_close(run(model, moved), run(model, p)[edges], rtol=1e-11, atol=1e-12)


# --- What a network must bear -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NETWORKS)
def test_no_edges_and_no_hits(name: str, backend: str) -> None:
    model = pair(name)[0]
    for n in (3, 0):
        graph = ek.Graph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), n)
        p = Hits(hits().x[:n].clone().requires_grad_(), hits().edge_attr[:0], graph)
        out = run(model, p)
        assert out.shape == (0, 1)
        assert torch.autograd.grad(out.sum(), p.x)[0].shape == (n, 3)


@pytest.mark.parametrize("name", NETWORKS)
def test_train_and_eval(name: str) -> None:
    """Only the SO(3) network's BatchNorm differs."""
    p, model = hits(), pair(name)[0]
    outputs = [run(model.train(mode), p) for mode in (False, True)]
    assert torch.equal(*outputs) == (name != "SO(3)")


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_round_trip(name: str) -> None:
    ours, _, options, extra = NETWORKS[name]
    model = pair(name)[0].eval()
    again = ours(**options, **extra).double().eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(run(again, hits()), run(model, hits()))
    assert torch.equal(run(copy.deepcopy(model), hits()), run(model, hits()))


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_may_be_any_tensors(name: str) -> None:
    """torch.func.functional_call puts tensors where the parameters are."""
    model, p = pair(name)[0].eval(), hits()
    state = {key: 2 * value if value.is_floating_point() else value for key, value in model.state_dict().items()}
    inputs = (p.x, p.graph, p.edge_attr) if name == "IN" else (p.x, p.graph)
    out = torch.func.functional_call(model, state, inputs)
    assert not torch.equal(out, run(model, p))
    model.load_state_dict(state)
    assert torch.equal(out, run(model, p))


@pytest.mark.parametrize("name", NETWORKS)
def test_float64_hits_beside_float32_weights(name: str) -> None:
    if name == "IN":
        return  # its hits are features
    p, model = hits(), pair(name)[0].eval()
    expected = run(model, p)
    out = run(model.float(), p)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["SO(2)", "SO(3)", "IN"])
def test_compiles_with_changing_sizes(name: str) -> None:
    torch._dynamo.reset()
    model = pair(name)[0].eval()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=True, backend="aot_eager")
    for n, edges in ((12, 50), (7, 31), (20, 90)):
        p, results = hits(n, edges), []
        for f in (model, compiled):
            x = p.x.clone().requires_grad_()
            out = f(x, p.graph, p.edge_attr) if name == "IN" else f(x, p.graph)
            results.append([out, *torch.autograd.grad(weighted(out), [x, *f.parameters()], allow_unused=True)])
        results = [[torch.zeros(1).double() if t is None or not t.any() else t for t in r] for r in results]
        close(results[1], results[0])


@pytest.mark.parametrize("name", ["SO(2)", "IN"])
def test_exports_with_any_size(name: str) -> None:
    model = pair(name)[0].eval()
    auto = torch.export.Dim.AUTO
    rows = {0: auto}

    def inputs(n: int, edges: int) -> tuple[Any, ...]:
        p = hits(n, edges)
        return (p.x, p.graph, p.edge_attr) if name == "IN" else (p.x, p.graph)

    # a Graph's leaves: table, num_nodes, num_edges, edge_index
    shapes: tuple[Any, ...] = (rows, [rows, auto, auto, {1: auto}], rows)
    example = inputs(12, 50)
    program = torch.export.export(model, example, dynamic_shapes=shapes[: len(example)])
    for sizes in ((12, 50), (20, 90)):
        torch.testing.assert_close(program.module()(*inputs(*sizes)), model(*inputs(*sizes)), rtol=1e-12, atol=1e-14)


def test_checks_are_named() -> None:
    p = hits()
    so2, so3, net = (pair(name)[0] for name in ("SO(2)", "SO(3)", "IN"))
    e = torch.zeros(150, 6).double()
    cases: list[tuple[Callable[[], Tensor | nn.Module], type[Exception], str]] = [
        (lambda: EuclidNet(variant="S4"), ValueError, "EuclidNet: variant: expected one of repo, paper, got 'S4'"),
        (lambda: EuclidNet(n_layers=0), ValueError, "EuclidNet: n_layers: expected at least 1"),
        (
            lambda: EuclidNet(variant="paper", equi_output=False),
            ValueError,
            'EuclidNet: equi_output: expected True with variant="paper"',
        ),
        (lambda: EuclidNetSO3(n_layers=0), ValueError, "EuclidNetSO3: n_layers: expected at least 1"),
        (lambda: InteractionNetwork(n_layers=0), ValueError, "InteractionNetwork: n_layers: expected at least 1"),
        (lambda: so2(p.x[:, :2], p.graph), ValueError, r"EuclidNet: x: expected shape \[n, 3\], got \[30, 2\]"),
        (lambda: so2(p.x, tuple(p.rows)), TypeError, "EuclidNet: graph: expected a Graph, or an edge_index"),
        (lambda: so2(p.x[1:], p.rows), ValueError, r"Graph.from_edge_index: edge_index: expected indices in \[0, 29\)"),
        (lambda: so2.EB(p.x, p.x[:, :2], e, p.graph), ValueError, r"EuclidBlock: h: expected shape \[30, 6\]"),
        (lambda: so3(p.x.long(), p.graph), TypeError, "EuclidNetSO3: x: expected dtype float32 or float64"),
        (lambda: net(p.x, p.graph, p.edge_attr[1:]), ValueError, "message_passing: edge_attr: expected 150 rows"),
        (
            lambda: net(p.x, p.graph, p.edge_attr[:, 1:]),
            ValueError,
            r"InteractionNetwork: edge_attr: expected shape \[E, 4\]",
        ),
        (lambda: net(p.x, p.graph), ValueError, r"InteractionNetwork: edge_attr: expected shape \[E, 4\], got None"),
        (lambda: net(p.x, p.graph, p.edge_attr.float()), TypeError, "InteractionNetwork: edge_attr: expected dtype"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()
