"""The functions kernels are made of (csrc/simd), number by number, for each instruction set."""

from __future__ import annotations

import fcntl
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import equikernels as ek

from ..support import ROOT

pybind11 = pytest.importorskip("pybind11")
CMAKE = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
MODULES = {"baseline": "lanes_Baseline", "avx2": "lanes_Avx2", "avx512": "lanes_Avx512"}
TILES = "tile_products"  # AMX in plain C++, beside the instructions of AVX-512
pytestmark = pytest.mark.skipif(CMAKE is None, reason="no cmake")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Where CMake builds the modules; once, should several processes ask."""
    base = tmp_path_factory.getbasetemp()
    build = (base if worker_id == "master" else base.parent) / "lanes"
    build.mkdir(exist_ok=True)
    options = {
        "CMAKE_BUILD_TYPE": "Release", "EK_CUDA": "0", "EK_TORCH_DIR": Path(torch.__file__).parent,
        "EK_PYBIND11_DIR": pybind11.get_cmake_dir(), "Python_EXECUTABLE": sys.executable,
    }  # fmt: skip
    definitions = [f"-D{key}={value}" for key, value in options.items()]
    targets = [MODULES[isa] for isa in ek.available_isas()] + [TILES] * ("avx512" in ek.available_isas())
    assert CMAKE is not None
    with open(build / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (["-S", ROOT, "-B", build, *definitions], ["--build", build, "--target", *targets]):
            done = subprocess.run([CMAKE, *command], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    return build


def load(folder: Path, name: str) -> ModuleType:
    (path,) = folder.glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(params=ek.available_isas())
def module(folder: Path, request: pytest.FixtureRequest) -> ModuleType:
    return load(folder, MODULES[request.param])


@pytest.fixture
def tiles(folder: Path) -> ModuleType:
    if "avx512" not in ek.available_isas():
        pytest.skip("no AVX-512")
    return load(folder, TILES)


EVERY = np.arange(2**16, dtype=np.uint16)  # every number of 16 bits
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def as_torch(words: np.ndarray[Any, Any], name: str) -> torch.Tensor:
    return torch.from_numpy(words.view(np.int16)).view(TYPES[name])


@pytest.mark.parametrize("name", TYPES)
def test_every_number_of_16_bits_is_widened(module: ModuleType, name: str) -> None:
    found, expected = getattr(module, f"widen_{name}")(EVERY), as_torch(EVERY, name).float().numpy()
    nan = np.isnan(expected)
    assert np.array_equal(np.isnan(found), nan)
    assert np.array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])


@pytest.mark.parametrize("name", TYPES)
def test_rounding_to_16_bits_is_torchs(module: ModuleType, name: str) -> None:
    """Numbers that are one of 16 bits, half-way between two, and next to either."""
    exact = as_torch(EVERY, name).float().numpy()
    finite = np.sort(exact[np.isfinite(exact)])
    half = ((finite[1:].astype(np.float64) + finite[:-1]) / 2).astype(np.float32)
    x = np.concatenate([exact, half, np.nextafter(half, np.float32(np.inf)), np.nextafter(half, np.float32(-np.inf))])
    x = np.concatenate([x, np.float32([3e38, -3e38, 65519, 65520, 65536, 1e-45, -1e-45, 5.9e-8, 2.9e-8])])
    found = as_torch(getattr(module, f"narrow_{name}")(x), name)
    expected = torch.from_numpy(x).to(TYPES[name])
    nan = expected.isnan()
    assert torch.equal(found.isnan(), nan)
    assert torch.equal(found.view(torch.int16)[~nan], expected.view(torch.int16)[~nan])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bounds_let_a_nan_of_the_number_through(module: ModuleType, dtype: type) -> None:
    values = np.array([np.nan, -np.inf, -1, -0.0, 0.0, 2, np.inf, 5e-324], dtype)
    bound, x = (np.ascontiguousarray(t.ravel()) for t in np.meshgrid(values, values))
    most, least = module.bounded(bound, x)
    bits = f"u{x.itemsize}"  # a NaN and the sign of a zero count
    assert np.array_equal(most.view(bits), np.where(bound > x, bound, x).view(bits))
    assert np.array_equal(least.view(bits), np.where(bound < x, bound, x).view(bits))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masks_of_lanes(module: ModuleType, dtype: type) -> None:
    count = module.lanes32 if dtype is np.float32 else module.lanes64
    for mask in [0, *(1 << k for k in range(count)), (1 << count) - 1, 0x5555 % (1 << count)]:
        wanted = np.array([mask >> k & 1 for k in range(count)], dtype)
        found, ones = module.positive(2 * wanted - 1)
        assert found == mask
        assert np.array_equal(ones, wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tail_reads_and_writes_its_numbers_alone(module: ModuleType, dtype: type) -> None:
    lanes = module.lanes32 if dtype is np.float32 else module.lanes64
    x, over = np.arange(1, lanes + 1, dtype=dtype), -np.arange(1, lanes + 1, dtype=dtype)
    for count in range(1, lanes + 1):
        written, first, read, kept = module.tail(x, over, count)
        live = np.arange(lanes) < count
        assert np.array_equal(written, np.where(live, x, over))
        assert np.array_equal(first, np.where(live, x, over))
        assert np.array_equal(read, np.where(live, x, 0))
        assert np.array_equal(kept, np.where(live, x, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["exp", "log", "log1p"])
def test_functions_to_a_few_roundings(module: ModuleType, name: str, dtype: type) -> None:
    info = np.finfo(dtype)
    x = np.concatenate([np.geomspace(float(info.tiny), 1e30, 20011), np.linspace(0.4, 2.5, 20011)])
    if name == "exp":
        least, most = np.log(float(info.tiny)), np.log(float(info.max))
        x = np.concatenate([np.linspace(least, most, 40021) * (1 - 1e-7), x[x < 1], -x[x < 1]])
    x = x.astype(dtype)
    found = module.function(name, x).astype(np.longdouble)
    expected = getattr(np, name)(x.astype(np.longdouble))
    error = np.abs(found - expected) / np.maximum(
        np.spacing(np.abs(expected).astype(dtype)).astype(np.longdouble), info.tiny
    )
    assert float(error.max()) <= (4 if name == "exp" else 3)


def test_functions_of_infinities_and_nan(module: ModuleType) -> None:
    for dtype in (np.float32, np.float64):
        x = np.array([np.inf, 1e4, np.nan], dtype=dtype)
        np.testing.assert_array_equal(module.function("exp", x), np.array([np.inf, np.inf, np.nan], dtype=dtype))
        least = module.function("exp", np.array([-np.inf, -1e4], dtype=dtype))  # the smallest number there is, or zero
        assert ((least >= 0) & (least <= np.finfo(dtype).smallest_subnormal)).all()
        x = np.array([np.inf, np.nan, 0], dtype=dtype)
        np.testing.assert_array_equal(module.function("log1p", x), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fused_multiply_add_rounds_once(module: ModuleType, dtype: type) -> None:
    eps = np.finfo(dtype).eps
    a = 1 + eps * np.random.default_rng(0).integers(1, 1000, 4096).astype(dtype)
    product = a * a
    found = module.fma(a, a, -product)
    k = ((a - 1) / eps).astype(np.float64)  # a^2 = 1 + 2 k eps + k^2 eps^2, exactly
    exact = (2 * k * float(eps) - (product.astype(np.longdouble) - 1)) + np.longdouble(float(eps)) ** 2 * k**2
    assert np.array_equal(found, exact.astype(dtype))
    assert found.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_square_of_lanes_is_transposed(module: ModuleType, dtype: type) -> None:
    lanes = module.lanes32 if dtype is np.float32 else module.lanes64
    square = np.arange(lanes * lanes, dtype=dtype).reshape(lanes, lanes)
    assert np.array_equal(module.transpose(square), square.T)


WIDTHS = [(1, 1), (7, 3), (31, 8), (32, 16), (33, 17), (64, 72), (72, 72), (80, 96), (130, 113), (200, 200)]


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("rows", [1, 16, 17, 32, 33, 48])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_tiles_multiply_rounded_numbers(tiles: ModuleType, widths: tuple[int, int], rows: int, relu: bool) -> None:
    # Integers of 9 bits are rounded, ties often; all sums are exact in float32.
    generator, (n_in, n_out) = torch.Generator().manual_seed(0), widths
    x, weight, bias = (
        torch.randint(-bound, bound + 1, shape, generator=generator).float()
        for bound, shape in ((400, (rows, n_in)), (300, (n_out, n_in)), (500, (n_out,)))
    )
    found = torch.from_numpy(tiles.layer(x.numpy(), weight.numpy(), bias.numpy(), False, relu))
    expected = x.bfloat16().double() @ weight.bfloat16().double().T + bias
    assert torch.equal(found[:, :n_out], (expected.relu() if relu else expected).float())
    assert not found[:, n_out:].any()


@pytest.mark.parametrize("rows", [1, 2, 31, 33, 48])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_tiles_sum_products_of_rounded_numbers_over_rows(tiles: ModuleType, widths: tuple[int, int], rows: int) -> None:
    generator = torch.Generator().manual_seed(0)  # integers, as above
    x, grad = (torch.randint(-400, 401, (rows, n), generator=generator).float() for n in widths)
    found = torch.from_numpy(tiles.sums_of_products(grad.numpy(), x.numpy()))
    expected = grad.bfloat16().double().T @ x.bfloat16().double()
    assert torch.equal(found[: widths[1], : widths[0]], expected.float())


@pytest.mark.parametrize("rows", [1, 48])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_numbers_in_two_parts_have_16_bits(tiles: ModuleType, widths: tuple[int, int], rows: int) -> None:
    generator, (n_in, n_out) = torch.Generator().manual_seed(0), widths
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((rows, n_in), (n_out, n_in), (n_out,)))
    found = torch.from_numpy(tiles.layer(x.numpy(), weight.numpy(), bias.numpy(), True, False))[:, :n_out]
    # Each factor loses 2^-17 of itself at most, and the product of both rests is left out.
    bound = (3 * 2.0**-17 + n_in * 2.0**-24) * (x.abs() @ weight.abs().T + bias.abs())
    assert ((found.double() - (x.double() @ weight.double().T + bias)).abs() <= bound).all()
    rounded = (x.bfloat16().float() @ weight.bfloat16().float().T + bias - found).abs()
    assert n_in == 1 or rounded.max() > bound.max()  # one part is not as good


@pytest.mark.parametrize("two_parts", [False, True], ids=["one part", "two parts"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_tiles_keep_an_infinity_and_a_nan_in_its_row(tiles: ModuleType, value: float, two_parts: bool) -> None:
    x, weight, bias = torch.rand(20, 40), torch.rand(24, 40) + 0.5, torch.rand(24)
    x[3, 5] = value
    found = torch.from_numpy(tiles.layer(x.numpy(), weight.numpy(), bias.numpy(), two_parts, False))
    expected = torch.full((24,), float("nan") if two_parts else value)
    torch.testing.assert_close(found[3, :24], expected, equal_nan=True)
    assert not found[3, 24:].any()
    assert found[[k for k in range(20) if k != 3]].isfinite().all()
