"""Tests examples/cpp against the package: built by CMake, run without Python, with the bits of Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import equikernels as ek
from equikernels.deploy.scores import Scores
from equikernels.export import TAKES_ANY_SIZE

from ..support import ROOT

PACKAGE = Path(ek.__file__).parent
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TAKES_ANY_SIZE, reason="packaging needs PyTorch 2.13"),
    pytest.mark.skipif(
        torch.version.cuda is not None and shutil.which("nvcc") is None, reason="a LibTorch with CUDA wants nvcc"
    ),
    pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("g++") is None, reason="no cmake or no g++"),
]


def call(*command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in an environment that knows nothing of this Python."""
    env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment}
    return subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True, timeout=600)


def built(source: Path, folder: Path) -> Path:
    """The folder of a CMake project's programs. From a source tree CMake is told where the package is."""
    paths = ["-DCMAKE_PREFIX_PATH=" + str(Path(torch.__file__).parents[1])]
    if ek.deploy.cmake_prefix_path() != str(Path(torch.__file__).parents[1]):
        paths.append(f"-Dequikernels_DIR={PACKAGE / 'cmake'}")
    for command in (["cmake", "-S", source, "-B", folder, *paths], ["cmake", "--build", folder]):
        done = call(*command)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def tagger() -> ek.models.LorentzNet:
    torch.manual_seed(0)
    return ek.models.LorentzNet(2, 16, n_layers=2, c_weight=0.05).eval()


@pytest.fixture(scope="module")
def package(tagger: ek.models.LorentzNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ek.deploy.package(tagger, tmp_path_factory.mktemp("package") / "tagger.pt2", reads="events")


def test_a_program_without_python_has_the_same_bits(
    tagger: ek.models.LorentzNet, package: Path, tmp_path: Path
) -> None:
    program = built(ROOT / "examples" / "cpp", tmp_path / "build") / "score_jets"
    libraries = call("ldd", program).stdout
    assert "_ops.so" in libraries
    assert "libtorch_cpu" in libraries
    assert "python" not in "".join(line.split("=>")[0].lower() for line in libraries.splitlines() if "=>" in line)

    sample = ek.data.load_sample_jets()
    jets = [sample.p4[a:b] for a, b in zip(sample.ptr[:64], sample.ptr[1:65], strict=True)]
    jets[3], jets[7] = jets[3][:1], jets[7][:0]
    file = tmp_path / "jets.txt"
    file.write_text("".join(" ".join(map(repr, jet.flatten().tolist())) + "\n" for jet in jets))
    scores, threads = Scores(tagger, None), torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        alone = torch.cat([scores(jet.double(), torch.tensor([0, len(jet)])) for jet in jets])
        ptr = torch.tensor([0, *(len(jet) for jet in jets)]).cumsum(0)
        together = scores(torch.cat(jets).double(), ptr)
    torch.set_num_threads(threads)
    assert alone.unique().numel() > 30
    for options, expected in (("1 1", alone), ("8 1", alone), ("8 1", alone), ("1 64", together)):
        done = call(program, package, file, *options.split())
        assert done.returncode == 0, done.stderr
        assert done.stdout == "".join(f"{score:.9g}\n" for score in expected.tolist())

    file.write_text("1 2 3\n")
    done = call(program, package, file)
    assert done.returncode == 1
    assert "line 1: expected four numbers for each constituent" in done.stderr


def test_python_refuses_the_same(package: Path) -> None:
    run, p4, ptr = ek.deploy.load(package), torch.ones(5, 4, dtype=torch.float64), torch.tensor([0, 2, 5])
    assert run(p4, ptr).shape == (2,)
    with pytest.raises(TypeError, match="load: p4: expected dtype float64, got float32"):
        run(p4.float(), ptr)
    with pytest.raises(ValueError, match="load: ptr: expected a last entry of 5, got 4"):
        run(p4, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="load: arguments: expected p4, ptr, got 1 tensors"):
        run(p4)


def test_wrong_arguments_are_refused(package: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    points = ek.deploy.package(ek.models.EGNN(2, 4, 2, n_layers=1).eval(), tmp_path / "points.pt2")
    program = built(ROOT / "tests" / "deploy", tmp_path / "build") / "checks"
    done = call(program, package, points, tmp_path / "missing.pt2")
    assert done.returncode == 0, done.stderr
    lines = [line.replace(str(package), "tagger").replace(str(points), "points") for line in done.stdout.splitlines()]
    assert lines[:3] == ["h nodes 2 Float", "x nodes 3 Float", "edge_index ends 0 Long"]
    assert lines[3:] == [
        "tagger: arguments: expected 2, got 1",
        "tagger: p4: expected Double, got Float",
        "tagger: p4: expected shape [nodes, 4], got [4, 5]",
        "tagger: ptr: expected a first entry of 0, got 1",
        "tagger: ptr: expected entries that do not decrease, got 5",
        "tagger: ptr: expected a last entry of 5, got 4",
        "tagger: ptr: expected shape [n_events + 1], got [0]",
        "[3]",
        "points: x: expected 3 nodes, got 2",
        "points: edge_index: expected indices in [0, 3), got 3",
        "points: edge_index: expected indices in [0, 3), got -1",
        "points: edge_index: expected shape [2, E], got [1, 2]",
        "[3, 2]",
        f"{tmp_path / 'missing.pt2'}: cannot be read",
    ]
