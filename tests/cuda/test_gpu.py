"""Tests that need a CUDA device: graphs, devices, streams, compiled networks. `make gpu-test` runs them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.metric import Metric

from ..support.cases import four_vectors

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def batch(device: str = "cuda") -> tuple[Tensor, Tensor, ek.Graph]:
    ptr = torch.tensor([0, 30, 47, 47, 48, 90])
    edges = sum(n * (n - 1) for n in ptr.diff().tolist())
    x = four_vectors(90, torch.Generator().manual_seed(0)).float().to(device)
    graph = ek.Graph.complete(ptr.to(device), num_nodes=90, num_edges=edges, validate=False)
    return x, torch.ones(90, 1, device=device), graph


def network(device: str = "cuda") -> ek.models.LorentzNet:
    torch.manual_seed(0)
    return ek.models.LorentzNet(1, 72, n_layers=2).to(device)


def gradients(model: torch.nn.Module, x: Tensor, scalars: Tensor, graph: ek.Graph) -> list[Tensor]:
    out = model(x, scalars, graph)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), list(model.parameters()))]


def test_a_network_on_the_device_gives_what_it_gives_on_the_cpu() -> None:
    for device_result, result in zip(
        gradients(network(), *batch()), gradients(network("cpu"), *batch("cpu")), strict=True
    ):
        torch.testing.assert_close(device_result.cpu(), result, rtol=1e-3, atol=1e-4)


def test_a_training_step_is_captured_in_a_graph() -> None:
    model, given = network(), batch()
    warm = torch.cuda.Stream()
    warm.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm):
        for _ in range(3):
            gradients(model, *given)
    torch.cuda.current_stream().wait_stream(warm)
    model.eval()  # running statistics would differ between calls
    expected = gradients(model, *given)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        result = gradients(model, *given)
    captured.replay()
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    model.train()
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        gradients(model, *given)


def test_nothing_waits_for_the_device() -> None:
    model, given = network(), batch()
    gradients(model, *given)
    torch.cuda.set_sync_debug_mode("error")
    try:
        gradients(model, *given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_results_are_bitwise_the_same_on_every_run() -> None:
    model, given = network().eval(), batch()
    first = gradients(model, *given)
    for _ in range(20):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(model, *given), strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_tensors_of_another_device_than_the_current() -> None:
    here, there = (gradients(network(d).eval(), *batch(d)) for d in ("cuda:0", "cuda:1"))
    assert all(torch.equal(a, b.to(a.device)) for a, b in zip(here, there, strict=True))


def test_a_compiled_network() -> None:
    model, given = network().eval(), batch()
    compiled = torch.compile(model, fullgraph=True)
    for a, b in zip(gradients(compiled, *given), gradients(model, *given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("metric", "dim"), [("euclidean", 3), ("minkowski", 4), ("delta_r", 2)])
def test_neighbours_are_those_of_the_cpu(metric: Metric, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = four_vectors(900, generator) if dim == 4 else torch.randn(900, dim, generator=generator, dtype=torch.float64)
    ptr = torch.tensor([0, 30, 30, 31, 131, 900])

    def found(device: str) -> list[Tensor]:
        there = x.to(device), ptr.to(device)
        nearest = ek.k_nearest(there[0], 40, there[1], metric)
        graph, distance = ek.radius_graph(there[0], 0.3, there[1], metric, return_distance=True)
        return [t.cpu() for t in (*nearest, graph.edge_index, distance)]

    for a, b in zip(found("cuda"), found("cpu"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-15, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rank2_layers_in_16_bits(dtype: torch.dtype) -> None:
    pairs = batch()[2].pairs
    T, coefs = torch.randn(pairs.num_edges, 35, device="cuda"), torch.randn(35, 60, 15, device="cuda") / 20
    given = [t.to(dtype).requires_grad_() for t in (T, coefs)]

    def gradients(T: Tensor, coefs: Tensor) -> list[Tensor]:
        out = ek.linear_2to2(T, pairs, coefs, how=ek.Aggregation(nbar=40.0), activation="leaky_relu")
        return [out.detach(), *torch.autograd.grad(out.double().square().mean(), (T, coefs))]

    found = gradients(*given)
    with ek.use_backend("reference"):
        exact = gradients(*(t.detach().double().requires_grad_() for t in given))
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == dtype
        assert (a.double() - b).norm() < 0.02 * b.norm()


def roomy(gib: int) -> pytest.MarkDecorator:
    """Skips if the device has less memory."""
    there = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    return pytest.mark.skipif(there < gib << 30, reason=f"less than {gib} GiB on the device")


@roomy(40)
@pytest.mark.parametrize(("edges", "channels"), [(1 << 21, 1056)])
def test_edges_times_channels_beyond_2_to_the_31(edges: int, channels: int) -> None:
    """Rows beyond that bound are distinct: every row contains its receiver's number, the last also an extra 1."""
    assert edges * channels > 1 << 31
    receiver = torch.arange(edges, device="cuda") * 64 // edges
    rowptr = torch.arange(65, device="cuda") * (edges // 64)
    graph = ek.Graph.from_csr(rowptr, receiver.flip(0))
    rows = receiver[:, None].float().expand(-1, channels).contiguous().requires_grad_()
    with torch.no_grad():
        rows[-1] += 1
    top = ek.segment_reduce(rows, graph, "max")
    expected = torch.arange(64.0, device="cuda")[:, None].expand(-1, channels).clone()
    expected[-1] += 1
    assert torch.equal(top, expected)
    (grad,) = torch.autograd.grad(ek.segment_reduce(rows, graph, "sum")[-1].sum(), rows)
    assert grad[: -(edges // 64)].count_nonzero() == 0
    assert bool((grad[-(edges // 64) :] == 1).all())


@roomy(40)
@pytest.mark.parametrize(("jets", "size"), [(4096, 200)])
def test_a_batch_of_4096_large_jets_fits(jets: int, size: int) -> None:
    """160 million edges of 72 channels, of which a layer in PyTorch makes several tensors of 47 GB. One jet of the
    batch has the same score alone."""
    n = jets * size
    x = four_vectors(n, torch.Generator().manual_seed(0)).float().cuda()
    scalars, ptr = torch.ones(n, 1, device="cuda"), torch.arange(jets + 1, device="cuda") * size
    model = network().eval()
    torch.cuda.reset_peak_memory_stats()
    scores = model(x, scalars, ptr)
    scores.sum().backward()
    assert torch.cuda.max_memory_allocated() < 30 << 30
    alone = model(x[-size:], scalars[-size:], ptr[:2])
    torch.testing.assert_close(scores[-1:], alone, rtol=1e-4, atol=1e-5)


@roomy(8)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_wide_layers_take_no_more_than_the_workspace(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two million edges of 256 channels. A layer's output would be 1 GB in 16 bits."""
    monkeypatch.setenv("EQUIKERNELS_WORKSPACE", str(256 << 20))
    size, events = 100, 202
    graph = ek.Graph.complete(torch.arange(events + 1, device="cuda") * size)
    generator = torch.Generator("cuda").manual_seed(0)
    h = torch.randn(size * events, 16, device="cuda", dtype=dtype, generator=generator).requires_grad_()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(32, 256), torch.nn.SiLU(), torch.nn.Linear(256, 256), torch.nn.SiLU())
    net = net.to("cuda", dtype)
    mlp = ek.EdgeMLP.of(net, order=("receiver", "sender"))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with ek.use_backend("cuda"):
        messages = ek.message_passing(mlp, graph, h=h).messages
    assert messages is not None
    (grad,) = torch.autograd.grad(messages.float().square().sum(), h)
    assert torch.cuda.max_memory_allocated() - before < 1 << 30
    # one event alone, by the formula
    one = h[:size].detach().double().requires_grad_()
    exact = ek.EdgeMLP.of(net.double(), order=("receiver", "sender"))
    with ek.use_backend("reference"):
        expected = ek.message_passing(exact, ek.Graph.complete(torch.tensor([0, size], device="cuda")), h=one).messages
    assert expected is not None
    (right,) = torch.autograd.grad(expected.square().sum(), one)
    for found, wanted in ((messages[:size], expected), (grad[:size], right)):
        error = (found.double() - wanted).abs().max() / wanted.abs().max()
        assert error < (8 if dtype.itemsize == 2 else 100) * torch.finfo(dtype).eps
