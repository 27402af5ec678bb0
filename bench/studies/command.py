"""The command ``equikernels study``: does equivariance pay? Tables and figures of the papers, made again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from equikernels.checks import need

from .ablation import Ablation
from .accuracy import Accuracy
from .ant import Ant
from .boosts import Boosts
from .channels import Channels
from .fractions import Fractions
from .inference import Inference
from .rotations import Rotations
from .runner import run
from .spurions import QuarkGluon, Spurions, WMomentum
from .study import Study
from .tracking import Tracking

OF_NETWORKS: tuple[Study, ...] = Ablation(), Channels(), Ant()
OF_INPUTS: tuple[Study, ...] = Spurions(), QuarkGluon(), WMomentum()
STUDIES: dict[str, Study] = {
    study.name: study
    for study in (Accuracy(), Tracking(), Boosts(), Rotations(), Fractions(), Inference(), *OF_NETWORKS, *OF_INPUTS)
}


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("name", nargs="?", choices=(*STUDIES, "all"), metavar="NAME", help="a study of --list, or all")
    parser.add_argument("--list", action="store_true", help="print the studies and what they ask, and stop")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small networks and few events: minutes (the default)")
    size.add_argument("--full", action="store_true", help="published networks, more events, five seeds: hours to days")
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="your events: one file, which is cut into parts; training and test; or training, validation and test. "
        "Jets in any format that `equikernels train` reads, hits as folders of TrackML events (default: simulated)",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: studies/quick or studies/full")
    parser.add_argument(
        "--threads", type=int, default=2, metavar="N", help="jobs at a time, in processes of one thread (default: 2)"
    )
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m bench.studies") -> int:
    """Runs the command; bad input is a line on standard error and status 2."""
    made = parser(prog)
    options = made.parse_args(argv)
    if options.list:
        print("\n".join(f"{name:12s} {study.asks} [{study.source}]" for name, study in STUDIES.items()))
        return 0
    if options.name is None:
        made.error("a study, or --list")
    if options.threads < 1:
        made.error(f"--threads: expected at least 1, got {options.threads}")
    names = list(STUDIES) if options.name == "all" else [options.name]
    if options.data and len(names) > 1:
        made.error("--data: for one study; studies of jets and of hits read different files")
    output = options.output or Path("studies") / ("full" if options.full else "quick")
    try:
        need("study", "matplotlib", "bench")
        studies = [STUDIES[name] for name in names]
        for study, results in run(studies, options.full, output, options.data, options.threads):
            written = f"Written: {output / study.name}.json, .md, .png"
            print(f"\n{study.asks}\n\n{study.table(results)}\n\n{written}", flush=True)
    except (ImportError, OSError, ValueError, TypeError) as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 2
    return 0
