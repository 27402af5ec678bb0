"""Batch norms inside message_passing and row_mlp: PyTorch's numbers, running averages included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.published.lorentznet import LGEB

from ..support.cases import GRAPHS, four_vectors, select
from ..support.golden import filled
from ..support.process import run_two

ORDER = ("receiver", "sender", "invariants")
ENDS = {"channels": nn.ReLU(), "edges": nn.Sigmoid()}  # the activation behind the norm, and so the kernel


class Networks(nn.Module):
    """A linear layer, a batch norm and two more layers, on edges or on rows."""

    def __init__(self, columns: int, plan: str = "channels", width: int = 4, **options: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(columns, width)
        self.norm = nn.BatchNorm1d(width, **options)
        self.rest = nn.Sequential(nn.ReLU(), nn.Linear(width, 3), ENDS[plan])
        filled(self)

    def layers(self) -> list[nn.Module]:
        return [self.linear, self.norm, *self.rest]

    def plain(self, rows: Tensor) -> Tensor:
        return self.rest(self.norm(self.linear(rows)))


def gathered(h: Tensor, x: Tensor, graph: ek.Graph) -> Tensor:
    return torch.cat([h[graph.receiver], h[graph.sender], ek.pairwise_invariants(x, graph).to(h.dtype)], dim=1)


def fused_edges(net: Networks, h: Tensor, x: Tensor, graph: ek.Graph) -> Tensor:
    mlp = ek.EdgeMLP.of(net.layers(), order=ORDER)
    out = ek.message_passing(mlp, graph, h=h, x=x, messages="none", edges=True).edges
    assert out is not None
    return out


def fused_rows(net: Networks, rows: Tensor) -> Tensor:
    return ek.row_mlp(ek.EdgeMLP.of(net.layers()), rows)


def steps(net: Networks, leaves: list[Tensor], forward: Callable[[], Tensor]) -> list[Tensor]:
    """Two passes in training, so that running averages move, gradients, and a pass in evaluation."""
    forward()
    out = forward()
    grads = torch.autograd.grad(out.sin().sum(), [*leaves, *net.parameters()], materialize_grads=True)
    net.eval()
    return [out, *grads, *net.buffers(), forward()]


NORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum None": {"momentum": None},
    "momentum 1": {"momentum": 1.0, "eps": 0.1},
    "not affine": {"affine": False},
    "no running averages": {"track_running_stats": False},
}


@pytest.mark.parametrize("name", ["complete", "sparse", "no_edges"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("plan", ENDS)
def test_over_edges(name: str, norm: str, plan: str, backend: str) -> None:
    graph, generator = GRAPHS[name](), torch.Generator().manual_seed(2)
    h = torch.randn(graph.num_nodes, 3, dtype=torch.float64, generator=generator)
    x = four_vectors(graph.num_nodes, generator)
    results = []
    for fused in (True, False):
        net, leaves = (
            Networks(8, plan, **NORMS[norm]).double(),
            [h.clone().requires_grad_(), x.clone().requires_grad_()],
        )

        def forward(net: Networks = net, leaves: list[Tensor] = leaves, fused: bool = fused) -> Tensor:
            return fused_edges(net, *leaves, graph) if fused else net.plain(gathered(*leaves, graph))  # type: ignore[call-arg,arg-type]

        results.append(steps(net, leaves, forward))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rows", [0, 2, 5000])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("width", [4, 60])
def test_over_rows(rows: int, norm: str, width: int, backend: str) -> None:
    table = torch.randn(rows, 5, dtype=torch.float64)
    results = []
    for fused in (True, False):
        net, leaf = Networks(5, width=width, **NORMS[norm]).double(), table.clone().requires_grad_()

        def forward(net: Networks = net, leaf: Tensor = leaf, fused: bool = fused) -> Tensor:
            return fused_rows(net, leaf) if fused else net.plain(leaf)

        results.append(steps(net, [leaf], forward))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ids", [("no kernel",), ("lorentz",), ("norm and tables",)])
def test_statistics_come_with_the_outputs(ids: tuple[str, ...]) -> None:
    """One beside the other, where there are several; with their gradients."""
    for case in (c for c in select("complete", op="message_passing") if c.id in ids):
        options = {**case.options, "wanted": "statistics"}
        graph, inputs = case.graph(), case.inputs()
        found = case.call(inputs, graph, options)  # type: ignore[misc]
        with ek.use_backend("reference"):
            torch.testing.assert_close(found, case.call(inputs, graph, options))  # type: ignore[misc]
        widths = [layer.width for layer in case.options["layers"] if "batch" in layer.norm]
        assert found.dtype == torch.float64
        assert found.shape == (2, sum(widths))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_a_large_mean_costs_no_digits(dtype: torch.dtype, offset: float, backend: str) -> None:
    graph, generator = GRAPHS["large_event"](), torch.Generator().manual_seed(1)
    h = (torch.randn(graph.num_nodes, 3, dtype=torch.float64, generator=generator) + offset).to(dtype)
    layer = ek.Layer(torch.randn(4, 6, dtype=torch.float64, generator=generator).to(dtype), norm=ek.Norm("batch"))
    mlp = ek.EdgeMLP.of([layer], order=("receiver", "sender"))
    found = ek.message_passing(mlp, graph, h=h).statistics
    z = torch.cat([h[graph.receiver], h[graph.sender]], dim=1).double() @ layer.weight.double().T
    assert found is not None
    rounding = 1e-12 if dtype == torch.float64 else 4 * torch.finfo(dtype).eps * max(offset, 1.0)
    torch.testing.assert_close(found[0], z.mean(0), rtol=rounding, atol=rounding)
    torch.testing.assert_close(found[1], z.var(0, unbiased=False), rtol=100 * rounding, atol=rounding)


def test_one_edge_or_row_is_refused_and_leaves_everything_as_it_was() -> None:
    graph = ek.Graph.from_csr(torch.tensor([0, 1, 1]), torch.tensor([1]))
    net = Networks(8)
    before = [b.clone() for b in net.buffers()]
    h, x, rows = torch.randn(2, 3).double(), torch.randn(2, 4).double(), torch.randn(1, 8).double()
    with pytest.raises(ValueError, match="more than one edge when training"):
        fused_edges(net, h, x, graph)
    with pytest.raises(ValueError, match="more than one row when training"):
        fused_rows(net, rows)
    assert all(torch.equal(*pair) for pair in zip(net.buffers(), before, strict=True))
    net.eval()
    assert fused_edges(net, h, x, graph).isfinite().all()
    assert fused_rows(net, rows).isfinite().all()


@pytest.mark.parametrize("width", [4, 60])
def test_frozen_norms_use_their_averages_and_keep_them(width: int) -> None:
    """A norm in evaluation inside a network in training; its averages may be differentiated."""
    net = Networks(8, width=width).train()
    net.norm.eval()
    for name in ("running_mean", "running_var"):
        setattr(net.norm, name, torch.rand(width).double() + 0.5)
    rows = torch.randn(6, 8, dtype=torch.float64)
    torch.testing.assert_close(fused_rows(net, rows), net.plain(rows))
    averages = [net.norm.running_mean.requires_grad_(), net.norm.running_var.requires_grad_()]
    z = (net.linear(rows) - averages[0]) / (averages[1] + net.norm.eps).sqrt() * net.norm.weight + net.norm.bias
    results = [torch.autograd.grad(f.square().sum(), averages) for f in (fused_rows(net, rows), net.rest(z))]
    torch.testing.assert_close(*results)
    assert net.norm.num_batches_tracked == 0


# What one of two processes does; it sees nothing of this file.
PROCESS = """
import sys
import torch
import equikernels as ek

rank, directory = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
batch = torch.load(f"{directory}/in{rank}.pt", weights_only=True)
graph = ek.Graph.complete(batch["ptr"])
block = ek.nn.LGEB(4, 4, 4).double()
block.load_state_dict(batch["block"])
block = torch.nn.SyncBatchNorm.convert_sync_batchnorm(block)
h = batch["h"].requires_grad_()
moved = block(h, batch["x"], graph)
sum(m.sin().sum() for m in moved).backward()
found = [*(m.detach() for m in moved), h.grad, *block.phi_e[1].buffers(), *block.phi_h[1].buffers()]
torch.save([found, [p.grad for p in block.parameters()]], f"{directory}/out{rank}.pt")
torch.distributed.barrier()  # no process ends while another still talks to it
torch.distributed.destroy_process_group()
"""


def test_sync_batch_norm_over_two_processes_is_batch_norm_over_both_batches(tmp_path: Path) -> None:
    generator, sizes = torch.Generator().manual_seed(3), ([0, 4, 8, 12], [0, 3, 6])
    block = filled(LGEB(4, 0, 1.0, False).double())
    batches = []
    for rank, ptr in enumerate(sizes):
        batch = {"h": torch.randn(ptr[-1], 4, dtype=torch.float64, generator=generator), "ptr": torch.tensor(ptr)}
        batches.append(batch | {"x": four_vectors(ptr[-1], generator), "block": block.state_dict()})
        torch.save(batches[-1], tmp_path / f"in{rank}.pt")
    run_two(PROCESS, tmp_path)

    h, x = (torch.cat([batch[name] for batch in batches]) for name in ("h", "x"))
    ptr = torch.tensor([*sizes[0], *(sizes[0][-1] + p for p in sizes[1][1:])])
    h.requires_grad_()
    graph = ek.Graph.complete(ptr)
    moved = block(h, x, (graph.receiver, graph.sender), h[:, :0])
    sum(m.sin().sum() for m in moved).backward()
    saved = [torch.load(tmp_path / f"out{rank}.pt", weights_only=True) for rank in range(2)]
    for rank, (found, _) in enumerate(saved):
        rows = slice(0, 12) if rank == 0 else slice(12, 18)
        expected = [
            *(m[rows].detach() for m in moved),
            h.grad[rows],
            *block.phi_e[1].buffers(),
            *block.phi_h[1].buffers(),
        ]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for name, (first, second), parameter in zip(
        dict(block.named_parameters()),
        zip(*(grads for _, grads in saved), strict=True),
        block.parameters(),
        strict=True,
    ):
        torch.testing.assert_close(first + second, parameter.grad, rtol=1e-9, atol=1e-9, msg=name)
