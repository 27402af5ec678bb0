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


def run_two(code: str, folder: Path) -> None:
    """Runs code in two processes at once; each is given its number and the folder."""
    run = [sys.executable, "-c", code]
    processes = [
        subprocess.Popen([*run, str(rank), str(folder)], cwd=folder, stderr=subprocess.PIPE) for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
