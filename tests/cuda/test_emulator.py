"""Tests the emulator of CUDA: it detects faults; numbers of blocks of a launch."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ..support.emulator import COMPILER, TENSOR_CORES

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++ on the PATH")

SOUND, NO_BARRIER, LAST_BLOCK_WINS, VOTES = 0, 1, 8, 9


def run(probes: ctypes.CDLL, which: int, seed: int = 0) -> tuple[str, np.ndarray]:
    out = np.zeros(256, np.float32)
    probes.emulator_set(seed, 0)
    failed = probes.run_probe(which, out.ctypes.data_as(ctypes.c_void_p))
    return probes.emulator_last_error().decode() if failed else "", out


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_sound_kernel_runs(probes: ctypes.CDLL, seed: int) -> None:
    error, out = run(probes, SOUND, seed)
    assert error == ""
    sums = np.arange(256, dtype=np.float32).reshape(8, 32).sum(1)
    np.testing.assert_array_equal(out[:8], np.roll(sums, -1))


def test_votes_and_shifts(probes: ctypes.CDLL) -> None:
    error, out = run(probes, VOTES)
    assert error == ""
    thread = np.arange(256)
    before = np.where(thread % 32 == 0, thread, thread - 1)
    np.testing.assert_array_equal(out, before + 1000 * (thread // 32 * 32 + 4))


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (2, r"thread 0 waits for its block at line \d+, but thread 100 has ended"),
        (3, r"thread 0 waits for its block at line (\d+), but thread 128 waits for its block at line (?!\1)"),
        (4, r"thread 0 waits for its warp at line \d+, but thread 8 has ended"),
        (5, r"thread 0 waits for its warp at line \d+, but thread 3 waits for its block"),
        (6, r"thread 0 waits for its warp at line \d+ and reads a lane that is not there"),
        (7, r"shared memory is written 0 bytes behind its end"),
    ],
)
def test_a_fault_is_named(probes: ctypes.CDLL, which: int, message: str) -> None:
    error, _ = run(probes, which)
    assert re.match(message, error), error


def test_a_missing_barrier_shows_as_nan(probes: ctypes.CDLL) -> None:
    error, out = run(probes, NO_BARRIER)
    assert error == ""
    assert np.isnan(out).any()


def test_blocks_that_race_show(probes: ctypes.CDLL) -> None:
    assert run(probes, LAST_BLOCK_WINS, 0)[1][0] != run(probes, LAST_BLOCK_WINS, 1)[1][0]


def run_product(probes: ctypes.CDLL, which: int, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[str, np.ndarray]:
    c = c.copy()
    probes.emulator_set(2, 0)
    failed = probes.run_product(which, *(t.ctypes.data_as(ctypes.c_void_p) for t in (a, b, c)), a.size // 128)
    return probes.emulator_last_error().decode() if failed else "", c


@pytest.mark.parametrize(("which", "bits"), [(0, 22), (1, 11), (2, 8)])
def test_products_of_fragments(probes: ctypes.CDLL, which: int, bits: int) -> None:
    """Every number of A, B and C is at the position of the PTX specification, with its precision."""
    random = np.random.default_rng(0)
    a, b, c = (random.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (8, 8), (16, 8)))
    error, out = run_product(probes, which, a, b, c)
    assert error == ""
    rounding = (np.abs(a).astype(np.float64) @ np.abs(b) * 2 + np.abs(c)) * (2.0**-bits + 2.0**-22)
    difference = np.abs(out - (a.astype(np.float64) @ b + c))
    assert (difference <= rounding).all()
    if bits < 22:
        assert difference.max() > 2.0 ** -(bits + 3)  # it is not less precise
    whole = [random.integers(-4, 5, shape).astype(np.float32) for shape in ((16, 8), (8, 8), (16, 8))]
    np.testing.assert_array_equal(run_product(probes, which, *whole)[1], whole[0] @ whole[1] + whole[2])


@pytest.fixture(params=TENSOR_CORES)
def cores(request: pytest.FixtureRequest, probes: ctypes.CDLL) -> Iterator[str]:
    probes.emulator_set_tensor_cores(*TENSOR_CORES[request.param])
    yield request.param
    probes.emulator_set_tensor_cores(*TENSOR_CORES["sm_80"])


@pytest.mark.parametrize(
    ("places", "size", "ends"),
    [
        ((0,), 24, {"sm_80": 0, "sm_90": 0}),  # half of the last place: not rounded up, not even
        ((0, 1, 2), 24, {"sm_80": 1, "sm_90": 1}),  # the bit behind the last place takes part in the sum,
        ((0, 1, 2, 3), 25, {"sm_80": 0, "sm_90": 1}),  # the second one on later devices,
        (range(8), 26, {"sm_80": 0, "sm_90": 0}),  # the third nowhere
        ((0, 4), 24, {"sm_80": 0, "sm_90": 1}),  # four terms at a time, or eight
        ((0, 1), 23, {"sm_80": 2, "sm_90": 2}),
    ],
)
def test_sums_are_cut_off(
    places: Sequence[int], size: int, ends: dict[str, int], cores: str, probes: ctypes.CDLL
) -> None:
    """The sum of 1 and products of 2^-size at some places of eight is 1 and so many units of the last place."""
    a, b = np.zeros((16, 8), np.float32), np.ones((8, 8), np.float32)
    for place in places:
        a[:, place // 4 + place % 4 * 2] = 2.0**-size  # row 2 t of the layout is t of the instruction's, 2 t + 1 t + 4
    for sign in (1, -1):
        ones = np.full((16, 8), sign, np.float32)
        _, out = run_product(probes, 1, sign * a, b, ones)
        np.testing.assert_array_equal(sign * out, 1 + np.float32(ends[cores] * 2.0**-23))


@pytest.mark.parametrize("positive", [False, True])
def test_three_products_are_as_accurate_as_float32(positive: bool, cores: str, probes: ctypes.CDLL) -> None:
    """In sums of 2048 products, where errors of one sign would add up."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal((256, *shape)).astype(np.float32) for shape in ((16, 8), (8, 8)))
    if positive:
        a, b = np.abs(a), np.abs(b)
    exact = (a.astype(np.float64) @ b).sum(0)
    plain = np.add.accumulate(np.einsum("nik,nkj->nkij", a, b).reshape(-1, 16, 8), dtype=np.float32)[-1]
    _, found = run_product(probes, 0, a, b, np.zeros((16, 8), np.float32))
    error, of_float32 = (np.sqrt(np.square(t - exact).mean()) for t in (found, plain))
    assert error < of_float32


def test_a_product_takes_the_whole_warp(probes: ctypes.CDLL) -> None:
    zeros = np.zeros((16, 8), np.float32)
    assert re.match(
        r"thread 0 waits for its warp at line \d+, but thread 31 has ended", run_product(probes, 3, *[zeros] * 3)[0]
    )


@pytest.mark.parametrize(
    ("items", "per_block", "blocks"),
    [
        (0, 8, 1),
        (1, 8, 1),
        (8, 8, 1),
        (9, 8, 2),
        (2**31 - 1, 1, 2**31 - 1),
        (2**31, 1, 2**31 - 1),  # the largest grid; the kernel strides over the rest
        (2**40 + 1, 8, 2**31 - 1),
        (2**34 - 8, 8, 2**31 - 1),
        (2**33 + 1, 8, 2**30 + 1),
        (2**63 - 1, 8, 2**31 - 1),
    ],
)
def test_grids(probes: ctypes.CDLL, items: int, per_block: int, blocks: int) -> None:
    assert probes.grid_of(items, per_block) == blocks


def test_more_shared_memory_is_asked_for_once_for_each_kernel_and_device(probes: ctypes.CDLL) -> None:
    for device in (0, 1):
        probes.emulator_device(device)
        before = probes.emulator_requests()
        with ThreadPoolExecutor(4) as pool:
            errors = list(pool.map(lambda _: probes.run_large(2), range(8)))
        assert errors == [0] * 8
        assert probes.emulator_requests() == before + 2  # two kernels
    probes.emulator_device(0)
