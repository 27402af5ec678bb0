"""Tests fuse_: a model fused in place gives the same numbers and keeps parameters, hooks and state."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.fuse.edges import GraphCache, make_graph
from equikernels.fuse.swap import is_fused
from equikernels.published import egnn, lorentznet

from ..support.golden import filled


class Block(lorentznet.LGEB):
    """A published block that returns its messages, as the released code does."""

    def forward(self, h: Tensor, x: Tensor, edges: tuple[Tensor, Tensor], node_attr: Tensor | None = None):
        kept: list[Tensor] = []
        handle = self.phi_m.register_forward_hook(lambda gate, args, out: kept.append(args[0] * out))
        h, x = super().forward(h, x, edges, node_attr)
        handle.remove()
        return h, x, kept[0]


def lorentz_batch(dtype: torch.dtype = torch.float64, jets: int = 4):
    jets = ek.data.load_sample_jets()[:jets]
    x, ptr, is_beam = ek.data.with_beams(jets.p4, jets.ptr)
    scalars = ek.data.top_tagging_scalars(x, is_beam)
    longest = int(ptr.diff().max()) + 3  # padded rows: isolated nodes, to which phi_h also applies
    return lorentznet.LorentzNet.padded_inputs(x.to(dtype), scalars.to(dtype), ptr, longest)


def egnn_batch():
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(0, 30, (2, 200), generator=generator)
    h = torch.randn(30, 3, generator=generator).double()
    x = torch.randn(30, 3, generator=generator).double()
    return h, x, [edges[0], edges[1]], torch.randn(200, 2, generator=generator).double()


def models() -> dict[str, tuple[nn.Module, tuple]]:
    h, x, edges, attr = egnn_batch()
    options = {"in_edge_nf": 2, "n_layers": 2}
    return {
        "lorentznet": (lorentznet.LorentzNet(2, 12, n_layers=3, c_weight=5e-3), lorentz_batch()),
        "egnn": (egnn.EGNN(3, 16, 2, **options), (h, x, edges, attr)),
        "egnn_options": (
            egnn.EGNN(3, 16, 2, **options, attention=True, normalize=True, tanh=True),
            (h, x, edges, attr),
        ),
    }


@pytest.mark.parametrize("name", ["lorentznet", "egnn", "egnn_options"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_forward_gradients_and_an_optimizer_step_are_the_models_own(name: str, training: bool) -> None:
    model, batch = models()[name]
    filled(model.double())
    twin = copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    keys = list(model.state_dict())
    assert ek.fuse_(model) is model
    assert list(model.state_dict()) == keys
    assert all(model.get_parameter(n) is p for n, p in parameters.items())

    twin_optimizer = torch.optim.SGD(twin.parameters(), lr=1e-2)
    for m, o in ((model, optimizer), (twin, twin_optimizer)):
        m.train(training)
        out = m(*batch)
        out = out[0] if isinstance(out, tuple) else out
        m.result = out.detach()
        o.zero_grad()
        out.square().sum().backward()
        o.step()
    torch.testing.assert_close(model.result, twin.result, rtol=1e-9, atol=1e-11)
    for (n, ours), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10, msg=lambda m, n=n: f"{n}: {m}")


def test_the_edge_list_becomes_a_complete_graph_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def watched(*args, **kwargs):
        made.append(make_graph(*args, **kwargs))
        return made[-1]

    model = ek.fuse_(lorentznet.LorentzNet(2, 8, n_layers=4).double()).eval()
    monkeypatch.setattr("equikernels.fuse.edges.make_graph", watched)
    for jets in (4, 3):
        for _ in range(2):  # equal edge lists are the same graph
            model(*lorentz_batch(jets=jets))
    assert [g.is_complete for g in made] == [True, True]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_complete_graphs_are_recognised_only_where_order_allows(shuffle: bool, ordered: bool) -> None:
    edges = ek.Graph.complete(torch.tensor([0, 3, 4, 5, 9])).edge_index
    if shuffle:
        edges = edges[:, torch.randperm(edges.shape[1])]
    graph = make_graph(edges[1], edges[0], 9, ordered)
    assert graph.is_complete == (not shuffle or not ordered)
    missing = make_graph(edges[1, :-1], edges[0, :-1], 9, ordered)
    assert not missing.is_complete


def test_the_cache_sees_an_edge_list_that_was_written_to() -> None:
    cache = GraphCache()
    receiver, sender = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    first = cache.graph(receiver, sender, 3, False)
    assert cache.graph(receiver, sender, 3, False) is first
    sender[0] = 2
    assert cache.graph(receiver, sender, 3, False).sender.tolist() == [2, 2, 0]
    pair = torch.tensor([[0, 1], [1, 0]])
    assert cache.graph(pair[0], pair[1], 2, False) is cache.graph(pair[0], pair[1], 2, False)


def test_unfuse_gives_the_forward_back_and_copies_stay_fused() -> None:
    model = lorentznet.LorentzNet(2, 8, n_layers=2)
    ek.fuse_(model)
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for twin in (copy.deepcopy(model), torch.load(saved, weights_only=False)):  # ours, of a line above
        assert all(is_fused(block) and block.forward.__self__ is block for block in twin.LGEBs)
    kind = type(model.LGEBs[0])
    assert kind is not lorentznet.LGEB
    assert issubclass(kind, lorentznet.LGEB)
    ek.unfuse_(model)
    assert not any(is_fused(m) for m in model.modules())
    assert all(type(block) is lorentznet.LGEB for block in model.LGEBs)


@pytest.mark.parametrize("training", [False, True])
def test_a_block_that_returned_its_messages_makes_them_when_they_are_used(training: bool) -> None:
    own = filled(Block(8, 2, 0.1, last_layer=False).double()).train(training)
    fused = ek.fuse_(copy.deepcopy(own))
    assert is_fused(fused)
    edges = ek.Graph.complete(torch.tensor([0, 4])).edge_index
    batch = (torch.randn(4, 8).double(), torch.randn(4, 4).double(), (edges[1], edges[0]), torch.randn(4, 2).double())
    results = []
    for block in (own, fused):
        h, x, m = block(*batch)
        buffers = [b.clone() for b in block.buffers()]
        used = [2 * m, m @ torch.ones(8).double(), m[:2], m.sum(0), torch.cat([m, m], 1), -m, m.shape[0] * h[:1]]
        total = sum(t.sum() for t in (h, x, *used))
        results.append([h, x, *used, *torch.autograd.grad(total, list(block.parameters()))])
        assert all(torch.equal(a, b) for a, b in zip(block.buffers(), buffers, strict=True))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def test_report_and_refusals(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.ModuleList([lorentznet.LGEB(8, 2, 0.1, last_layer=False), lorentznet.LGEB(8, 2, 0.1, last_layer=True)])
    model[1].phi_e[2] = nn.Tanh()
    ek.fuse_(model, verbose=True)
    printed = capsys.readouterr().out
    assert "fused: 0 (LorentzNet block)" in printed
    assert "left alone: 1 (LorentzNet block?): phi_e has other layers" in printed

    class Different(lorentznet.LGEB):
        def forward(self, h, x, edges, scalars):
            h, x = super().forward(h, x, edges, scalars)
            return 1.01 * h, x

    with pytest.raises(ValueError, match="computes something else than the published block"):
        ek.fuse_(Different(8, 2, 0.1, last_layer=False))
    with pytest.raises(ValueError, match=r"expected a published block .* no module has the layers of one"):
        ek.fuse_(nn.Linear(2, 2))


def test_both_clamped_and_unclamped_layers_are_told_apart() -> None:
    torch.manual_seed(0)
    for layer in (egnn.E_GCL(4, 4, 8), egnn.NBodyE_GCL(4, 4, 8, coords_weight=0.5, norm_diff=True)):
        layer = layer.double()
        own = layer.forward
        ek.fuse_(layer)
        edges = torch.randint(0, 6, (2, 20))
        h, x = torch.randn(6, 4).double(), 1e5 * torch.randn(6, 3).double()
        for ours, theirs in zip(layer(h, edges, x)[:2], own(h, edges, x)[:2], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
