"""Tests examples/onnxruntime: built against ONNX Runtime's own header, run on its library without Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import equikernels as ek
from equikernels.export import TAKES_ANY_SIZE

from ..support import ROOT
from .test_onnx_api import FOUND

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
LIBRARY = next(iter(sorted((Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*"))), None)
pytestmark = [
    pytest.mark.skipif(not TAKES_ANY_SIZE, reason="export_onnx needs PyTorch 2.13"),
    pytest.mark.skipif(FOUND is None, reason="no onnxruntime_c_api.h; EK_ONNXRUNTIME_INCLUDE names its folder"),
    pytest.mark.skipif(LIBRARY is None, reason="this onnxruntime has no libonnxruntime.so"),
    pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("g++") is None, reason="no cmake or no g++"),
]


def called(*command: object, path: Path) -> str:
    """What a command prints that knows of ONNX Runtime in a folder, and of no Python."""
    env = {"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": str(path)}
    done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_a_program_on_onnx_runtime_alone(tmp_path: Path) -> None:
    assert LIBRARY is not None
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(LIBRARY)
    cmake, build = shutil.which("cmake"), tmp_path / "build"
    where = [f"-DONNXRUNTIME_INCLUDE={FOUND}", f"-DONNXRUNTIME_LIBRARY={tmp_path / 'libonnxruntime.so'}"]
    called(cmake, "-S", ROOT / "examples" / "onnxruntime", "-B", build, *where, path=tmp_path)
    called(cmake, "--build", build, path=tmp_path)
    libraries = called("ldd", build / "score_jets", path=tmp_path)
    assert "libonnxruntime" in libraries
    assert "torch" not in libraries.replace(str(tmp_path), "")

    torch.manual_seed(0)
    model = ek.models.LorentzNet(2, 16, n_layers=2, c_weight=0.05).eval()
    file = ek.deploy.export_onnx(model, tmp_path / "tagger.onnx", reads="events")
    sample = ek.data.load_sample_jets()
    jets = [sample.p4[a:b].float() for a, b in zip(sample.ptr[:20], sample.ptr[1:21], strict=True)]
    jets[3], jets[7] = jets[3][:1], jets[7][:0]
    lines = tmp_path / "jets.txt"
    lines.write_text("".join(" ".join(map(repr, jet.flatten().tolist())) + "\n" for jet in jets))
    for library in ([], [ek.deploy.onnxruntime_library()]):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        for path in library:
            options.register_custom_ops_library(path)
        session = ort.InferenceSession(str(file), options)
        expected = []
        for jet in jets:
            p4 = np.zeros((1, max(len(jet), 1), 4), dtype=np.float32)
            p4[0, : len(jet)] = jet
            mask = np.full(p4.shape[:2], float(len(jet) > 0), dtype=np.float32)
            expected.append(session.run(None, {"p4": p4, "mask": mask})[0][0])
        printed = called(build / "score_jets", file, lines, *library, path=tmp_path)
        np.testing.assert_array_equal(np.array(printed.split(), dtype=np.float32), np.array(expected))
        assert len(set(expected)) > 15
