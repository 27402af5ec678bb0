"""Tests what a ReLU head leaves to the backward pass: the weight of each edge and a bit for each channel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.ops.message_passing import op as message_op

EVENTS = ek.Graph.complete(torch.tensor([0, 3, 3, 4, 57]), self_loops=True)
EDGES = torch.randint(0, 57, (2, 300), generator=torch.Generator().manual_seed(0))


def network(width: int, head: int, act: type[nn.Module], tanh: bool, bias: bool, dtype: torch.dtype) -> ek.EdgeMLP:
    torch.manual_seed(width + head)
    message = nn.Sequential(nn.Linear(8, width), act(), nn.Linear(width, width), act())
    last = [nn.Linear(head, 1, bias=False), *([nn.Tanh()] if tanh else [])]
    of_head = nn.Sequential(nn.Linear(width, head, bias=bias), act(), *last)
    gate = nn.Sequential(nn.Linear(width, 1), nn.Sigmoid())
    order = ("receiver", "sender", "invariants")
    return ek.EdgeMLP.of(message.to(dtype), gate=gate.to(dtype), head=of_head.to(dtype), order=order)


def leaves_of(mlp: ek.EdgeMLP, h: Tensor, x: Tensor) -> list[Tensor]:
    return [h, x, *(t for t in mlp.tensors() if t is not None)]


def gradients(mlp: ek.EdgeMLP, graph: ek.Graph, dtype: torch.dtype, coordinates: str = "mean") -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    h, x = (torch.randn(57, c, generator=generator).to(dtype).requires_grad_() for c in (3, 4))
    geometry = ek.Geometry(clamp=0.5)
    out = ek.message_passing(mlp, graph, h=h, x=x, geometry=geometry, coordinates=coordinates)
    assert out.messages is not None
    assert out.coordinates is not None
    loss = out.messages.square().sum() + (out.coordinates * torch.linspace(-1, 1, 4, dtype=dtype)).sum()
    return list(torch.autograd.grad(loss, leaves_of(mlp, h, x)))


@pytest.mark.parametrize("coordinates", ["sum", "mean"])
@pytest.mark.parametrize(("tanh", "bias"), [(False, True), (True, True), (False, False)])
@pytest.mark.parametrize(("width", "head"), [(5, 1), (9, 33), (72, 72), (16, 64)])
@pytest.mark.parametrize("complete", [True, False])
def test_gradients(
    complete: bool, width: int, head: int, tanh: bool, bias: bool, coordinates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = EVENTS if complete else ek.Graph.from_edge_index(EDGES, 57)
    mlp = network(width, head, nn.ReLU, tanh, bias, torch.float64)
    kept = gradients(mlp, graph, torch.float64, coordinates)
    with ek.use_backend("reference"):
        torch.testing.assert_close(kept, gradients(mlp, graph, torch.float64, coordinates), rtol=1e-11, atol=1e-11)
    monkeypatch.setattr(message_op, "_keeping", lambda call, *_: call)
    again = gradients(mlp, graph, torch.float64, coordinates)
    torch.testing.assert_close(kept, again, rtol=1e-12, atol=1e-12)


def test_float32_is_as_exact_as_without() -> None:
    """The gradient of the head's last weight comes from other sums than the formula's."""
    exact = gradients(network(72, 72, nn.ReLU, False, True, torch.float64), EVENTS, torch.float64)
    ours = gradients(network(72, 72, nn.ReLU, False, True, torch.float32), EVENTS, torch.float32)
    with ek.use_backend("reference"):
        eager = gradients(network(72, 72, nn.ReLU, False, True, torch.float32), EVENTS, torch.float32)
    for got, plain, true in zip(ours, eager, exact, strict=True):
        allowed = 2 * (plain - true).abs().max() + 16 * torch.finfo(torch.float32).eps * true.abs().max()
        assert (got - true).abs().max() <= allowed


@pytest.mark.parametrize(
    ("act", "dtype", "words"),
    [(nn.ReLU, torch.float32, 3), (nn.ReLU, torch.float64, 4), (nn.SiLU, torch.float32, 0)],
)
def test_what_is_kept(act: type[nn.Module], dtype: torch.dtype, words: int) -> None:
    """Two words for 33 bits and the weight's own; nothing of other activations, nor without gradients."""
    mlp, graph = network(9, 33, act, False, True, dtype), ek.Graph.from_edge_index(EDGES, 57)
    h, x = torch.randn(57, 3, dtype=dtype, requires_grad=True), torch.randn(57, 4, dtype=dtype)
    out = ek.message_passing(mlp, graph, h=h, x=x, coordinates="sum")
    assert out.messages is not None
    assert out.messages.grad_fn is not None
    saved = out.messages.grad_fn.saved_tensors[-1]  # type: ignore[attr-defined]
    assert saved.numel() == 300 * words
    assert saved.dtype == (torch.int32 if words else dtype)
    with torch.no_grad():
        alone = ek.message_passing(mlp, graph, h=h, x=x, coordinates="sum")
    torch.testing.assert_close(alone.messages, out.messages.detach(), rtol=0, atol=0)


def test_a_nan_stays_in_its_edges() -> None:
    """The bit of a NaN is set, because a NaN is not at most 0: its gradient passes, as in the formula."""
    mlp = network(5, 7, nn.ReLU, False, True, torch.float64)
    graph = ek.Graph.from_edge_index(EDGES, 57)
    results = []
    for backend in ("auto", "reference"):
        h, x = torch.ones(57, 3, dtype=torch.float64), torch.ones(57, 4, dtype=torch.float64)
        h[11, 1] = torch.nan
        leaves = [h.requires_grad_(), x.requires_grad_()]
        with ek.use_backend(backend):
            out = ek.message_passing(mlp, graph, h=h, x=x, coordinates="sum")
            assert out.coordinates is not None
            results.append(torch.autograd.grad(out.coordinates.sum(), leaves, allow_unused=True)[0])
    torch.testing.assert_close(*results, equal_nan=True)


def test_a_direct_call_is_checked() -> None:
    mlp = network(9, 33, nn.ReLU, False, True, torch.float32)
    h, x = torch.randn(57, 3), torch.randn(57, 4)
    options = message_op.EdgeOptions.of(mlp, ek.Geometry(), 4, "sum", "sum", False)._replace(keep=True)
    tensors = [h, x, None, *mlp.tensors()]
    op, grads = torch.ops.equikernels.message_passing, [torch.ones(57, 9), torch.ones(57, 4), None, None]

    def run(edges: int, options: message_op.EdgeOptions) -> list[Tensor]:
        return op(tensors, EVENTS.table, edges, EVENTS._kind, *options.encoded())

    saved = [run(EVENTS.num_edges, options)[k] for k in message_op.FUSED.spec.saved]
    with pytest.raises(RuntimeError, match="kept: expected what was kept of each edge"):
        run(EVENTS.num_edges - 1, options)
    with pytest.raises(RuntimeError, match="kept: expected what was kept of each edge"):
        torch.ops.equikernels.message_passing_backward(
            grads, tensors, [*saved[:-1], saved[-1][1:]], EVENTS.table, EVENTS.num_edges, EVENTS._kind,
            *options.encoded(), [True] * len(tensors),
        )  # fmt: skip
    with pytest.raises(RuntimeError, match="keep: expected a ReLU head"):
        run(EVENTS.num_edges, options._replace(coordinates=0))
