"""Measures an op: compares results first, then times them."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import equikernels as ek

from .baselines import index_add, pyg, scatter
from .ceilings import ceilings
from .clock import rotated
from .machine import machine

Implementation = Callable[..., Tensor]  # (graph, *inputs)
EQUIKERNELS, INDEX_ADD, PYG, TORCH_SCATTER = "equikernels", "index_add_", "PyG", "torch_scatter"
BASELINES: dict[str, ModuleType] = {INDEX_ADD: index_add, PYG: pyg, TORCH_SCATTER: scatter}
MISSING = {TORCH_SCATTER: scatter.missing} if scatter.missing else {}


def everyone(ours: Implementation, theirs: Callable[..., Tensor]) -> dict[str, Implementation]:
    """Implementation by name; ``theirs`` takes a module of baselines as its first argument."""
    found = {EQUIKERNELS: ours}
    for name, module in BASELINES.items():
        found[name] = lambda *arguments, module=module: theirs(module, *arguments)  # type: ignore[misc]
    return found


# --- What is measured ---------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu")
    parser.addoption("--threads", default=f"1,{os.cpu_count()}", help="of PyTorch, one after another (default: 1,all)")
    parser.addoption("--dtypes", default="float32", help="the first for all inputs, others for large ones")


def _threads(config: pytest.Config) -> list[int]:
    on_gpu = config.getoption("--device") == "cuda"
    return [1] if on_gpu else sorted({int(n) for n in config.getoption("--threads").split(",")})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "threads" in metafunc.fixturenames:
        threads = _threads(metafunc.config)
        metafunc.parametrize("threads", threads, indirect=True, ids=[f"{n} threads" for n in threads])
    if "dtype" in metafunc.fixturenames:
        names = metafunc.config.getoption("--dtypes").split(",")
        metafunc.parametrize("dtype", [getattr(torch, name) for name in names], ids=names)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Dtypes after the first are measured on large inputs with all threads."""
    first, threads = config.getoption("--dtypes").split(",")[0], _threads(config)[-1]

    def wanted(item: pytest.Item) -> bool:
        chosen = item.callspec.params  # type: ignore[attr-defined]
        dtype = chosen.get("dtype")
        return dtype in (None, getattr(torch, first)) or (chosen["threads"] == threads and chosen["graph"] not in SMALL)

    config.hook.pytest_deselected(items=[item for item in items if not wanted(item)])
    items[:] = filter(wanted, items)


@pytest.hookimpl(optionalhook=True)  # tests are collected without pytest-benchmark, too
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Adds the head of the document of :mod:`bench.report`, with the ceilings of the same run."""
    threads, device = _threads(config)[-1], config.getoption("--device")
    machine_info["document"] = {
        **machine("kernels", threads, device),
        "ceilings": ceilings(threads, device),
        "left_out": list(MISSING.values()),
    }


def two_particles() -> ek.Graph:
    """Almost no work: measures the overhead of a call."""
    return ek.Graph.complete(torch.tensor([0, 2]))


def one_jet() -> ek.Graph:
    return ek.Graph.complete(torch.tensor([0, 52]))


def jets(count: int = 100) -> ek.Graph:
    """Sample jets, 52 constituents on average: all pairs."""
    return ek.Graph.complete(ek.data.load_sample_jets()[:count].ptr)


def csr() -> ek.Graph:
    """A hit graph's size: 80k edges over 10k nodes, in random order."""
    edges = torch.randint(0, 10_000, (2, 80_000), generator=torch.Generator().manual_seed(0))
    return ek.Graph.from_edge_index(edges, 10_000)


SMALL = ("one particle", "two particles", "one jet")
GRAPHS = {"two particles": two_particles, "one jet": one_jet, "100 jets": jets, "80k edges": csr}


@pytest.fixture(scope="session", params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> ek.Graph:
    return prepared(GRAPHS[request.param](), request)


def prepared(graph: ek.Graph, request: pytest.FixtureRequest) -> ek.Graph:
    """On the device, with all tensors that are made on first use."""
    graph = graph.to(request.config.getoption("--device"))
    graph.table, graph.edge_index  # noqa: B018
    return graph


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(params=["forward", "forward and backward"])
def backward(request: pytest.FixtureRequest) -> bool:
    return request.param != "forward"


@pytest.fixture(params=[EQUIKERNELS, *(name for name in BASELINES if name not in MISSING)])
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for reason in MISSING.values():
        terminalreporter.write_line(reason)


# --- How ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def measure(
    benchmark: Any,
    graph: ek.Graph,
    threads: int,
    dtype: torch.dtype,
    backward: bool,
    implementation: str,
    known: dict[Hashable, list[tuple[Tensor, float]]],
    request: pytest.FixtureRequest,
) -> Callable[..., None]:
    """measure(op, implementations, inputs, flops) checks and times the implementation of the current test.

    ``flops`` are those of the formula, forward; its gradient counts twice. Bytes are those of inputs and outputs, each
    once: the backward pass reads inputs and the cotangent, and writes gradients of the inputs. With ``kinks`` (a ReLU
    or a maximum, where rounding may redirect a gradient), gradients are compared in float64. ``lower``: the op takes
    dtypes below float32.
    """

    def run(
        op: str,
        implementations: dict[str, Implementation],
        inputs: list[Tensor],
        flops: float = 0.0,
        kinks: bool = False,
        lower: bool = False,
    ) -> None:
        if dtype.itemsize < 4 and not lower:
            pytest.skip("float32 and float64 only")
        exact = [t.to(graph.device).double() for t in inputs]
        inputs = [t.to(dtype) for t in exact]
        compared = exact if kinks and backward else inputs
        graph_name = request.node.callspec.params["graph"]
        key = op, graph_name, backward, dtype
        if key not in known:
            known[key] = _right(implementations[INDEX_ADD], graph, compared, backward)
        f = implementations[implementation]
        for got, (oracle, allowed) in zip(_results(f, graph, compared, backward), known[key], strict=True):
            assert got.numel() == 0 or (got - oracle).abs().max() <= allowed
        size, out = _bytes(inputs), _bytes(f(graph, *inputs))
        call, arguments, calls, timed = *_call(f, graph, inputs, backward), 1, "wall clock"
        if graph.device.type == "cuda":
            runs, calls, timed = rotated(call, arguments)
            call, arguments = runs, []
        name = str(dtype).removeprefix("torch.")
        benchmark.group = f"{op}, {graph_name}, {'forward and backward' if backward else 'forward'}, {threads}, {name}"
        benchmark.extra_info.update(
            op=op,
            graph=graph_name,
            edges=graph.num_edges,
            backward=backward,
            threads=threads,
            dtype=name,
            by=implementation,
            flops=flops * (3 if backward else 1),
            bytes=size + out + backward * (2 * size + out),
            calls=calls,
            timed=timed,
        )
        benchmark(call, *arguments)

    return run


def _bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tree_leaves(tensors))


def _call(
    f: Implementation, graph: ek.Graph, inputs: list[Tensor], backward: bool
) -> tuple[Callable[..., Any], list[Tensor]]:
    """The timed function, and its arguments."""
    if not backward:
        return lambda *inputs: f(graph, *inputs), inputs
    out = f(graph, *inputs)
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    leaves = [t.clone().requires_grad_() for t in inputs]
    return lambda *leaves: torch.autograd.grad(f(graph, *leaves), leaves, cotangent), leaves


def _results(f: Implementation, graph: ek.Graph, inputs: list[Tensor], backward: bool) -> list[Tensor]:
    call, arguments = _call(f, graph, inputs, backward)
    out = call(*arguments)
    return [out] if isinstance(out, Tensor) else list(out)


@pytest.fixture(scope="session")
def known() -> dict[Hashable, list[tuple[Tensor, float]]]:
    """The expected values and tolerances of every measurement so far."""
    return {}


def _right(plain: Implementation, graph: ek.Graph, inputs: list[Tensor], backward: bool) -> list[tuple[Tensor, float]]:
    """The tolerance rule: error against float64 at most twice the plain formula's and some roundings of the largest."""
    exact = _results(plain, graph, [t.double() for t in inputs], backward)
    eager = _results(plain, graph, inputs, backward)
    eps = max(torch.finfo(inputs[0].dtype).eps, 1e-14)  # float64 has no better oracle than itself
    return [
        (oracle, float(2 * (value - oracle).abs().max() + 16 * eps * oracle.abs().max()) if value.numel() else 0.0)
        for value, oracle in zip(eager, exact, strict=True)
    ]
