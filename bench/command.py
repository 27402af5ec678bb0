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

from . import calls, deploy, growth, lorentznet, networks, pelican, readme, taggers, tracking
from .compare import compare
from .machine import machine
from .plan import Plan, Setting, measure, names, wanted
from .records import machine_line, table, text
from .side_by_side import Disagreement, noisy

NETWORKS: dict[str, Callable[[Setting], Plan]] = {
    "lorentznet": lorentznet.plan,
    "pelican": pelican.plan,
    **{name: functools.partial(networks.plan, name) for name in networks.NETWORKS},
    "taggers": taggers.plan,
    "trackers": tracking.plan,
    "growth": growth.plan,
    "calls": calls.plan,
    "deploy": deploy.plan,
}


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="TEXT",
        help="measure only rows with TEXT in 'network/row, against baseline': a network, 'training step', "
        "'euclidnet/forward'; may be given several times. --list shows the names",
    )
    parser.add_argument("--readme", action="store_true", help="the rows of the README's tables")
    parser.add_argument("--list", action="store_true", help="print the names of what would be measured, and stop")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=_positive, default=2, metavar="N", help="PyTorch threads (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="folder for one file per network")
    parser.add_argument("--quick", action="store_true", help="smaller inputs or fewer repetitions: a minute or two")
    actions = parser.add_subparsers(dest="action")
    action = actions.add_parser(
        "compare", help="list rows that became slower between two results; status 1 if there are any"
    )
    action.add_argument("before", type=Path)
    action.add_argument("after", type=Path)
    action.add_argument("--threshold", type=float, default=10.0, metavar="PERCENT", help="tolerated (default: 10)")
    return parser


def main(argv: Sequence[str] | None = None, prog: str = "python -m bench") -> int:
    """Runs the command. Status: 1 if results disagree or became worse, 2 for errors."""
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
    setting = Setting(options.threads, options.quick, options.device)
    plans = {name: plan(setting) for name, plan in NETWORKS.items()}
    every = {network: names(network, plan, setting) for network, plan in plans.items()}
    texts = [*options.filter, *(readme.readme_rows(every) if options.readme else [])]
    found = {network: [name for name in rows if wanted(name, texts)] for network, rows in every.items()}
    chosen = [network for network, rows in found.items() if rows]
    if not chosen:
        raise LookupError(f"--filter {', '.join(map(repr, texts))}: nothing to measure among {', '.join(NETWORKS)}")
    if options.list:
        print("\n".join(name for network in chosen for name in found[network]))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        raise LookupError("--device cuda: torch finds no GPU")
    if _native.cpu_reason is not None:
        raise LookupError(f"no CPU kernels, nothing to measure: {_native.cpu_reason}")
    documents: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(chosen):
        print(f"[{number + 1}/{len(chosen)}] {name}", file=sys.stderr, flush=True)
        try:
            documents[name] = measure(name, plans.pop(name), setting, texts)
        except Disagreement as difference:
            head = machine(name, options.threads, options.device)
            documents[name] = {**head, "rows": [], "refused": str(difference)}
        report(name, documents[name])
        if options.results and "refused" not in documents[name]:
            prefix = "" if options.device == "cpu" else "gpu_"
            _write(options.results / f"{prefix}{name}.json", text(documents[name]))
        if options.json:  # after each network: the rest takes minutes and may be stopped
            _write(options.json, json.dumps({"networks": documents}, indent=1) + "\n")
    return int(any("refused" in document for document in documents.values()))


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def report(name: str, document: dict[str, Any]) -> None:
    print(f"\n{name}: {machine_line(document)}\n")
    if "refused" in document:
        print(f"REFUSED: {document['refused']}", flush=True)
        return
    print(table(document))
    left_out = [f"left out: {what}" for what in document.get("left_out", [])]
    print("\n".join(["", *left_out, *noisy(document["rows"])]), flush=True)
