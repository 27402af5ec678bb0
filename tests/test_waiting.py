"""Threads that wait for others sleep, whichever of torch and equikernels comes first, unless the user chose."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import equikernels as ek
from equikernels._waiting import POLICIES

THREADS = "print(open('/proc/self/status').read().split('Threads:')[1].split()[0])"


def run(code: str, **variables: str) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if key not in (*POLICIES, "OMP_NUM_THREADS")}
    environment |= {"PYTHONPATH": str(Path(ek.__file__).parents[1]), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd="/", capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_before_torch_the_policy_is_set() -> None:
    code = "import os, equikernels; print(equikernels._waiting.how); print(os.environ['OMP_WAIT_POLICY'])"
    how, policy = run(code)
    assert how.startswith("asleep")
    assert policy == "passive"


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP and /proc")
def test_after_torch_a_second_team_exists() -> None:
    """Its thread and the one more that shares its work; the process ends without waiting for them."""
    code = f"""import torch; torch.set_num_threads(2); torch.ones(1 << 18).add_(1); {THREADS}
import equikernels; print(equikernels._waiting.how); {THREADS}"""
    before, how, after = run(code)
    assert how == "asleep: a second OpenMP team exists"
    assert int(after) == int(before) + 2


@pytest.mark.parametrize("variable", [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "1000")])
def test_the_choice_of_the_user_stays(variable: tuple[str, str]) -> None:
    name, value = variable
    (how,) = run("import torch, equikernels; print(equikernels._waiting.how)", **{name: value})
    assert how == f"as {name}={value} says"


def test_one_thread_waits_for_none() -> None:
    (how,) = run("import torch, equikernels; print(equikernels._waiting.how)", OMP_NUM_THREADS="1")
    assert how == "never: one thread"
