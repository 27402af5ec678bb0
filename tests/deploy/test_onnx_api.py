"""Tests that csrc/onnxruntime/api.h agrees with ONNX Runtime's own header, where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..support import ROOT

FOLDERS = [os.environ.get("EK_ONNXRUNTIME_INCLUDE", ""), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
FOUND = next((folder for folder in FOLDERS if folder and (Path(folder) / "onnxruntime_c_api.h").exists()), None)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
@pytest.mark.skipif(FOUND is None, reason="no onnxruntime_c_api.h; EK_ONNXRUNTIME_INCLUDE names its folder")
@pytest.mark.parametrize("wrong", [False, True])
def test_places_in_the_api(wrong: bool, tmp_path: Path) -> None:
    folder = tmp_path / "csrc"
    shutil.copytree(ROOT / "csrc", folder)
    if wrong:
        api = folder / "onnxruntime" / "api.h"
        api.write_text(api.read_text().replace("(GetDimensions, 62,", "(GetDimensions, 63,"))
    command = ["g++", "-std=c++17", "-fsyntax-only", "-DEK_WITHOUT_TORCH", "-isystem", str(FOUND)]
    command += ["-DEK_ONNXRUNTIME_HEADER=<onnxruntime_c_api.h>", "-include", str(folder / "onnxruntime" / "registry.h")]
    run = subprocess.run([*command, str(folder / "onnxruntime" / "library.cpp")], capture_output=True, text=True)
    assert (run.returncode != 0) == wrong, run.stderr
    assert ("place of GetDimensions" in run.stderr) == wrong
