"""The command ``equikernels bench``: whole networks against their published formulas, on this machine."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from equikernels import _native

from . import growth, lorentznet, networks, pelican, taggers, tracking
from .compare import compare
from .machine import machine
from .records import machine_line, table
from .side_by_side import Disagreement, noisy

# (threads, quick, device) -> a document
NETWORKS: dict[str, Callable[[int, bool, str], dict[str, Any]]] = {
    "lorentznet": lorentznet.measure,
    "pelican": pelican.measure,
    **{name: functools.partial(networks.measure, name) for name in networks.NETWORKS},
    "taggers": taggers.measure,
    "trackers": lambda threads, quick, device: tracking.table(threads, device),
    "growth": growth.measure,
}


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--filter", default="", metavar="TEXT", help=f"networks of this name: {', '.join(NETWORKS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=_positive, default=2, metavar="N", help="PyTorch threads (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where each network gets a file of its own")
    parser.add_argument("--quick", action="store_true", help="smaller inputs or fewer repetitions: a minute or two")
    actions = parser.add_subparsers(dest="action")
    action = actions.add_parser("compare", help="what became slower from one result to another; status 1 if anything")
    action.add_argument("before", type=Path)
    action.add_argument("after", type=Path)
    action.add_argument("--threshold", type=float, default=10.0, metavar="PERCENT", help="tolerated (default: 10)")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m bench") -> int:
    """Runs the command. Status: 1 where results disagree or became worse, 2 where nothing could be done."""
    options = parser(prog).parse_args(argv)
    try:
        if options.action == "compare":
            text, worse = compare(options.before, options.after, options.threshold / 100)
            print(text)
            return int(worse > 0)
        return run(options)
    except (OSError, LookupError, json.JSONDecodeError) as error:
        print(f"{prog}: {error.args[0] if isinstance(error, LookupError) else error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    chosen = [name for name in NETWORKS if options.filter in name]
    if options.device == "cuda" and not torch.cuda.is_available():
        raise LookupError("--device cuda: torch finds no GPU")
    if not chosen:
        raise LookupError(f"--filter {options.filter!r}: nothing to measure among {', '.join(NETWORKS)}")
    if _native.host is None:
        raise LookupError(f"no CPU kernels, nothing to measure: {_native.cpu_reason}")
    found: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(chosen):
        print(f"[{number + 1}/{len(chosen)}] {name}", file=sys.stderr, flush=True)
        try:
            found[name] = NETWORKS[name](options.threads, options.quick, options.device)
        except Disagreement as difference:
            found[name] = {
                **machine(name, options.threads, options.device),
                "rows": [],
                "refused": str(difference),
            }
        report(name, found[name])
        if options.results and "refused" not in found[name]:
            prefix = "" if options.device == "cpu" else "gpu_"
            _write(options.results / f"{prefix}{name}.json", found[name])
        if options.json:  # after each network: what follows takes minutes and may be stopped
            _write(options.json, {"networks": found})
    return int(any("refused" in document for document in found.values()))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def report(name: str, document: dict[str, Any]) -> None:
    print(f"\n{name}: {machine_line(document)}\n")
    if "refused" in document:
        print(f"REFUSED: {document['refused']}", flush=True)
        return
    print(table(document))
    left_out = [f"left out: {what}" for what in document.get("left_out", [])]
    print("\n".join(["", *left_out, *noisy(document["rows"])]), flush=True)
