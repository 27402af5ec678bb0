"""The script for a GPU machine, with the device hidden: every stage selects what it says, and all fit ten minutes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..support import ROOT

FAMILIES = ("coordinate_update", "pairwise_invariants", "gather_segment_reduce", "segment_softmax", "encode_invariants")
SCRIPT = ROOT / "tools" / "gpu_day.sh"
LEFT_OUT = {"CUDA_VISIBLE_DEVICES": "", "EQUIKERNELS_TEST_DEVICE": "cpu", "EQUIKERNELS_BACKEND": ""}


def run(out: Path, *parts: str, dry: str = "1") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **LEFT_OUT, "PYTHON": sys.executable, "OUT": str(out), "DRY_RUN": dry, "LIMITS": "0"}
    return subprocess.run([SCRIPT, *parts], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_stage_selects_what_it_says(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout
    tested = (tmp_path / "tests.txt").read_text()
    on_the_device, *of_backends = (int(n) for n in re.findall(r"(\d+)(?:/\d+)? tests collected", tested))
    assert on_the_device >= 15
    assert len(of_backends) == 2
    assert min(of_backends) >= 1000
    selected = (tmp_path / "sanitizer.txt").read_text()
    counts = [int(n) for n in re.findall(r"(\d+)/\d+ tests collected", selected)]
    assert len(counts) == 2
    assert min(counts) >= 40
    for family in (*FAMILIES, "message_passing", "rank2_reduce", "row_mlp"):
        assert re.search(rf"values_and_gradients\S*{family}-", selected), family
    bench = (tmp_path / "bench.txt").read_text()
    for row in (
        "lorentznet/forward, 100 jets, graphed",
        "lorentznet/training step, 100 jets, against torch.compile",
        "lorentznet/fused op of one block, forward",
        "lorentznet/fused op of one block, forward, bfloat16 products",
        "pelican/forward, 16 events, n 27 to 54, graphed",
        "pelican/training step, 16 events, n 27 to 54, against published",
        "egnn/forward, 80,000 edges",
        "euclidnet/forward, 80,256 edges, graphed",
    ):
        assert row in bench
    assert int(re.findall(r"(\d+)(?:/\d+)? tests collected", bench)[-1]) >= 10


def test_all_limits_together_are_under_ten_minutes() -> None:
    text = SCRIPT.read_text()
    seconds = [int(n) for n in re.findall(r"^ *(?:tests|networks|stage) (\d+) ", text, re.MULTILINE)]
    loops = {
        "for backend in cuda triton": 70,
        "for tool in memcheck racecheck": 50,
        "for kernel in message_forward linear": 25,
    }
    assert all(text.count(loop) == 1 for loop in loops)
    assert 300 < sum(seconds) + sum(loops.values()) <= 570  # each loop runs its stage once more


def test_without_a_device_nothing_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "tests", dry="")
    assert (done.returncode, done.stdout) == (0, "skipped: torch finds no CUDA device\n")
    assert "without a GPU" in (tmp_path / "machine.txt").read_text()
