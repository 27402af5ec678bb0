"""LorentzNet against published outputs, against the published formula, and under its symmetries."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import published
from equikernels.data import load_sample_jets, top_tagging_scalars, with_beams
from equikernels.export import TAKES_ANY_SIZE
from equikernels.models import LorentzNet
from equikernels.nn import LGEB, lgeb

from ..support.golden import filled, jets, stored
from ..support.tools import assert_as_good_as_eager, boost, rotation

# Filled weights, n_scalar 2, width 8, 2 layers, c 5e-3, jets(5, 4) with beams, padded to 7.
FILLED_EVAL = [[-0.4900536404, -0.7552040422], [-0.4735204792, -0.6881239401]]
FILLED_TRAIN = [[-0.8840531596, -1.330115868], [-0.8571129493, -1.288186731]]

Event = tuple[Tensor, Tensor, Tensor]  # x, scalars, ptr


def top_inputs(p4: Tensor, ptr: Tensor) -> Event:
    x, ptr, is_beam = with_beams(p4, ptr)
    return x, top_tagging_scalars(x, is_beam), ptr


def filled_pair(readout: str = "padded_mean", **sizes: Any) -> tuple[LorentzNet, published.LorentzNet]:
    """Ours and the published formula, float64, eval mode, filled weights."""
    sizes = {"n_scalar": 2, "n_hidden": 8, "n_layers": 2, "c_weight": 5e-3, **sizes}
    return filled(LorentzNet(**sizes, readout=readout)).eval(), filled(published.LorentzNet(**sizes)).eval()


def run_published(model: nn.Module, event: Event, padded_to: int | None = None) -> Tensor:
    return model(*published.LorentzNet.padded_inputs(*event, padded_to))


def relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize(("n_scalar", "count"), [(2, 224_072), (8, 227_096)])
def test_parameter_counts_and_keys(n_scalar: int, count: int) -> None:
    model, theirs = LorentzNet(n_scalar, 72), published.LorentzNet(n_scalar, 72)
    assert sum(p.numel() for p in model.parameters()) == count
    shapes = [(key, value.shape) for key, value in model.state_dict().items()]
    assert shapes == [(key, value.shape) for key, value in theirs.state_dict().items()]
    assert len(shapes) == 135


@pytest.mark.parametrize("training", [False, True])
def test_golden_filled_weights(training: bool, backend: str) -> None:
    event = top_inputs(*jets(5, 4))
    golden = torch.tensor(FILLED_TRAIN if training else FILLED_EVAL, dtype=torch.float64)
    for model in filled_pair():
        model.train(training)
        logits = model(*event, padded_to=7) if isinstance(model, LorentzNet) else run_published(model, event, 7)
        torch.testing.assert_close(logits, golden, rtol=1e-9, atol=0)  # ten digits are printed


def test_golden_stored(backend: str) -> None:
    g = stored("lorentznet_eval")
    model = LorentzNet(**g["cfg"], readout="padded_mean").double().eval()
    model.load_state_dict(g["state"])
    x = g["x_packed"].requires_grad_()
    logits = model(x, g["scalars_packed"], g["ptr"], padded_to=g["n_nodes"])
    torch.testing.assert_close(logits, g["logits"], rtol=1e-9, atol=0)
    names, parameters = zip(*model.named_parameters(), strict=True)
    dx, *grads = torch.autograd.grad(logits, [x, *parameters], g["cotangent"])
    assert relative(dx, g["dx_packed"]) < 1e-9
    assert set(names) == set(g["grads"])
    for name, grad in zip(names, grads, strict=True):
        assert relative(grad, g["grads"][name]) < 1e-9, name


def test_golden_stored_float32(backend: str) -> None:
    g = stored("lorentznet_eval")
    models = LorentzNet(**g["cfg"], readout="padded_mean").eval(), published.LorentzNet(**g["cfg"]).eval()
    event = g["x_packed"].float(), g["scalars_packed"].float(), g["ptr"]
    for model in models:
        model.load_state_dict(g["state"])
    model, theirs = models
    oracle = run_published(copy.deepcopy(theirs).double(), (event[0].double(), event[1].double(), event[2]), 14)
    assert_as_good_as_eager([model(*event, padded_to=14)], [run_published(theirs, event, 14)], [oracle])
    mixed = model(g["x_packed"], *event[1:], padded_to=14)  # float64 coordinates and float32 features
    assert mixed.dtype == torch.float32
    assert_as_good_as_eager([mixed], [run_published(theirs, event, 14)], [g["logits"]])


def real_events(n: int = 12) -> Event:
    sample = load_sample_jets()[:n]
    return top_inputs(sample.p4.double(), sample.ptr)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("padded_to", [None, 130])
def test_gradients_are_those_of_the_published_formula(training: bool, padded_to: int | None) -> None:
    event = real_events()
    results = []
    for model in filled_pair(n_layers=3, n_hidden=12, c_weight=0.05):
        model.train(training)
        x = event[0].clone().requires_grad_()
        inputs = (x, *event[1:])
        ours = isinstance(model, LorentzNet)
        logits = model(*inputs, padded_to=padded_to) if ours else run_published(model, inputs, padded_to)
        cotangent = torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits)
        grads = torch.autograd.grad(logits, [x, *model.parameters()], cotangent)
        results.append([logits.detach(), *grads, *(b.double() for b in model.buffers())])
    scale = max(g.abs().max() for g in results[1][2:])
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max() + 1e-13 * scale


def test_one_optimizer_step_is_the_published_one() -> None:
    event = real_events(8)
    label = load_sample_jets().label[:8]
    after = []
    for model in filled_pair(n_hidden=12):
        model.train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(2):
            logits = model(*event) if isinstance(model, LorentzNet) else run_published(model, event)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, label).backward()
            optimizer.step()
        after.append(model.state_dict())
    ours, theirs = after
    before = filled_pair(n_hidden=12)[0].state_dict()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-9, atol=1e-12, msg=lambda m, key=key: f"{key}: {m}")
        assert not torch.equal(value, before[key]) or "phi_e.3.bias" in key, key


@pytest.mark.parametrize("rapidity", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("readout", ["masked_mean", "padded_mean"])
def test_logits_are_invariant_when_beams_move_too(rapidity: float, readout: str, backend: str) -> None:
    model, _ = filled_pair(readout)
    x, scalars, ptr = top_inputs(*jets(5, 4, 9))
    transform = boost(rapidity) @ rotation(4, "minkowski")
    expected = model(x, scalars, ptr)
    assert relative(model(x @ transform.T, scalars, ptr), expected) < 1e-9
    # Without boosted beams the configuration differs: the logits then depend on the frame.
    moved = torch.where(scalars[:, 1:] > 0, x, x @ transform.T)
    assert relative(model(moved, scalars, ptr), expected) > 1e-6


@pytest.mark.parametrize("rapidity", [0.5, 3.0])
def test_coordinates_are_equivariant(rapidity: float, backend: str) -> None:
    model, _ = filled_pair(c_weight=0.3)
    x, scalars, ptr = top_inputs(*jets(5, 4))
    transform = boost(rapidity) @ rotation(4, "minkowski")
    graph = ek.Graph.complete(ptr)
    h = model.embedding(scalars)
    block = model.LGEBs[0]
    h_out, x_out = block(h, x, graph, node_attr=scalars)
    h_moved, x_moved = block(h, x @ transform.T, graph, node_attr=scalars)
    assert relative(x_out, x) > 1e-3
    assert relative(x_moved, x_out @ transform.T) < 1e-9
    assert relative(h_moved, h_out) < 1e-9


@pytest.mark.parametrize("training", [False, True])
def test_permutation(training: bool) -> None:
    model, _ = filled_pair("masked_mean")
    model.train(training)
    x, scalars, ptr = top_inputs(*jets(5, 4, 1))
    order = torch.cat([torch.randperm(int(n)) + p for n, p in zip(ptr.diff(), ptr, strict=False)])
    assert not torch.equal(order, torch.arange(len(order)))
    expected = model(x, scalars, ptr)
    assert relative(model(x[order], scalars[order], ptr), expected) < 1e-11


def test_padding_changes_the_padded_mean_only() -> None:
    x, scalars, ptr = top_inputs(*jets(5, 4))
    padded, theirs = filled_pair("padded_mean")
    masked, _ = filled_pair("masked_mean")
    longest = padded(x, scalars, ptr)
    assert torch.equal(padded(x, scalars, ptr, padded_to=7), longest)
    wider = padded(x, scalars, ptr, padded_to=10)
    assert relative(wider, longest) > 1e-2
    torch.testing.assert_close(wider, run_published(theirs, (x, scalars, ptr), 10), rtol=1e-11, atol=0)
    # Alone, the shorter event is padded to its own length, and the readouts agree.
    start = int(ptr[1])
    alone = x[start:], scalars[start:], torch.tensor([0, 6])
    together = masked(x, scalars, ptr)
    torch.testing.assert_close(masked(*alone), together[1:], rtol=1e-12, atol=0)
    torch.testing.assert_close(padded(*alone), together[1:], rtol=1e-12, atol=0)
    assert relative(padded(*alone), longest[1:]) > 1e-2


def test_masked_training_sees_real_nodes_only() -> None:
    """Batch statistics of an event do not change when a batch is padded further; the published ones do."""
    event = top_inputs(*jets(5, 4))
    means = {}
    for padded_to in (7, 10):
        model, _ = filled_pair("padded_mean")
        model.train()(*event, padded_to=padded_to)
        means[padded_to] = model.LGEBs[0].phi_h[1].running_mean
    assert relative(means[7], means[10]) > 1e-3
    masked, theirs = filled_pair("masked_mean")
    masked.train()(*event)
    assert relative(means[7], masked.LGEBs[0].phi_h[1].running_mean) > 1e-3
    equal = top_inputs(*jets(5, 5))  # nothing to pad: all three agree
    masked, theirs = filled_pair("masked_mean")
    torch.testing.assert_close(masked.train()(*equal), run_published(theirs.train(), equal), rtol=1e-11, atol=0)


@pytest.mark.parametrize("training", [False, True])
def test_no_edge_op_sees_padding(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, a node without edges would take the time of one with some."""
    seen = []

    def counted(mlp: Any, graph: ek.Graph, **inputs: Any) -> Any:
        seen.append((graph.num_nodes, len(inputs["h"]), len(inputs["x"])))
        return ek.message_passing(mlp, graph, **inputs)

    monkeypatch.setattr(lgeb, "message_passing", counted)
    model, _ = filled_pair("padded_mean")
    model.train(training)(*top_inputs(*jets(5, 4)), padded_to=20)
    assert seen == [(13, 13, 13)] * len(model.LGEBs)


@pytest.mark.parametrize("readout", ["masked_mean", "padded_mean"])
def test_odd_events(readout: str) -> None:
    """Empty events, lone particles, and no events at all."""
    model, theirs = filled_pair(readout)
    x, scalars, ptr = top_inputs(*jets(3))
    empty_between = torch.tensor([0, 0, 5, 5])
    logits = model(x, scalars, empty_between)
    torch.testing.assert_close(logits[1:2], model(x, scalars, ptr), rtol=1e-12, atol=0)
    nothing = model.graph_dec(torch.zeros(1, 8, dtype=torch.float64))
    assert torch.equal(logits[[0, 2]], nothing.expand(2, -1))
    lone = torch.arange(6)
    expected = torch.cat([model(x[i : i + 1], scalars[i : i + 1], torch.tensor([0, 1])) for i in range(5)])
    torch.testing.assert_close(model(x, scalars, lone), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(expected, run_published(theirs, (x, scalars, lone)), rtol=1e-12, atol=0)
    assert model(x[:0], scalars[:0], ptr[:1]).shape == (0, 2)


def test_a_graph_serves_as_ptr() -> None:
    model, _ = filled_pair("masked_mean")
    x, scalars, ptr = top_inputs(*jets(5, 4))
    assert torch.equal(model(x, scalars, ek.Graph.complete(ptr)), model(x, scalars, ptr))


def test_checks_are_named() -> None:
    model, _ = filled_pair("padded_mean")
    masked, _ = filled_pair("masked_mean")
    x, scalars, ptr = top_inputs(*jets(5, 4))
    cases = [
        (lambda: LorentzNet(2, 8, readout="mean"), ValueError, "LorentzNet: readout: expected one of masked_mean"),
        (lambda: LorentzNet(2, 8, n_layers=0), ValueError, "LorentzNet: n_layers: expected at least 1"),
        (lambda: model(x[:, :3], scalars, ptr), ValueError, r"LorentzNet: x: expected shape \[n, 4\]"),
        (lambda: model(x, scalars[:, :1], ptr), ValueError, r"LorentzNet: scalars: expected shape \[13, 2\]"),
        (lambda: model(x.half(), scalars, ptr), TypeError, "LorentzNet: x: expected dtype float32 or float64"),
        (lambda: model(x, scalars, ptr[:2]), ValueError, "ptr: expected a last entry of 13, got 7"),
        (lambda: model(x, scalars, ek.Graph.complete(ptr[:2])), ValueError, "LorentzNet: ptr: expected 13 nodes"),
        (
            lambda: model(x, scalars, ek.Graph.complete(ptr, self_loops=True)),
            ValueError,
            "LorentzNet: ptr: expected offsets, or a complete graph without self-loops",
        ),
        (
            lambda: model(x, scalars, ek.Graph.from_edge_index(torch.zeros(2, 1, dtype=torch.int64), 13)),
            ValueError,
            "LorentzNet: ptr: expected offsets, or a complete graph",
        ),
        (lambda: model(x, scalars, ptr, padded_to=6), ValueError, "LorentzNet: padded_to: expected at least 7"),
        (lambda: masked(x, scalars, ptr, padded_to=7), ValueError, "LorentzNet: padded_to: expected None with"),
        (lambda: LGEB(8, 9, 8), ValueError, "LGEB: n_output: expected 8"),
        (lambda: LGEB(8, 8, 8, dropout=0.1), ValueError, "LGEB: dropout: expected 0"),
    ]
    graph, h = ek.Graph.complete(ptr), torch.zeros(13, 8)
    block = LGEB(8, 8, 8, 2)
    cases += [
        (lambda: block(h, x, graph), ValueError, r"LGEB: node_attr: expected shape \[13, 2\], got None"),
        (lambda: block(h[1:], x, graph), ValueError, r"LGEB: h: expected shape \[13, 8\]"),
        (lambda: block(h, x[:, :2], graph), ValueError, r"LGEB: x: expected shape \[13, 4\]"),
        (lambda: block(h, x, graph, h, scalars), ValueError, r"LGEB: edge_attr: expected None, got \[13, 8\]"),
    ]
    for call, kind, message in cases:
        with pytest.raises(kind, match=message):
            call()


def test_block_with_edge_attributes_on_a_sparse_graph() -> None:
    """Against the formula written edge by edge."""
    sender, receiver = torch.tensor([[3, 0, 1, 1, 2], [0, 1, 0, 0, 2]])
    graph = ek.Graph.from_edge_index(torch.stack([sender, receiver]), 4)
    block = filled(LGEB(5, 5, 6, 2, c_weight=0.5, n_edge_attr=3)).eval()
    x, _ = jets(4)
    h, s, a = (torch.randn(n, w, dtype=torch.float64) for n, w in ((4, 5), (4, 2), (5, 3)))
    h_out, x_out = block(h, x, graph, a, s)
    eta = torch.tensor([1.0, -1, -1, -1], dtype=torch.float64)
    total, shift, degree = torch.zeros(4, 6).double(), torch.zeros(4, 4).double(), torch.zeros(4, 1).double()
    for e, (j, i) in enumerate(zip(sender.tolist(), receiver.tolist(), strict=True)):
        d = x[i] - x[j]
        s_ij = ek.psi(torch.stack([(d * d * eta).sum(), (x[i] * x[j] * eta).sum()]))
        m = block.phi_e(torch.cat([h[i], h[j], s_ij, a[e]])[None])
        m = m * block.phi_m(m)
        total[i] += m[0]
        shift[i] += (d * block.phi_x(m)[0]).clamp(-100, 100)
        degree[i] += 1
    torch.testing.assert_close(x_out, x + 0.5 * shift / degree.clamp(min=1), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(h_out, h + block.phi_h(torch.cat([h, total, s], dim=1)), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("readout", "training"), [("masked_mean", False), ("padded_mean", True)])
def test_compiles_with_changing_sizes(readout: str, training: bool) -> None:
    model, _ = filled_pair(readout)
    model.train(training)
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=True, backend="aot_eager")
    for sizes in ((5, 4), (3, 6, 2), (9,)):
        x, scalars, ptr = top_inputs(*jets(*sizes))
        options = {"padded_to": 12} if readout == "padded_mean" else {}
        results = []
        for f in (model, compiled):
            leaf = x.clone().requires_grad_()
            edges = sum((n + 2) * (n + 1) for n in sizes)
            logits = f(leaf, scalars, ek.Graph.complete(ptr, num_edges=edges), **options)
            results.append((logits, torch.autograd.grad(logits.square().sum(), leaf)[0]))
        for eager, fast in zip(*results, strict=True):
            torch.testing.assert_close(fast, eager, rtol=1e-9, atol=1e-12)


def test_exports_with_any_size() -> None:
    model, _ = filled_pair("masked_mean")

    def inputs(*sizes: int) -> tuple[Tensor, Tensor, ek.Graph]:
        x, scalars, ptr = top_inputs(*jets(*sizes))
        edges = sum((n + 2) * (n + 1) for n in sizes)
        return x, scalars, ek.Graph.complete(ptr, num_edges=edges)

    example = inputs(5, 4)
    size = torch.export.Dim.AUTO
    rows = {0: size}
    # a Graph's leaves: table, num_nodes, num_edges
    program = torch.export.export(model, example, dynamic_shapes=(rows, rows, [rows, size, size]))
    for sizes in ((5, 4), (3, 6, 2), (9, 0), *([(9,)] if TAKES_ANY_SIZE else [])):
        event = inputs(*sizes)
        torch.testing.assert_close(program.module()(*event), model(*event), rtol=1e-12, atol=0)


def test_autocast_keeps_coordinates() -> None:
    event = real_events(4)
    model = LorentzNet(2, 16, n_layers=2, c_weight=0.05).eval()
    x, scalars, ptr = event[0].float(), event[1].float(), event[2]
    expected = model(x, scalars, ptr)
    seen = []
    model.LGEBs[0].register_forward_hook(lambda module, args, out: seen.append(out[1].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(x, scalars, ptr)
    assert seen == [torch.float32]
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("layer", [ek.nn.LGEB(6, 6, 5, 1), ek.nn.EGCL(6, 6, 5, 0, 1)], ids=["LGEB", "EGCL"])
def test_blocks_do_not_ask_for_the_number_of_edges(layer: torch.nn.Module) -> None:
    """On a GPU that number would have to be copied to the host. Where gradients are wanted on a CPU it is asked for: it
    is the size of what is kept."""
    graph = ek.Graph.complete(torch.tensor([0, 3, 7]), num_nodes=7, validate=False)
    with torch.no_grad():
        h, x = layer.eval()(torch.ones(7, 6), torch.randn(7, 4), graph, node_attr=torch.ones(7, 1))
    assert h.shape == (7, 6)
    assert x.shape == (7, 4)
    assert graph._num_edges is None


@pytest.mark.parametrize("first", [True, False])
def test_dropout_works_whichever_mode_came_first(first: bool) -> None:
    """A readout that was read without its dropout runs layer by layer in training, and is fused again afterwards."""
    model = ek.models.LorentzNet(2, 6, n_layers=1, dropout=0.5)
    x, ptr, is_beam = ek.data.with_beams(*(lambda jets: (jets.p4, jets.ptr))(ek.data.load_sample_jets()[:8]))
    given = x.float(), ek.data.top_tagging_scalars(x, is_beam).float(), ptr
    modes = [first, not first] * 2
    found = {True: [], False: []}
    for training in modes:
        torch.manual_seed(1)
        before = {name: b.clone() for name, b in model.named_buffers()}
        found[training].append(model.train(training)(*given))
        for name, b in model.named_buffers():
            b.copy_(before[name])
    for pair in found.values():
        torch.testing.assert_close(*pair)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found[True][0], found[False][0])
