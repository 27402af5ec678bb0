"""Describes the machine of a result."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

import equikernels as ek
from equikernels import _native
from equikernels.info import cpu_name, gpu_names


def cpu_mhz() -> float | None:
    """The fastest core's current frequency, or its highest one if only this is known; None if neither is."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return max(float(line.split(":")[1]) for line in lines if line.startswith("cpu MHz"))
    except (OSError, ValueError):
        pass
    try:
        return float(Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text()) / 1e3
    except (OSError, ValueError):
        return None


def gpu_clocks() -> str | None:
    """Current and highest clocks of the first GPU, from nvidia-smi."""
    if not torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return None
    fields = "clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem"
    done = subprocess.run(
        ["nvidia-smi", "-i", "0", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True
    )
    return "SM {} of {}, memory {} of {}".format(*done.stdout.strip().split(", ")) if done.returncode == 0 else None


def machine(network: str, threads: int, device: str = "cpu") -> dict[str, Any]:
    """The head of a document."""
    load = [round(share, 2) for share in os.getloadavg()]
    return {
        "network": network,
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "cpu_mhz": cpu_mhz(),
            "load_average": load,
            "system": platform.platform(),
            "isa": ek.active_isa(),
            "threads": threads,
            "device": device,
            "gpu": gpu_names(),
            "gpu_clocks": gpu_clocks(),
        },
        "versions": {
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "equikernels": ek.__version__,
            "python": platform.python_version(),
            "compiler": _native.build_info().get("compiler", "none"),
        },
    }
