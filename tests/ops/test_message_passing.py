"""message_passing beyond the generic checks: memory, mixed precision, frozen parameters, plans, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import equikernels as ek
from equikernels.ops.fused_op import planned
from equikernels.ops.message_passing.options import EdgeOptions

from ..support.cases import GRAPHS, Case, Inputs, four_vectors, select
from ..support.mlp_cases import FORMULA, Spec, call, edge_inputs, network
from ..support.tools import assert_as_good_as_eager, require_grad

LORENTZ = Spec(9, "relu", "batch affine", bias=False), Spec(7, "relu"), Spec(5, "relu"), Spec(1, bias=False)
WANTED: dict[str, Any] = {"layers": LORENTZ, "depth": 2, "coordinates": "mean"}


def case_of(id: str, graph_name: str = "complete") -> Case:
    return next(c for c in select(graph_name, op="message_passing") if c.id == id)


def events(total: int, size: int) -> ek.Graph:
    return ek.Graph.complete(torch.arange(0, total + 1, size))


def peak_bytes(graph: ek.Graph, layers: tuple[Spec, ...]) -> int:
    """The allocator's high-water mark over a forward and backward pass, above what was there before."""
    made = edge_inputs(*layers)(torch.Generator().manual_seed(0), graph)
    leaves = require_grad({n: t.float() for n, t in made.items()})
    options = {"layers": layers, "depth": len(layers) - 2, "coordinates": "sum"}

    def step() -> None:
        call(leaves, graph, options).sum().backward()

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


@pytest.mark.parametrize(
    ("last", "room", "kept"),
    [("relu", "0", 0), ("relu", "", 8), ("silu", "", 0)],
    ids=["channels", "channels and signs", "edges"],
)
def test_peak_memory_does_not_grow_with_edges(last: str, room: str, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a number and sixteen bits of a ReLU head, where there is room for them."""
    monkeypatch.setenv("EQUIKERNELS_WORKSPACE", room)
    # The same 1536 nodes in events of growing size: the number of edges grows 24-fold, node tables stay.
    layers = Spec(16, "relu", "batch affine", bias=False), Spec(16, last), Spec(16, "relu"), Spec(1, bias=False)
    graphs = [events(1536, size) for size in (8, 32, 96, 192)]
    edges = torch.tensor([float(g.num_edges) for g in graphs])
    peaks = torch.tensor([float(peak_bytes(g, layers)) for g in graphs])
    slope = ((edges - edges.mean()) * (peaks - peaks.mean())).sum() / ((edges - edges.mean()) ** 2).sum()
    assert (slope - kept).abs() < 0.5, f"{slope:.2f} bytes per edge; peaks {peaks.tolist()}"  # one float would be 4


def test_no_tensor_of_edges_is_allocated_in_a_training_step_of_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIKERNELS_WORKSPACE", "0")
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


@pytest.mark.parametrize("graph_name", ["complete", "sparse"])
@pytest.mark.parametrize("id", ["lorentz", "relu", "euclidnet", "norm and tables"])
def test_float64_coordinates_beside_float32_features(id: str, graph_name: str, backend: str) -> None:
    case = case_of(id, graph_name)
    graph, inputs = case.graph(), case.inputs()

    def run(kind: str) -> list[Tensor]:
        dtype = torch.float64 if kind == "oracle" else torch.float32
        leaves = require_grad({n: t.float().to(dtype) if n != "x" else t for n, t in inputs.items()})
        with ek.use_backend("auto" if kind == "kernel" else "reference"):
            out = case.run(leaves, graph)
        grads = torch.autograd.grad((out.double() ** 2).sum(), list(leaves.values()))
        assert "coordinates" not in case.options or out.dtype == torch.float64
        return [t.detach() if kind == "oracle" else t.detach().float() for t in (out, *grads)]

    assert_as_good_as_eager(run("kernel"), run("eager"), run("oracle"), ["out", *inputs], case.weights)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 72, 80, 100, 512])
def test_any_width(width: int, backend: str) -> None:
    graph = GRAPHS["complete"]()
    for activation in ("relu", "silu"):  # a head of another activation runs with lanes across edges
        layers = Spec(width, "silu"), Spec(width, "silu"), Spec(width, activation), Spec(1, bias=False)
        made = edge_inputs(*layers)(torch.Generator().manual_seed(0), graph)
        options = {"layers": layers, "depth": 2, "coordinates": "sum"}
        result = call(made, graph, options)
        with ek.use_backend("reference"):
            torch.testing.assert_close(result, call(made, graph, options), rtol=1e-10, atol=1e-10)


def plan_of(mlp: ek.EdgeMLP, dim: int | None = 4, **options: Any) -> str:
    given = {"messages": "sum", "coordinates": "none", "edges": False, **options}
    like = mlp.layers[0].weight
    return planned("message_passing_plan", EdgeOptions.of(mlp, ek.Geometry(), dim, **given), mlp.shape(), like)


@pytest.mark.skipif(ek._native.cpu_reason is not None, reason=str(ek._native.cpu_reason))
@pytest.mark.parametrize(
    ("layers", "options", "plan"),
    [
        ((Spec(3, "relu", "batch"), Spec(3, "relu")), {}, "0"),
        ((Spec(3, "relu", "batch"), Spec(3, "silu")), {}, "1"),
        ((Spec(3, "relu", "given"), Spec(3, "silu")), {}, "2"),
        ((Spec(3, "relu"), Spec(3, "relu"), Spec(3, "relu"), Spec(3, "relu")), {}, "2"),
        ((Spec(3, "relu"), Spec(3, "silu")), {"messages": "mean"}, "a mean"),
        ((Spec(3, "relu", "layer affine"), Spec(3, "relu")), {}, "a LayerNorm with an affine map"),
        ((Spec(3, "relu"), Spec(3, "relu", "batch")), {}, "statistics of a batch norm behind the first layer"),
        ((Spec(3, "leaky_relu"), Spec(3, "leaky_relu", slope=0.3)), {}, "different slopes"),
        ((Spec(3, "relu"), Spec(513, "silu")), {}, "a layer of other than 1 to 512 channels"),
        (tuple(Spec(2, "silu") for _ in range(33)), {}, "more than 32 layers"),
    ],
)
def test_plans(layers: tuple[Spec, ...], options: dict[str, Any], plan: str) -> None:
    graph = GRAPHS["complete"]()
    inputs = edge_inputs(*layers)(torch.Generator().manual_seed(0), graph)
    assert plan_of(network(inputs, layers), **options).startswith(plan)
    if plan.isdigit():
        return
    with (
        ek.use_backend("cpu"),
        pytest.raises(RuntimeError, match=f"message_passing: backend 'cpu' was requested: .*{plan}"),
    ):
        call(inputs, graph, {"layers": layers, **options})


@pytest.mark.parametrize("features", [31, 32])
def test_ends_read_or_tabulated_give_the_same(features: int, backend: str) -> None:
    """Up to 64 inputs of the first layer edges read both ends; behind that they read tables of its products."""
    layers = Spec(3, "silu", "layer"), Spec(2)
    made = edge_inputs(*layers, h=features)(torch.Generator().manual_seed(0), GRAPHS["sparse"]())
    if ek._native.cpu_reason is None:
        assert plan_of(network(made, layers)) == ("2" if features == 31 else "1")
    result = call(made, GRAPHS["sparse"](), {"layers": layers})
    with ek.use_backend("reference"):
        expected = call(made, GRAPHS["sparse"](), {"layers": layers})
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


FROZEN = ["lorentz", "relu", "shallow", "euclidnet", "norm and tables", "many inputs"]


@pytest.mark.parametrize("id", FROZEN)
def test_one_gradient_alone(id: str) -> None:
    """Gradients are the same, whichever of them are wanted; where only one is, all others are left out."""
    case = next(c for c in select("complete", "sparse", op="message_passing") if c.id == id)
    graph, inputs = case.graph(), case.inputs()

    def gradients(wanted: list[str]) -> dict[str, Tensor]:
        leaves = {name: t.clone().requires_grad_(name in wanted) for name, t in inputs.items()}
        case.run(leaves, graph).square().sum().backward()
        return {name: t.grad for name, t in leaves.items() if t.grad is not None}

    together = gradients(list(inputs))
    assert set(together) == set(inputs)
    parameters = [name for name in inputs if name in case.weights]
    for wanted in (*([name] for name in inputs), parameters, [n for n in inputs if n not in parameters]):
        found = gradients(wanted)
        assert set(found) == set(wanted)
        for name in wanted:
            assert torch.equal(found[name], together[name]), (wanted, name)


def each_output(id: str = "lorentz") -> tuple[Inputs, ek.Graph, Any]:
    case = case_of(id)
    graph, inputs = case.graph(), require_grad(case.inputs())
    options = dict(case.options)
    mlp_options = {name: options.pop(name) for name in ("layers", "depth", "order") if name in options}
    given = {name: inputs.get(name) for name in ("h", "x", "edge_attr")}
    options |= {"messages": "sum", "coordinates": "sum", "edges": True}
    return inputs, graph, lambda: ek.message_passing(network(inputs, **mlp_options), graph, **given, **options)


@pytest.mark.parametrize("id", ["lorentz", "euclidnet"])
def test_outputs_differentiated_one_by_one(id: str) -> None:
    """An output that is not differentiated counts as one whose cotangent is 0; so do second derivatives."""
    inputs, _, run = each_output(id)
    outputs = [t for t in run() if t is not None]
    cotangents = [torch.randn_like(t) for t in outputs]

    def gradients(outputs: list[Tensor], cotangents: list[Tensor], **options: Any) -> list[Tensor]:
        leaves = list(inputs.values())
        return list(torch.autograd.grad(outputs, leaves, cotangents, materialize_grads=True, **options))

    for k, alone in enumerate(outputs):
        zeros = [c if k == j else torch.zeros_like(c) for j, c in enumerate(cotangents)]
        results = [gradients([alone], [cotangents[k]], create_graph=True), gradients(outputs, zeros, create_graph=True)]
        torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)
        second = [gradients([sum((g * g).sum() for g in r)], [torch.ones(())], retain_graph=True) for r in results]  # type: ignore[list-item]
        torch.testing.assert_close(*second, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("id", ["lorentz", "euclidnet"])
def test_cotangents_of_any_layout(id: str) -> None:
    inputs, _, run = each_output(id)
    for out in (t for t in run() if t is not None):
        row = torch.randn(out.shape[1], dtype=out.dtype)
        for strided in (row.expand_as(out), torch.randn(*out.shape[::-1], dtype=out.dtype).t()):
            leaves = list(inputs.values())
            found, expected = (
                torch.autograd.grad(out, leaves, c, retain_graph=True, allow_unused=True)
                for c in (strided, strided.contiguous())
            )
            for a, b in zip(found, expected, strict=True):
                assert (a is None and b is None) or torch.equal(a, b)


def test_checkpoints_and_changed_inputs() -> None:
    inputs, _, run = each_output()
    leaves = list(inputs.values())

    def total() -> Tensor:
        return sum(t.square().sum() for t in run() if t is not None)  # type: ignore[return-value]

    expected = torch.autograd.grad(total(), leaves)
    for reentrant in (False, True):
        found = torch.autograd.grad(checkpoint(lambda *_: total(), *leaves, use_reentrant=False), leaves)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)), reentrant
    for name in ("h", "weight1", "gamma1"):
        out = total()
        with torch.no_grad():
            inputs[name].mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward()


def arguments(**updates: Any) -> dict[str, Any]:
    layers = [ek.Layer(torch.zeros(4, 12)), ek.Layer(torch.zeros(5, 4), torch.zeros(5), "relu")]
    head, n = [nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1)], 3
    return {
        "mlp": ek.EdgeMLP.of(layers, head=head, order=FORMULA),
        "graph": ek.Graph.complete(torch.tensor([0, n])),
        "h": torch.zeros(n, 5),
        "x": torch.zeros(n, 4),
        "coordinates": "mean",
        **updates,
    }


def mlp(width: int = 12, *order: str) -> ek.EdgeMLP:
    return ek.EdgeMLP.of([ek.Layer(torch.zeros(4, width))], order=order or FORMULA)


ATTRIBUTES = (*FORMULA, "edge_attr")
NONE: dict[str, Any] = {"coordinates": "none"}


@pytest.mark.parametrize(
    ("updates", "error", "message"),
    [
        ({"mlp": nn.Linear(12, 1)}, TypeError, "mlp: expected an EdgeMLP, got Linear"),
        ({"mlp": mlp()}, ValueError, "coordinates: expected 'none', for an mlp without a head, got a reduction"),
        ({"mlp": mlp(11), **NONE}, ValueError, "mlp: expected a first layer of 12 columns, for receiver, .* 11 col"),
        ({"h": None}, ValueError, "h: expected a tensor, for the first layer, got None"),
        ({"h": None, "x": None}, ValueError, "h: expected a tensor: without h and x there are no nodes, got None"),
        ({"h": torch.zeros(3)}, ValueError, r"h: expected shape \[3, C\], got \[3\]"),
        ({"h": torch.zeros(3, 5).half()}, TypeError, "h: expected dtype float32, got float16"),
        ({"h": torch.zeros(3, 5).double()}, TypeError, "h: expected dtype float32, got float64"),
        ({"h": "h"}, TypeError, "h: expected a tensor, got str"),
        ({"h": torch.zeros(2, 5)}, ValueError, "graph: expected 2 nodes, got 3"),
        ({"x": torch.zeros(2, 4)}, ValueError, r"x: expected shape \[3, D\], got \[2, 4\]"),
        ({"x": torch.zeros(3, 4).half()}, TypeError, "x: expected dtype float32 or float64, got float16"),
        ({"x": torch.zeros(3, 9)}, ValueError, "x: expected .* 8"),
        ({"x": torch.zeros(3)}, ValueError, r"x: expected shape \[3, D\], got \[3\]"),
        ({"x": None}, ValueError, "x: expected a tensor, for invariants or coordinates, got None"),
        ({"graph": ek.Graph.complete(torch.tensor([0, 4]))}, ValueError, "graph: expected 3 nodes, got 4"),
        ({"graph": None}, TypeError, "graph: expected an equikernels.Graph, got NoneType"),
        ({"edge_attr": torch.zeros(6, 2)}, ValueError, "edge_attr: expected a tensor if and only if mlp.order has it"),
        ({"mlp": mlp(14, *ATTRIBUTES), **NONE}, ValueError, "edge_attr: expected a tensor if and only if mlp.order"),
        (
            {"mlp": mlp(14, *ATTRIBUTES), "edge_attr": torch.zeros(5, 2), **NONE},
            ValueError,
            "edge_attr: expected 6 rows, one per edge, got 5",
        ),
        ({"geometry": ek.Geometry(direction="up")}, ValueError, "direction: expected one of difference"),
        ({"geometry": ek.Geometry(invariants="up")}, ValueError, "geometry.invariants: expected one of both"),
        ({"geometry": ek.Geometry(clamp=-1.0)}, ValueError, "geometry.clamp: expected a number >= 0 or None, got -1.0"),
        ({"geometry": ek.Geometry(metric=[1.0])}, ValueError, "metric: expected 4 entries, got 1"),
        ({"messages": "max"}, ValueError, "messages: expected one of none, sum, mean"),
        ({"coordinates": "max"}, ValueError, "coordinates: expected one of none, sum, mean"),
        ({"edges": 2}, ValueError, "edges: expected True, False or a layer below 2, got 2"),
        ({"edges": -1}, ValueError, "edges: expected True, False or a layer below 2"),
        ({"precision": "half"}, ValueError, "precision: expected one of highest, high, medium, got 'half'"),
    ],
)
def test_errors_name_the_argument(updates: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^message_passing: {message}"):
        ek.message_passing(**arguments(**updates))
    ek.message_passing(**arguments())


def test_compile_where_every_size_is_a_symbol() -> None:
    """The plan depends on sizes: the compiler has to fix them."""
    edges, nodes = (nn.Sequential(nn.Linear(width, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU()) for width in (13, 8))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.edges, self.nodes = edges, nodes

        def forward(self, graph: ek.Graph, h: Tensor, x: Tensor, edge_attr: Tensor) -> Tensor:
            mlp = ek.EdgeMLP.of(self.edges, order=(*FORMULA, "edge_attr"))
            messages = ek.message_passing(mlp, graph, h=h, x=x, edge_attr=edge_attr).messages
            assert messages is not None
            return ek.row_mlp(ek.EdgeMLP.of(self.nodes), h, messages, residual=h)

    torch._dynamo.reset()
    block = Block()
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (5, 7):
        graph = ek.Graph.complete(torch.tensor([0, 2, n]))
        given = torch.randn(n, 4), torch.randn(n, 4), torch.randn(graph.num_edges, 3)
        torch.testing.assert_close(compiled(graph, *given), block(graph, *given))
