"""message_passing and message_statistics beyond the generic checks: memory, mixed precision, BatchNorm, errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import equikernels as ek
from equikernels.nn.edge_norm import EdgeInput, fold_batch_norm

from ..support.cases import GRAPHS, four_vectors, message_inputs, select
from ..support.tools import assert_as_good_as_eager, require_grad


def lorentz_case(graph_name: str = "complete"):
    return next(c for c in select(graph_name, op="message_passing") if c.id == "relu")


def events(total: int, size: int) -> ek.Graph:
    return ek.Graph.complete(torch.arange(0, total + 1, size))


def peak_bytes(graph: ek.Graph, width: int = 16) -> int:
    """The allocator's high-water mark over a forward and backward pass, above the initial memory."""
    generator = torch.Generator().manual_seed(0)
    made = message_inputs(width, width, head=width)(generator, graph)
    leaves = require_grad({n: t.float() for n, t in made.items()})
    case = lorentz_case()

    def step() -> None:
        case.call(leaves, graph, {"clamp": 100.0}).sum().backward()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    level, peak = 0, 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    assert peak > 0
    return peak


def test_peak_memory_does_not_grow_with_edges() -> None:
    # The same 1536 nodes in events of growing size: the number of edges grows 24-fold, node tables do not grow.
    sizes = [8, 32, 96, 192]
    graphs = [events(1536, size) for size in sizes]
    edges = torch.tensor([float(g.num_edges) for g in graphs])
    peaks = torch.tensor([float(peak_bytes(g)) for g in graphs])
    slope = ((edges - edges.mean()) * (peaks - peaks.mean())).sum() / ((edges - edges.mean()) ** 2).sum()
    assert slope.abs() < 0.5, f"{slope:.2f} bytes per edge; peaks {peaks.tolist()}"  # one float an edge would be 4


def test_no_tensor_of_edges_is_allocated_in_a_training_step_of_the_block() -> None:
    graph = events(640, 64)
    block = ek.nn.LGEB(12, 12, 12, 2)
    h, scalars = torch.randn(640, 12), torch.randn(640, 2)
    x = four_vectors(640, torch.Generator().manual_seed(0)).float()
    largest: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                if isinstance(t, Tensor):
                    largest.append(t.numel())
            return out

    with Watch():
        moved = block(h, x, graph, node_attr=scalars)
        sum(m.sum() for m in moved).backward()
    assert max(largest) < graph.num_edges, "a tensor as long as the edge list was made"


@pytest.mark.parametrize("graph_name", ["complete", "sparse", "large_event"])
def test_float64_coordinates_beside_float32_features(graph_name: str, backend: str) -> None:
    case = lorentz_case(graph_name)
    graph = case.graph()
    inputs = case.inputs()
    options = {**case.options, "wanted": "messages"}

    def run(kind: str) -> list[Tensor]:
        dtype = torch.float64 if kind == "oracle" else torch.float32
        mixed = {n: t.float().to(dtype) if n != "x" else t for n, t in inputs.items()}
        leaves = require_grad(mixed)
        with ek.use_backend("auto" if kind == "kernel" else "reference"):
            out = case.call(leaves, graph, options)
            moved = case.call(leaves, graph, {**options, "wanted": "coordinates"})
        assert moved.dtype == torch.float64
        grads = torch.autograd.grad((out.double() ** 2).sum() + (moved**2).sum(), list(leaves.values()))
        return [
            out.detach(),
            moved.detach().float(),
            *(g.float() if n == "x" else g for n, g in zip(leaves, grads, strict=True)),
        ]

    oracle = [t.double() for t in run("oracle")]
    assert_as_good_as_eager(run("kernel"), run("eager"), oracle, ["messages", "coordinates", *inputs])


@pytest.mark.parametrize("name", [n for n in GRAPHS if n not in ("no_edges", "no_nodes", "no_events", "one_particle")])
@pytest.mark.parametrize("attr", [0, 2])
def test_statistics_are_those_of_the_gathered_tensor(name: str, attr: int) -> None:
    graph = GRAPHS[name]()
    made = message_inputs(5, attr=attr, gate=False)(torch.Generator().manual_seed(1), graph)
    made["receiver"] += 100.0  # a large mean costs no digits
    names = ["receiver", "sender", "x", "invariant_weight", *(["edge_attr", "edge_weight"] if attr else [])]

    def fused(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(names, tensors, strict=True))
        return ek.message_statistics(given.pop("receiver"), given.pop("sender"), given.pop("x"), graph, **given)

    def gathered(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(names, tensors, strict=True))
        z = given["receiver"][graph.receiver] + given["sender"][graph.sender]
        z = z + ek.pairwise_invariants(given["x"], graph) @ given["invariant_weight"].T
        if attr:
            z = z + given["edge_attr"] @ given["edge_weight"].T
        return z.mean(0), z.var(0, unbiased=False)

    leaves = [made[n].requires_grad_() for n in names]
    cotangents = (torch.randn(5).double(), torch.randn(5).double())
    for f, g in zip(fused(*leaves), gathered(*leaves), strict=True):
        torch.testing.assert_close(f, g, rtol=1e-10, atol=1e-10)
    ours = torch.autograd.grad(fused(*leaves), leaves, cotangents)
    theirs = torch.autograd.grad(gathered(*leaves), leaves, cotangents)
    for f, g in zip(ours, theirs, strict=True):
        torch.testing.assert_close(f, g, rtol=1e-9, atol=1e-9)
    if name == "sparse":
        assert torch.autograd.gradgradcheck(fused, leaves, fast_mode=True)


def gathered_norm(norm: nn.Module, z: EdgeInput, x: Tensor, graph: ek.Graph) -> Tensor:
    edges = z.receiver[graph.receiver] + z.sender[graph.sender]
    return norm(edges + ek.pairwise_invariants(x, graph) @ z.invariant_weight.T)


def folded_norm(norm: nn.Module, z: EdgeInput, x: Tensor, graph: ek.Graph) -> Tensor:
    folded = fold_batch_norm(norm, z, x, graph)
    return gathered_norm(nn.Identity(), folded, x, graph)


def edge_input(graph: ek.Graph, width: int = 4) -> tuple[EdgeInput, Tensor]:
    made = message_inputs(width, gate=False)(torch.Generator().manual_seed(2), graph)
    return EdgeInput(made["receiver"], made["sender"], made["invariant_weight"]), made["x"]


@pytest.mark.parametrize("name", ["complete", "sparse", "no_edges"])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_over_edges_is_pytorchs(name: str, momentum: float | None, affine: bool) -> None:
    graph = GRAPHS[name]()
    results = []
    for normalise in (gathered_norm, folded_norm):
        norm = nn.BatchNorm1d(4, momentum=momentum, affine=affine).double()
        if affine:
            nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(3))
        z, x = edge_input(graph)
        z = EdgeInput(*(t if t is None else t.clone().requires_grad_() for t in z))
        x = x.clone().requires_grad_()
        out = [normalise(norm, z, x, graph) for _ in range(2)][-1]  # twice: the running statistics move
        leaves = [t for t in (*z, x, *norm.parameters()) if t is not None]
        grads = torch.autograd.grad(out.sin().sum(), leaves)
        norm.eval()
        results.append([out, *grads, *norm.buffers(), normalise(norm, z, x, graph)])
    for ours, theirs in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_batch_norm_refuses_one_edge_and_leaves_everything_as_it_was() -> None:
    graph = ek.Graph.from_csr(torch.tensor([0, 1, 1]), torch.tensor([1]))
    z, x = edge_input(graph)
    norm = nn.BatchNorm1d(4).double()
    with pytest.raises(ValueError, match="more than one edge when training"):
        fold_batch_norm(norm, z, x, graph)
    assert norm.num_batches_tracked == 0
    assert norm.running_mean.abs().max() == 0


# Code of one of two processes; it does not import this file.
PROCESS = """
import sys
import torch
import equikernels as ek
from equikernels.nn.edge_norm import EdgeInput, fold_batch_norm

rank, directory = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{directory}/store", rank=rank, world_size=2)
batch = torch.load(f"{directory}/in{rank}.pt", weights_only=True)
graph = ek.Graph.complete(batch["ptr"])
z = EdgeInput(*(batch[n].requires_grad_() for n in ("receiver", "sender", "invariant_weight")))
norm = torch.nn.SyncBatchNorm(4).double()
f = fold_batch_norm(norm, z, batch["x"], graph)
out = f.receiver[graph.receiver] + f.sender[graph.sender]
out = out + ek.pairwise_invariants(batch["x"], graph) @ f.invariant_weight.T
out.sin().sum().backward()
torch.save([out.detach(), z.receiver.grad, z.sender.grad, *norm.buffers()], f"{directory}/out{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_sync_batch_norm_over_two_processes_is_batch_norm_over_both_batches(tmp_path: Path) -> None:
    graphs = [events(12, 4), events(6, 3)]
    batches = [edge_input(graph) for graph in graphs]
    for rank, ((z, x), graph) in enumerate(zip(batches, graphs, strict=True)):
        given = {"receiver": z.receiver, "sender": z.sender, "invariant_weight": z.invariant_weight}
        torch.save({**given, "x": x, "ptr": graph.ptr}, tmp_path / f"in{rank}.pt")
    run = [sys.executable, "-c", PROCESS]
    processes = [
        subprocess.Popen([*run, str(rank), str(tmp_path)], cwd=tmp_path, stderr=subprocess.PIPE) for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()

    norm = nn.BatchNorm1d(4).double()
    leaves = [[t.clone().requires_grad_() for t in (z.receiver, z.sender)] for z, _ in batches]
    gathered = [
        gathered_norm(nn.Identity(), EdgeInput(*tables, z.invariant_weight), x, graph)
        for (z, x), tables, graph in zip(batches, leaves, graphs, strict=True)
    ]
    out = norm(torch.cat(gathered)).split([len(g) for g in gathered])
    sum(o.sin().sum() for o in out).backward()
    for rank in range(2):
        saved = torch.load(tmp_path / f"out{rank}.pt", weights_only=True)
        expected = [out[rank].detach(), *(t.grad for t in leaves[rank]), *norm.buffers()]
        for ours, theirs in zip(saved, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 72, 80, 100, 512])
def test_any_width(width: int, backend: str) -> None:
    graph = GRAPHS["complete"]()
    case = lorentz_case()
    made = message_inputs(width, width, head=width)(torch.Generator().manual_seed(0), graph)
    result = case.call(made, graph, {"activation": "silu"})
    with ek.use_backend("reference"):
        expected = case.call(made, graph, {"activation": "silu"})
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)


def change(**updates: Any) -> dict[str, Any]:
    n, width = 3, 4
    arguments: dict[str, Any] = {
        "receiver": torch.zeros(n, width),
        "sender": torch.zeros(n, width),
        "x": torch.zeros(n, 4),
        "graph": ek.Graph.complete(torch.tensor([0, n])),
        "invariant_weight": torch.zeros(width, 2),
        "layers": [(torch.zeros(5, width), torch.zeros(5))],
        "head": (torch.zeros(6, 5), torch.zeros(6), torch.zeros(1, 6)),
    }
    return {**arguments, **updates}


@pytest.mark.parametrize(
    ("updates", "error", "message"),
    [
        ({"receiver": torch.zeros(3)}, ValueError, r"message_passing: receiver: expected shape \[n, H\], got \[3\]"),
        ({"receiver": torch.zeros(3, 4).half()}, TypeError, "receiver: expected dtype float32 or float64"),
        ({"sender": torch.zeros(3, 5)}, ValueError, r"sender: expected shape \[3, 4\], got \[3, 5\]"),
        ({"sender": torch.zeros(3, 4).double()}, TypeError, "sender: expected dtype float32, got float64"),
        ({"x": torch.zeros(3, 4).half()}, TypeError, "x: expected dtype float32 or float64, got float16"),
        ({"x": None}, ValueError, "x: expected a tensor, for invariants or coordinates, got None"),
        ({"graph": ek.Graph.complete(torch.tensor([0, 4]))}, ValueError, "graph: expected 3 nodes, got 4"),
        ({"invariant_weight": torch.zeros(4, 1)}, ValueError, r"invariant_weight: expected shape \[4, 2\]"),
        ({"edge_attr": torch.zeros(6, 2)}, ValueError, "edge_weight: expected to come with edge_attr"),
        (
            {"edge_attr": torch.zeros(5, 2), "edge_weight": torch.zeros(4, 2)},
            ValueError,
            r"edge_attr: expected shape \[6, K\], got \[5, 2\]",
        ),
        ({"layers": [(torch.zeros(5, 3), None)]}, ValueError, r"layers\[0\] weight: expected shape \[H', 4\]"),
        ({"layers": [(torch.zeros(5, 4), torch.zeros(4))]}, ValueError, r"layers\[0\] bias: expected shape \[5\]"),
        ({"layers": [(torch.zeros(4, 4), None)] * 3}, ValueError, "layers: expected at most two, got 3"),
        ({"gate": (torch.zeros(3), None)}, ValueError, r"gate weight: expected shape \[5\], got \[3\]"),
        ({"head": (torch.zeros(6, 5), None, torch.zeros(5))}, ValueError, r"head output weight: expected shape \[6\]"),
        ({"activation": "swish"}, ValueError, "activation: expected one of identity, relu"),
        ({"direction": "up"}, ValueError, "direction: expected one of difference"),
        ({"reduce": "max"}, ValueError, "reduce: expected one of sum, mean"),
        ({"clamp": -1.0}, ValueError, "clamp: expected a number >= 0 or None, got -1.0"),
        ({"metric": [1.0]}, ValueError, "metric: expected 4 entries, got 1"),
    ],
)
def test_errors_name_the_argument(updates: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ek.message_passing(**change(**updates))
    ek.message_passing(**change())
