"""Runs the checks of test_ops.py with the Triton kernels in Triton's interpreter, in a separate process because the
interpreter must be chosen before triton is imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from ..support import ROOT

pytest.importorskip("triton")

# Cases by op and graph. A program is slow Python code here: large graphs only for loops over several tiles.
FEW = "and not large_event and not random_sparse"
PAIRS = "(rank2_mix or pairwise_linear or pairwise_network)"
CHECKS = {
    "pairs": ("test_ops.py", f"values_and_gradients and {PAIRS} {FEW}"),
    "pairs_large": ("test_ops.py", "values_and_gradients and rank2_mix-wide-large_event"),
    "strides_and_bad_values": ("test_ops.py", f"(non_contiguous or bad_values) and {PAIRS} {FEW}"),
    # which take 16 bits, as on a GPU
    "refusals": ("test_rank2_errors.py", "errors_name_the_argument and not float64"),
}


@pytest.mark.parametrize("checks", CHECKS)
def test_ops(checks: str) -> None:
    environment = {"TRITON_INTERPRET": "1", "EQUIKERNELS_BACKEND": "triton", "OMP_NUM_THREADS": "1"}
    file, selected = CHECKS[checks]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", f"tests/ops/{file}"]
    command += ["-k", selected]
    done = subprocess.run(command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"\d+ passed, \d+ deselected", done.stdout), done.stdout[-400:]


# The interpreter multiplies float16 correctly; its bfloat16 is unreliable.
FLOAT16 = """
import torch
import equikernels as ek

torch.manual_seed(0)
ptr = torch.tensor([0, 5, 5, 6, 14])
pairs = ek.Graph.complete(ptr).pairs
T, W, b = torch.randn(pairs.num_edges, 7), torch.randn(9, 7) / 3, torch.randn(9)
coefs = torch.randn(2, 7, 9) / 10

def layers(T, W, b, coefs):
    norm = ek.PairNorm(b, None, None, None, 0.1, of_batch=True)
    rows, affine, _ = ek.pairwise_network(T, W, b, norm, activation="leaky_relu")
    return [rows, affine, ek.rank2_mix(T, pairs, *coefs, activation="relu")]

def all_of(given):
    leaves = [t.detach().clone().requires_grad_() for t in given]
    out = layers(*leaves)
    return [t.detach() for t in out] + list(torch.autograd.grad([t.float().square().sum() for t in out], leaves))

small = [t.half() for t in (T, W, b, coefs)]
found = all_of(small)
with ek.use_backend("reference"):
    exact = all_of([t.double() for t in small])
assert [t.dtype for t in found] == [torch.float16] * 7
print(max(float((a.double() - e).abs().max() / e.abs().max()) for a, e in zip(found, exact, strict=True)))
"""


def test_rank2_layers_in_16_bits() -> None:
    environment = {"TRITON_INTERPRET": "1", "EQUIKERNELS_BACKEND": "triton", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", FLOAT16]
    done = subprocess.run(command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert 1e-5 < float(done.stdout) < 1e-2, done.stdout  # a rounding is 5e-4
