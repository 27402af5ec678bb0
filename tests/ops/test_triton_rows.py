"""Tests the Triton kernels of the rank-2 ops without a GPU: launches, and compilation without spills.

Launches are recorded from the ops' own implementations, on tensors without data.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

triton = pytest.importorskip("triton")

from equikernels.ops import triton_launch  # noqa: E402
from equikernels.ops.pairs import triton as pairs  # noqa: E402

from ..support.triton_forms import FORMS, PAGE, Batch, Compiled, Launch, compiled, head, recorded, section  # noqa: E402

pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="not compiled, interpreted")

SHARED_LIMIT = 99 * 1024  # of a block on any GPU since 8.0


@pytest.fixture
def launches() -> Iterator[list[Launch]]:
    with recorded() as made:
        yield made


@pytest.fixture
def tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


def assert_compiles(launches: list[Launch]) -> list[Compiled]:
    assert launches
    kernels = compiled(launches)
    for k in kernels:
        what = f"{k.launch.kernel.__name__} {k.launch.constants} sm_{k.arch}: {k.registers} registers"
        assert k.spilled == 0, f"{what}, {k.spilled} bytes spilled"
        assert k.shared <= SHARED_LIMIT, f"{what}, {k.shared} bytes of shared memory"
        assert k.registers * 32 * k.warps <= 65536, what
    return kernels


def test_a_spill_would_be_seen(launches: list[Launch]) -> None:
    Batch().layer(35, 60)
    launches[0].constants["num_warps"] = 1
    with pytest.raises(AssertionError, match="bytes spilled"):
        assert_compiles(launches[:1])


@pytest.mark.parametrize("form", FORMS)
def test_kernels_compile_without_spills(form: str, launches: list[Launch]) -> None:
    FORMS[form]()
    table = section(form, assert_compiles(launches))
    page = PAGE.read_text()
    if f"Triton {triton.__version__}." in page:
        assert table in page, "docs/triton.md is out of date: python -m tests.support.triton_forms writes it"


def test_the_page_has_nothing_else() -> None:
    page = PAGE.read_text()
    assert [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")] == list(FORMS)
    if f"Triton {triton.__version__}." in page:
        assert page.startswith(head())


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
        first, second = pairs.cover(width, most)
        assert all(size == 0 or (size >= 16 and size & (size - 1) == 0) for size in (first, second))
        assert first + second <= most
        assert first + second >= min(width, most)
        assert first + second <= max(16, min(most, 2 * width))
        wide = pairs.block(width, most)
        assert wide <= most
        assert triton.cdiv(width, wide) * wide < width + wide
    columns = triton_launch.columns(width)
    assert columns <= 64
    assert columns & (columns - 1) == 0


def test_padding_is_what_the_documentation_says() -> None:
    assert pairs.cover(60, 128) == (64, 0)
    assert pairs.cover(35, 128) == (32, 16)
    assert pairs.cover(72, 128) == (64, 16)
    assert pairs.cover(2 * 35, 128) == (64, 16)


@pytest.mark.parametrize("events", [1, 2, 3, 4, 5, 16, 17, 1000, 2**20 + 1])
def test_a_search_ends(events: int) -> None:
    left = events
    for _ in range(triton_launch.halvings(events)):
        left = -(-left // 2)
    assert left == 1


@pytest.mark.parametrize("rows", [1, 15, 256, 257, 46656, 131072, 131073, 3 * 2**31 + 7])
def test_shares_cover_the_rows(rows: int) -> None:
    each = pairs.share(rows)
    shares = triton.cdiv(rows, each)
    assert shares <= pairs.MOST_SHARES
    assert (shares - 1) * each < rows <= shares * each
    assert each % pairs.DEPTH == 0


def test_launches_of_huge_batches(launches: list[Launch]) -> None:
    batch = Batch(events=16, n=20000)  # 6.4e9 pairs
    batch.layer(1, 200)
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
    batch.layer(4, 5)
    assert [launch.kernel.__name__ for launch in launches] == ["add_up_kernel"]  # which writes the zeros
    launches.clear()
    pairs.rows_outer(Batch().empty(3, 0), Batch().empty(3, 2))
    assert launches == []


def test_a_kernel_is_one_for_all_batches(launches: list[Launch]) -> None:
    """Sizes of a batch are ordinary arguments, also where they are 1 or multiples of 16."""
    Batch().layer(35, 60)
    for launch in launches:
        names, constants = launch.kernel.arg_names, set(launch.constants)
        fixed = set(launch.kernel.do_not_specialize)
        sizes = {"rows", "span", "count", "events", "halvings"} & set(names)
        assert sizes <= fixed | constants, launch.kernel.__name__
