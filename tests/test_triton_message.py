"""The Triton kernels of the message op, without a GPU: what is launched, and what the compiler makes of it.

That they are right is tested in the interpreter, by test_triton_interpreted.py.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")

import equikernels as ek  # noqa: E402
from equikernels.graph import COMPLETE, CSR  # noqa: E402
from equikernels.ops import triton_common, triton_launch  # noqa: E402
from equikernels.ops.message import triton as message  # noqa: E402
from equikernels.ops.message.spec import MAX_TRITON_WIDTH, MessageOptions  # noqa: E402

from .triton_report import SHARED, Kernel, recorded  # noqa: E402

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="not compiled, interpreted")

OPTIONS = MessageOptions([1.0, -1.0, -1.0, -1.0], True, True, True, "relu", 0.0, False, 0, 100.0, False, True, False)


def arguments(
    width: int, nodes: int = 48, edges: int = 0, kind: int = COMPLETE, device: str = "cpu", **options: Any
) -> tuple[Any, ...]:
    """Those of the op for a Lorentz block of this width: events of 16, or a CSR graph; without data."""

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype, device=device)

    rows = 2 * (nodes + 1) + 4 * edges if kind == CSR else 2 * (nodes // 16 + 1)
    table = empty(rows, dtype=torch.int64)
    layer = empty(width, width), empty(width)
    return (
        *(empty(nodes, width), empty(nodes, width), empty(nodes, 4), table, edges, kind),
        *(empty(width, 2), None, None, *layer, None, None),
        *(empty(width), empty(1), *layer, empty(width)),
        *OPTIONS._replace(**options).encoded(),
    )


def compile_forward(width: int, archs: tuple[int, ...] = (80, 90), **options: Any) -> list[Kernel]:
    with recorded(str(width), archs) as kernels:
        message.message(*arguments(width, **options), False)
    return kernels


# Bytes that a thread is known to spill and to fill, and no more. The aim is 0; docs/gpu.md says what they cost.
SPILLS = {False: 896, True: 256}


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_forward_kernel_of_lorentznet_compiles_for_every_gpu(bfloat16: bool) -> None:
    kernels = compile_forward(72, bfloat16=bfloat16)
    assert [k.arch for k in kernels] == [80, 90]
    for k in kernels:
        assert k.shared <= SHARED[k.arch]
        assert k.registers * 32 * k.warps <= 65536
        assert k.spilled <= SPILLS[bfloat16], f"{k.name} sm_{k.arch}: {k.spilled} bytes spilled"
        assert "atom." not in k.ptx
    assert ("wgmma" in kernels[1].ptx) == bfloat16
    assert ("mma.sync" in kernels[0].ptx) == bfloat16


def test_the_backward_kernels_compile() -> None:
    inputs = arguments(16)
    cotangents = torch.empty(48, 16), torch.empty(48, 4), None
    with recorded("16", (90,)) as kernels:
        message.message_backward(*cotangents, *inputs, False)
    assert [k.name for k in kernels] == ["backward_kernel"] * 2
    assert all(k.shared <= SHARED[k.arch] for k in kernels)
    assert "atom." not in kernels[0].ptx + kernels[1].ptx


def test_tiles_cover_a_row() -> None:
    for width in range(1, MAX_TRITON_WIDTH + 1):
        parts = triton_common.parts(width)
        assert all(p >= 16 and p & (p - 1) == 0 for p in parts)
        assert sum(parts) >= width
        assert sum(parts[:-1]) < width
        assert len(parts) <= 2
        assert sum(parts) <= triton.next_power_of_2(max(width, 16))


def test_padding_is_what_the_documentation_says() -> None:
    assert [triton_common.parts(w) for w in (72, 60, 35, 100)] == [(64, 16), (64,), (32, 16), (128,)]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[int, ...], tuple[Any, ...]]]:
    made: list[tuple[tuple[int, ...], tuple[Any, ...]]] = []
    monkeypatch.setattr(triton_launch, "launch", lambda kernel, grid, *a, **c: made.append((grid, a)))
    return made


@pytest.mark.parametrize(("nodes", "edges", "kind"), [(1, 1, CSR), (7, 2**31 + 5, CSR), (2**31 + 9, 0, COMPLETE)])
def test_launches_follow_from_shapes(launches: list[Any], nodes: int, edges: int, kind: int) -> None:
    inputs = arguments(72, nodes, edges, kind, device="meta")
    message.message(*inputs, False)
    message.message_backward(torch.empty(nodes, 72, device="meta"), None, None, *inputs, False)
    blocks = -(-nodes // 8)
    assert [grid for grid, _ in launches] == [(blocks,), (min(blocks, message.MOST_SHARES),), (blocks,)]
    assert all(grid[0] < 2**31 for grid, _ in launches)
    for _, given in launches:
        assert {nodes, edges} <= {size for size in given if isinstance(size, int)}


def test_nothing_is_launched_for_nothing(launches: list[Any]) -> None:
    inputs = arguments(5, nodes=0)
    message.message(*inputs, False)
    message.message_backward(torch.empty(0, 5), None, None, *inputs, False)
    inputs = arguments(5)
    gradients = message.message_backward(None, None, None, *inputs, False)
    assert launches == []
    assert all(not g.any() for g in gradients)


def test_a_layer_too_wide_for_registers_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ek._triton, "refusal", lambda op, device: None)
    wide = torch.zeros(2, MAX_TRITON_WIDTH + 1)
    with ek.use_backend("triton"), pytest.raises(RuntimeError, match="a layer of 257 channels: at most 256"):
        ek.message_passing(wide, wide, None, ek.Graph.complete(torch.tensor([0, 2])))


def test_products_are_as_exact_as_pytorch_was_told() -> None:
    assert triton_common.dot_precision(torch.float32) == "ieee"
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        assert triton_common.dot_precision(torch.float32) == "tf32"
        assert triton_common.dot_precision(torch.float64) == "ieee"
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
