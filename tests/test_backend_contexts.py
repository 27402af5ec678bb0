"""Tests the choice of a backend per context: threads, tasks, generators, compiled code, backward passes."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels.backend import current, use_kernel

from .support.process import run

DEFAULT = current()
GRAPH = ek.Graph.complete(torch.tensor([0, 3, 5]), num_edges=8)
GRAPH.edge_index, GRAPH.table  # noqa: B018 (made on first use, which compiled code would be compiled anew for)


def in_thread(function, *arguments) -> list[object]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments)))
    thread.start()
    thread.join()
    return results


def test_threads_that_overlap_choose_for_themselves() -> None:
    steps = threading.Barrier(2)
    seen: dict[str, list[str]] = {"reference": [], "cpu": []}

    def work(name: str, first: bool) -> None:
        if not first:
            steps.wait()  # begins inside the other's block
        with ek.use_backend(name):
            if first:
                steps.wait()
            steps.wait()
            seen[name].append(current())
            if first:
                steps.wait()  # and ends behind it
        if not first:
            steps.wait()
        seen[name].append(current())

    threads = [threading.Thread(target=work, args=a) for a in (("reference", True), ("cpu", False))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"reference": ["reference", DEFAULT], "cpu": ["cpu", DEFAULT]}
    assert current() == DEFAULT


def test_a_thread_starts_from_the_default_or_a_copied_context() -> None:
    with ek.use_backend("reference"):
        assert in_thread(current) == [DEFAULT]
        assert in_thread(contextvars.copy_context().run, current) == ["reference"]
    assert in_thread(current) == [DEFAULT]


def test_tasks_choose_for_themselves_and_inherit() -> None:
    async def work(name: str) -> list[str]:
        seen = []
        with ek.use_backend(name):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(current())
        return [*seen, current()]

    async def main() -> None:
        with ek.use_backend("cpu"):
            results = await asyncio.gather(work("reference"), work("auto"))
            assert results == [["reference"] * 3 + ["cpu"], ["auto"] * 3 + ["cpu"]]
            assert current() == "cpu"

    asyncio.run(main())
    assert current() == DEFAULT


def test_nesting_errors_and_decorators() -> None:
    @ek.use_backend("reference")
    def inner(deep: int) -> str:
        return current() if deep == 0 else inner(deep - 1)

    block = ek.use_backend("reference")
    with ek.use_backend("cpu"):
        with block:
            with pytest.raises(KeyError), block:
                raise KeyError
            assert current() == "reference"
        assert current() == "cpu"
        assert inner(2) == "reference"
        assert current() == "cpu"
    assert current() == DEFAULT


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_blocks_may_end_in_any_order(order: tuple[int, int]) -> None:
    stacks = [ExitStack(), ExitStack()]
    for stack, name in zip(stacks, ("reference", "cpu"), strict=True):
        stack.enter_context(ek.use_backend(name))
    stacks[order[0]].close()
    assert current() == ("cpu", "reference")[order[0]]
    stacks[order[1]].close()
    assert current() == DEFAULT


@pytest.mark.parametrize("where", ["here", "in another thread"])
def test_a_generator_leaves_nothing_behind(where: str) -> None:
    def values(name: str) -> Iterator[str]:
        with ek.use_backend(name):
            while True:
                yield current()

    first, second = values("reference"), values("cpu")
    assert (next(first), next(second)) == ("reference", "cpu")
    if where == "here":
        first.close()
        assert current() == "cpu"
        second.close()
        assert current() == DEFAULT
        return
    third = values("reference")
    assert in_thread(next, third) == ["reference"]
    first.close(), second.close(), third.close()  # the last in a context that it was not begun in
    assert current() == DEFAULT
    assert in_thread(current) == [DEFAULT]


def test_compiled_code_is_compiled_anew_for_another_backend() -> None:
    torch._dynamo.reset()
    seen: list[bool] = []

    def engine(module: torch.fx.GraphModule, inputs: list[Tensor]):
        seen.append("equikernels" in module.code)
        return module.forward

    compiled = torch.compile(lambda x: ek.pairwise_invariants(x, GRAPH), fullgraph=True, backend=engine)
    x = torch.randn(5, 4)

    def ran(name: str) -> None:
        with ek.use_backend(name):
            assert torch.equal(compiled(x), ek.pairwise_invariants(x, GRAPH))

    ran("auto")
    assert seen == [use_kernel("pairwise_invariants", x)]
    with ek.use_backend("reference"):
        compiled(x)
        assert seen[1:] == [False]
        in_thread(ran, "auto")  # inside the block, in a thread of its own
    for name in ("reference", "auto", "reference"):
        ran(name)
    assert len(seen) == 2


def test_compiled_code_may_choose_by_itself() -> None:
    torch._dynamo.reset()
    seen: list[int] = []

    def engine(module: torch.fx.GraphModule, inputs: list[Tensor]):
        seen.append(module.code.count("equikernels.invariants"))
        return module.forward

    def f(x: Tensor) -> Tensor:
        with ek.use_backend("reference"):
            a = ek.pairwise_invariants(x, GRAPH)
            with ek.use_backend("auto"):
                b = ek.pairwise_invariants(x, GRAPH)
            c = ek.pairwise_invariants(x, GRAPH)
        return a + b + c + ek.pairwise_invariants(x, GRAPH)

    x = torch.randn(5, 4)
    compiled = torch.compile(f, fullgraph=True, backend=engine)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), f(x))
        assert current() == DEFAULT
    assert seen == [2 * use_kernel("pairwise_invariants", x)]
    with ek.use_backend("reference"):
        torch.testing.assert_close(compiled(x), f(x))
    assert seen[1:] == [int(use_kernel("pairwise_invariants", x))]


@pytest.mark.parametrize("strict", [False, True])
def test_export_takes_the_backend_of_the_context(strict: bool) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return ek.pairwise_invariants(x, GRAPH)

    for name, found in (("reference", False), ("auto", use_kernel("pairwise_invariants", torch.zeros(1)))):
        with ek.use_backend(name):
            program = torch.export.export(Module(), (torch.randn(5, 4),), strict=strict)
        assert any("equikernels" in str(node.target) for node in program.graph.nodes) == found


# Kernels of the op `invariants` and of its backward with recognisable results.
STUB = """
import sys, threading, types, torch
import equikernels as ek
from equikernels import _triton

stub = types.ModuleType("stub")
stub.invariants = lambda x, table, num_edges, kind, metric, psi: x.new_full((num_edges, 2), 7.0)
stub.invariants_backward = lambda grad, x, table, num_edges, kind, metric, psi: torch.full_like(x, 5.0)
sys.modules["stub"] = stub
_triton._installed = True
_triton.provide("pairwise_invariants", "stub", ["invariants", "invariants_backward"])
graph = ek.Graph.complete(torch.tensor([0, 2]))

def answer():
    return ek.pairwise_invariants(torch.zeros(2, 4), graph)[0, 0].item()

def gradient(outside, inside):
    x = torch.zeros(2, 4, requires_grad=True)
    with ek.use_backend(inside):
        y = ek.pairwise_invariants(x, graph).sum()
    with ek.use_backend(outside):
        y.backward()
    return x.grad[0, 0].item()

def in_thread(f, *a):
    found = []
    thread = threading.Thread(target=lambda: found.append(f(*a)))
    thread.start(); thread.join()
    return found[0]
"""


def test_triton_is_chosen_for_a_context() -> None:
    code = """
with ek.use_backend("triton"):
    print(answer(), in_thread(answer))
    inside = threading.Event(), threading.Event()
    def work():
        with ek.use_backend("triton"):
            inside[0].set(); inside[1].wait()
            return answer()
    found = []
    other = threading.Thread(target=lambda: found.append(work()))
    other.start(); inside[0].wait()
print(answer())
inside[1].set(); other.join()
print(found[0], answer(), _triton._choosing)
with ek.use_backend("triton"):
    pass
print(answer(), _triton._override)
"""
    assert run(STUB + code).splitlines() == ["7.0 0.0", "0.0", "7.0 0.0 0", "0.0 None"]


def test_a_backward_pass_runs_on_the_backend_of_its_forward_pass() -> None:
    code = """
print(gradient("auto", "triton"), gradient("triton", "auto"), in_thread(gradient, "auto", "triton"), _triton._choosing)
"""
    assert run(STUB + code) == "5.0 0.0 5.0 0\n"


def test_the_environment_is_the_default_of_every_thread() -> None:
    code = """
from equikernels.backend import current
import threading
with ek.use_backend("cpu"):
    found = []
    thread = threading.Thread(target=lambda: found.append(current()))
    thread.start(); thread.join()
    print(found[0], current())
print(current())
"""
    answers = run("import equikernels as ek" + code, EQUIKERNELS_BACKEND="reference").splitlines()
    assert answers == ["reference cpu", "reference"]
