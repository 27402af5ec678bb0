"""Tests the command ``equikernels export``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import equikernels as ek
from equikernels.cli import main
from equikernels.export import TAKES_ANY_SIZE

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("lightning")


@pytest.mark.skipif(not TAKES_ANY_SIZE, reason="export_onnx needs PyTorch 2.13")
def test_a_trained_network_as_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """PELICAN, whose momenta training takes in float64."""
    path = tmp_path / "pelican.onnx"
    assert main(["export", "pelican-top", str(path), "--max-constituents", "40"]) == 0
    assert capsys.readouterr().out == f"wrote {path}\n"
    jets = ek.data.load_sample_jets()
    chosen = [k for k, n in enumerate(jets.ptr.diff().tolist()) if n <= 40][:20]
    some = jets[chosen]
    p4, mask = ek.unpack(some.p4.float(), some.ptr, max_length=40)
    with torch.inference_mode():
        wanted = ek.load_pretrained("pelican-top")(some.p4.float(), some.ptr).softmax(1)[:, 1].numpy()
    for library in (False, True):
        options = ort.SessionOptions()
        if library:
            options.register_custom_ops_library(ek.deploy.onnxruntime_library())
        session = ort.InferenceSession(str(path), options)
        assert [given.shape[1] for given in session.get_inputs()] == [40, 40]
        (found,) = session.run(None, {"p4": p4.numpy(), "mask": mask.numpy().astype(np.float32)})
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_another_suffix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "lorentznet-top", str(tmp_path / "x.bin")]) == 2
    assert "expected a file that ends in .onnx or .pt2" in capsys.readouterr().err
