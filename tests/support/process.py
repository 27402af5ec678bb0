"""Runs code in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import equikernels as ek


def run(code: str, **environment: str) -> str:
    """The output of code in a fresh process, with triton's interpreter."""
    path = {"PYTHONPATH": str(Path(ek.__file__).parents[1])}
    env = {**os.environ, **path, "TRITON_INTERPRET": "1", **environment}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=env, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
