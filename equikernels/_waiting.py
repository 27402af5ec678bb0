"""How PyTorch's threads wait for each other on machines where other processes run.

GNU OpenMP, which runs PyTorch's threads on Linux, lets a thread spin for 3 ms before it sleeps. Beside other busy
processes the spinning uses up the time that the scheduler grants: a training step of LorentzNet takes 3 to 9 times as
long as on an idle machine, instead of twice. ``OMP_WAIT_POLICY=passive`` ends the spinning, but is only read when
torch is imported. OpenMP also ends it while the process holds more of its threads than there are cores. So a second
team of threads is started here, which sleeps for ever: nothing else in OpenMP can be changed once it is loaded.
"""

from __future__ import annotations

import os
import sys
import threading

POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # whoever sets one of them has chosen: nothing is done


def _sleep_while_waiting() -> str:
    """Ends the spinning, unless the environment says how to wait; returns what was done."""
    for name in POLICIES:
        if name in os.environ:
            return f"as {name}={os.environ[name]} says"
    if "torch" not in sys.modules:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        return "asleep: OMP_WAIT_POLICY was set to passive before torch was imported"
    import torch

    if not torch.backends.openmp.is_available() or sys.platform != "linux":
        return "as PyTorch's thread pool does"
    if torch.get_num_threads() == 1:
        return "never: one thread"
    ready = threading.Event()
    threading.Thread(target=_hold_team, args=(ready,), name="equikernels: OpenMP team", daemon=True).start()
    ready.wait()
    return "asleep: a second OpenMP team exists"


def _hold_team(ready: threading.Event) -> None:
    import torch

    torch.zeros(1 << 18).add_(1)  # large enough that a team shares it; the team lives as long as this thread
    ready.set()
    threading.Event().wait()


how = _sleep_while_waiting()
