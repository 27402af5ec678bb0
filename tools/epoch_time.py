"""Times one epoch of a training by equikernels and by the published formula: whole processes, from start to report.

python tools/epoch_time.py [--network lorentznet] [--jets 20000 | --data train.h5] [--threads 2] [--json epoch.json]

Both sides run `equikernels train` on the same file with the same configuration, seed and order of events. The time of a
process includes imports, reading the file, validation on a tenth of the jets and the checkpoint. Without --data the
jets are those of the package, again and again: times do not depend on what is learnt.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import equikernels as ek
from equikernels.cli import bench_package
from equikernels.train import Config, load

SIDES = ("equikernels", "published")


def config_of(name: str, data: Path) -> Config:
    """The configuration with what the published formulas need."""
    config = load(name)
    options = dict(config.options)
    if config.network == "LorentzNet":
        options["readout"] = "padded_mean"
    elif config.network == "PELICAN":
        options["dropout"] = False
    return replace(config, options=options, data=replace(config.data, train=str(data)))


def run(config: Config, side: str, threads: int, folder: Path) -> dict[str, Any]:
    """The seconds of a process and what it reports."""
    file = folder / "config.yaml"
    file.write_text(json.dumps(config.as_dict()))  # JSON is YAML
    command = [sys.executable, "-m", "equikernels.cli", "train", str(file), "--backend", side, "--epochs", "1"]
    command += ["--threads", str(threads), "--output", str(folder / side)]
    start = time.perf_counter()
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, check=True, env=environment, cwd=Path(ek.__file__).parents[1])  # the same copy as here
    seconds = time.perf_counter() - start
    return {"process": seconds, **json.loads((folder / side / "report.json").read_text())}


def row_of(what: str, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A row of bench/results."""
    ours, theirs = (found[side]["process"] for side in SIDES)
    row: dict[str, Any] = {"what": what, "equikernels_ms": 1e3 * ours, "published_ms": 1e3 * theirs}
    row["ratio"] = theirs / ours
    for name in ("share_of_waiting_for_data", "seconds_in_steps", "seconds_of_reading", "events_read"):
        row[name] = [found[side][name] for side in SIDES]
    return row | {"validation_loss": [found[side]["validation"]["loss"] for side in SIDES]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="lorentznet", help="a configuration of the package (default: lorentznet)")
    parser.add_argument("--jets", type=int, default=20_000, help="training and validation jets (default: 20000)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, help="a file, of which all jets are used")
    parser.add_argument("--json", type=Path, help="where the result goes, such as bench/results/epoch.json")
    options = parser.parse_args()
    machine, records = (importlib.import_module(f"{bench_package()}.{name}") for name in ("machine", "records"))
    document = machine.machine("epoch", options.threads)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if data is None:
            data, sample = Path(folder) / "jets.npz", ek.data.load_sample_jets()
            sample[torch.arange(options.jets) % len(sample)].save(data)
        config = config_of(options.network, data.resolve())
        for side in SIDES:
            found[side] = run(config, side, options.threads, Path(folder))
    row = row_of(f"an epoch, {options.network}, {found[SIDES[0]]['events_read']:,} jets, whole process", found)
    document |= {"rows": [row], "left_out": []}
    for k, side in enumerate(SIDES):
        print(
            f"{side:12s} {row[f'{side}_ms'] / 1e3:8.1f} s   waiting for data: "
            f"{100 * row['share_of_waiting_for_data'][k]:.2f} % of the epoch   reading: "
            f"{row['events_read'][k] / row['seconds_of_reading'][k]:,.0f} jets/s   "
            f"validation loss {row['validation_loss'][k]:.4f}"
        )
    print(f"ratio        {row['ratio']:8.2f}x")
    if options.json is not None:
        options.json.write_text(records.text(document))


if __name__ == "__main__":
    main()
