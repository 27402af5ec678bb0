"""The Triton kernels of the rank-2 and segment ops, as far as no GPU is needed: what is launched, and that it compiles
without spills.

Launches are recorded from the ops' own implementations, on tensors without data.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

from equikernels.ops import triton_launch  # noqa: E402
from equikernels.ops.rank2 import triton as rank2  # noqa: E402
from equikernels.ops.segment import triton as segment  # noqa: E402

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="not compiled, interpreted")

ARCHS = (80, 90)
SHARED_LIMIT = 99 * 1024  # of a block on any GPU since 8.0
NAMES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Launch:
    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]

    def compile(self, arch: int) -> Any:
        """As the launcher would: None and 1 are constants, pointers are aligned."""
        names = self.kernel.arg_names
        given = dict(zip(names, self.arguments, strict=False))
        constants = {k: v for k, v in self.constants.items() if k in names}
        constants |= {k: v for k, v in given.items() if v is None or (k.startswith("stride") and v == 1)}
        signature, aligned = {}, {}
        for place, name in enumerate(names):
            if name in constants:
                signature[name] = "constexpr"
            elif isinstance(given[name], Tensor):
                signature[name] = NAMES[given[name].dtype]
                aligned[(place,)] = [["tt.divisibility", 16]]
            else:
                signature[name] = "i32" if given[name] < 2**31 else "i64"
        source = triton.compiler.ASTSource(
            fn=self.kernel,
            signature=signature,
            constexprs={(names.index(k),): v for k, v in constants.items()},
            attrs=aligned,
        )
        target = triton.backends.compiler.GPUTarget("cuda", arch, 32)
        options = {k: v for k, v in self.constants.items() if k not in names}
        return triton.compile(source, target=target, options=options)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    recorded: list[Launch] = []
    monkeypatch.setattr(triton_launch, "launch", lambda k, grid, *a, **c: recorded.append(Launch(k, grid, a, c)))
    return recorded


@pytest.fixture
def tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


class Batch:
    """Tensors without data, for events of one size."""

    def __init__(self, events: int = 16, n: int = 54, dtype: torch.dtype = torch.float32) -> None:
        self.nodes, self.pairs, self.dtype = events * n, events * n * n, dtype
        self.table = self.empty(2 * (events + 1), dtype=torch.int64)
        self.graph = self.table, self.pairs, 2

    def empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(*shape, dtype=dtype or self.dtype, device="meta")

    def layer(self, channels: int, width: int, slope: float = 0.01) -> None:
        """A mix and its backward pass."""
        T, weights = self.empty(self.pairs, channels), [self.empty(channels, width) for _ in range(2)]
        out = rank2.rank2_mix(T, *weights, self.empty(self.nodes, 3, width), *self.graph, self.nodes, slope)
        wanted = [True, True, True]
        rank2.rank2_mix_backward(out, out, T, *weights, *self.graph, self.nodes, slope, wanted)

    def rows(self, channels: int, width: int) -> None:
        """A pairwise linear layer with moments, and its backward pass."""
        x, weight, bias = self.empty(self.pairs, channels), self.empty(width, channels), self.empty(width)
        out, _ = rank2.rows_layer(x, weight, bias, 0.01, True)
        rank2.rows_layer_backward(out, bias, bias, out, x, weight, 0.01, [True, True])

    def sums(self, channels: int) -> None:
        """Sums, extrema and broadcasts in every form."""
        T, table = self.empty(self.pairs, channels), self.empty(self.nodes, 3, channels)
        arg = self.empty(self.nodes, 2, channels, dtype=torch.int32)
        one_a_particle = self.empty(self.nodes)[:, None, None].expand(-1, 2, channels)
        for weight, chosen in ((None, None), (one_a_particle, None), (None, arg)):
            rank2.rank2_sum(T, weight, chosen, *self.graph, self.nodes)
            rank2.rank2_broadcast(table, weight, chosen, *self.graph)
        rank2.rank2_extremum(T, *self.graph, self.nodes, True)


def report(kernel: Any, arch: int) -> tuple[int, int]:
    """Registers, and bytes of stack and spills, by ptxas."""
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.ptx"
        path.write_text(kernel.asm["ptx"])
        command = [ptxas, "-v", f"-arch={'sm_90a' if arch == 90 else f'sm_{arch}'}", path, "-o", path.with_suffix(".o")]
        done = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", done)
    assert registers is not None
    return int(registers[1]), sum(int(n) for n in re.findall(r"(\d+) bytes (?:stack|spill)", done))


class Edges:
    """Tensors without data, for a CSR graph or events."""

    def __init__(self, kind: int, dtype: torch.dtype, nodes: int = 864, edges: int = 46656) -> None:
        def empty(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(*shape, dtype=dtype, device="meta")

        rows, table = 2 * (nodes + 1) + 4 * edges if kind == 0 else 2 * 17, torch.int64
        graph = empty(rows, dtype=table), edges, kind
        values, arg = empty(nodes, 35), empty(nodes, 35, dtype=torch.int64)
        weight = empty(edges, 35) if kind == 0 else empty(edges)
        for rows_of, chosen in ((1, None), (2, arg)):
            segment.segment_sum(values, weight, chosen, *graph, nodes, rows_of, False)
        segment.segment_sum(empty(edges, 35), None, None, *graph, nodes, 0, True)
        segment.segment_extremum(values, weight, *graph, nodes, 1, False)
        segment.segment_spread(values, arg, *graph)
        segment.segment_product(values, values, arg, *graph, kind == 0)


FORMS: dict[str, Callable[[], object]] = {
    "layer": lambda: Batch().layer(35, 60),
    "layer_float64": lambda: Batch(dtype=torch.float64).layer(35, 60, slope=0.0),
    "layer_bfloat16": lambda: Batch(dtype=torch.bfloat16).layer(35, 60),
    "layer_wide": lambda: Batch().layer(72, 128),
    "layer_wide_float64": lambda: Batch(dtype=torch.float64).layer(72, 128),
    "rows": lambda: Batch().rows(60, 35),
    "sums": lambda: Batch().sums(35),
    "sums_float64": lambda: Batch(dtype=torch.float64).sums(64),
    "segments_csr_bfloat16": lambda: Edges(0, torch.bfloat16),
    "segments_of_events_float64": lambda: Edges(2, torch.float64),
}


def assert_compiles(launches: list[Launch]) -> None:
    assert launches
    for launch in launches:
        for arch in ARCHS:
            kernel = launch.compile(arch)
            registers, spilled = report(kernel, arch)
            what = f"{launch.kernel.__name__} {launch.constants} sm_{arch}: {registers} registers"
            assert spilled == 0, f"{what}, {spilled} bytes spilled"
            assert kernel.metadata.shared <= SHARED_LIMIT, f"{what}, {kernel.metadata.shared} bytes of shared memory"
            assert registers * 32 * kernel.metadata.num_warps <= 65536, what


def test_a_spill_would_be_seen(launches: list[Launch]) -> None:
    Batch().layer(35, 60)
    launches[0].constants["num_warps"] = 1
    with pytest.raises(AssertionError, match="bytes spilled"):
        assert_compiles(launches[:1])


@pytest.mark.parametrize("form", FORMS)
def test_kernels_compile_without_spills(form: str, launches: list[Launch]) -> None:
    FORMS[form]()
    assert_compiles(launches)


def test_kernels_in_tf32_compile_without_spills(launches: list[Launch], tf32: None) -> None:
    Batch().layer(72, 128)
    products = [launch for launch in launches if "PRECISION" in launch.constants]
    assert {launch.constants["PRECISION"] for launch in products} == {"tf32"}
    assert_compiles(products)


def test_float32_is_ieee_unless_pytorch_says_otherwise(launches: list[Launch]) -> None:
    Batch().layer(3, 4)
    assert {c.constants.get("PRECISION", "ieee") for c in launches} == {"ieee"}


@pytest.mark.parametrize("width", [*range(1, 130), 200, 1000])
def test_blocks_cover_the_channels(width: int) -> None:
    for most in (64, 128):
        first, second = rank2.cover(width, most)
        assert all(size == 0 or (size >= 16 and size & (size - 1) == 0) for size in (first, second))
        assert first + second <= most
        assert first + second >= min(width, most)
        assert first + second <= max(16, min(most, 2 * width))
        wide = rank2.block(width, most)
        assert wide <= most
        assert triton.cdiv(width, wide) * wide < width + wide
    columns = triton_launch.columns(width)
    assert columns <= 64
    assert columns & (columns - 1) == 0


def test_padding_is_what_the_documentation_says() -> None:
    assert rank2.cover(60, 128) == (64, 0)
    assert rank2.cover(35, 128) == (32, 16)
    assert rank2.cover(72, 128) == (64, 16)
    assert rank2.cover(2 * 35, 128) == (64, 16)


@pytest.mark.parametrize("events", [1, 2, 3, 4, 5, 16, 17, 1000, 2**20 + 1])
def test_a_search_ends(events: int) -> None:
    left = events
    for _ in range(triton_launch.halvings(events)):
        left = -(-left // 2)
    assert left == 1


@pytest.mark.parametrize("rows", [1, 15, 256, 257, 46656, 131072, 131073, 3 * 2**31 + 7])
def test_shares_cover_the_rows(rows: int) -> None:
    each = rank2.share(rows)
    shares = triton.cdiv(rows, each)
    assert shares <= rank2.MOST_SHARES
    assert (shares - 1) * each < rows <= shares * each
    assert each % rank2.DEPTH == 0


def test_launches_of_huge_batches(launches: list[Launch]) -> None:
    batch = Batch(events=16, n=20000)  # 6.4e9 pairs
    batch.layer(1, 200)
    batch.sums(130)
    for launch in launches:
        x, y, z = (*launch.grid, 1, 1)[:3]
        assert 0 < x < 2**31, launch
        assert 0 < y < 2**16, launch
        assert 0 < z < 2**16, launch
    mix = launches[0]
    assert mix.grid == (triton.cdiv(batch.pairs, 64), 2)
    rows = dict(zip(mix.kernel.arg_names, mix.arguments, strict=False))["rows"]
    assert rows == batch.pairs > 2**31
    mix.compile(90)  # with sizes of 64 bits


def test_nothing_is_launched_for_nothing(launches: list[Launch]) -> None:
    batch = Batch(events=3, n=0)
    batch.sums(4)
    batch.layer(4, 5)
    assert [launch.kernel.__name__ for launch in launches] == ["add_up_kernel"]  # which writes the zeros
    launches.clear()
    Batch().sums(0)
    rank2.rows_outer(Batch().empty(3, 0), Batch().empty(3, 2))
    assert launches == []


def test_a_kernel_is_one_for_all_batches(launches: list[Launch]) -> None:
    """Sizes of a batch are ordinary arguments, also where they are 1 or multiples of 16."""
    Batch().layer(35, 60)
    for launch in launches:
        names, constants = launch.kernel.arg_names, set(launch.constants)
        fixed = set(launch.kernel.do_not_specialize)
        sizes = {"rows", "span", "count", "events", "halvings"} & set(names)
        assert sizes <= fixed | constants, launch.kernel.__name__
