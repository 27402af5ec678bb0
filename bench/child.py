"""Runs a training step of one side in its own process, whose peak memory is measured."""

from __future__ import annotations

import argparse

import torch

from . import memory
from .command import NETWORKS
from .plan import Setting
from .side_by_side import SIDES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("name", help="of the row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = NETWORKS[options.network](Setting(options.threads, options.quick))
    sides, small = plan.steps[options.name]()
    memory.print_peaks(lambda: sides.step(options.side), lambda: small.step(options.side))


if __name__ == "__main__":
    main()
