"""The command ``equikernels``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {value}")
    return value


def _parser() -> argparse.ArgumentParser:
    from ._version import __version__

    parser = argparse.ArgumentParser(prog="equikernels", description="Fused kernels for equivariant networks.")
    parser.add_argument("--version", action="version", version=f"equikernels {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="print the information for a bug report")
    demo = commands.add_parser("demo", help="score sample jets, side by side with the published formulas")
    demo.add_argument("--jets", type=_positive, default=2000, metavar="N", help="how many (default and most: 2000)")
    demo.add_argument("--output", type=Path, default=Path("demo_output"), metavar="DIR", help="where plots go")
    demo.add_argument("--threads", type=_positive, metavar="N", help="PyTorch threads (default: PyTorch's)")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="of the networks' weights")
    _add_training(commands)
    export = commands.add_parser("export", help="write a trained network for programs without Python")
    export.add_argument("model", metavar="CKPT", help="a checkpoint, or a name: lorentznet-top")
    export.add_argument("out", type=Path, metavar="FILE", help=".onnx for ONNX Runtime, .pt2 for PyTorch in C++")
    export.add_argument("--max-constituents", type=_positive, metavar="N", help="ONNX for this number (default: any)")
    export.add_argument("--padded-to", type=_positive, metavar="N", help='slots of LorentzNet\'s readout "padded_mean"')
    generate = commands.add_parser("generate", help="simulate jets or hits")
    kinds = generate.add_subparsers(dest="kind", required=True)
    jets = kinds.add_parser("jets", help="jets with their truth, as an npz file that read_jets reads")
    kinds_of_jets = ("top", "w", "quark_gluon")
    jets.add_argument("--kind", dest="sample", choices=kinds_of_jets, default="top", help="default: top and QCD jets")
    jets.add_argument("--number", type=_positive, default=2000, metavar="N", help="how many jets (default: 2000)")
    jets.add_argument("--output", type=Path, default=Path("jets.npz"), metavar="FILE", help="default: jets.npz")
    hits = kinds.add_parser("hits", help="pixel hits of top-quark pairs with pile-up, as TrackML files")
    hits.add_argument("--number", type=_positive, default=5, metavar="N", help="how many events (default: 5)")
    hits.add_argument("--pile-up", type=float, default=200.0, metavar="MU", help="mean number of soft collisions")
    hits.add_argument("--output", type=Path, default=Path("hits"), metavar="DIR", help="default: hits")
    for kind in (jets, hits):
        kind.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same numbers")
    commands.add_parser("bench", help="measure networks against their published formulas", add_help=False)
    commands.add_parser("study", help="does equivariance pay? tables and figures of papers, made again", add_help=False)
    return parser


def _add_training(commands: Any) -> None:
    train = commands.add_parser("train", help="train a network on your files")
    train.add_argument("config", help="a YAML file, or a configuration of the package: lorentznet, pelican, ...")
    train.add_argument("--data", metavar="FILE", help="training events, instead of the configuration's")
    train.add_argument("--validation", metavar="FILE", help="validation events (default: some of the training events)")
    train.add_argument("--test", metavar="FILE", help="events on which the best network is tested")
    train.add_argument("--output", type=Path, default=Path("training"), metavar="DIR", help="where results go")
    train.add_argument("--backend", choices=("equikernels", "reference", "published"), help="who computes")
    train.add_argument("--epochs", type=_positive, metavar="N")
    train.add_argument("--limit", type=_positive, metavar="N", help="training events that are used")
    train.add_argument("--seed", type=int, metavar="N")
    train.add_argument("--devices", type=_positive, default=1, metavar="N", help="GPUs, or processes on a CPU")
    train.add_argument("--resume", action="store_true", help="go on with the training in the output folder")
    evaluate = commands.add_parser("evaluate", help="metrics of a trained network on a file with labels")
    score = commands.add_parser("score", help="the probability of signal of every jet of a file")
    for command in (evaluate, score):
        command.add_argument("data", metavar="FILE")
        command.add_argument("--model", required=True, metavar="CKPT", help="a checkpoint, or a name: pelican-top, ...")
        command.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    score.add_argument("--out", type=Path, required=True, metavar="FILE", help=".parquet, .csv or .npz")
    evaluate.add_argument("--out", type=Path, metavar="DIR", help="folder for metrics.json and plots")
    for command in (train, evaluate, score):
        command.add_argument("--threads", type=_positive, metavar="N", help="PyTorch threads (default: PyTorch's)")


def bench_package() -> str:
    """The package of the benchmark suite: equikernels.bench if installed, bench in a checkout."""
    return "equikernels.bench" if importlib.util.find_spec("equikernels.bench") else "bench"


def _demo(arguments: argparse.Namespace) -> int:
    missing = [name for name in ("matplotlib", "tqdm") if importlib.util.find_spec(name) is None]
    if missing:
        print(f'equikernels demo: needs {" and ".join(missing)}: pip install "equikernels[demo]"', file=sys.stderr)
        return 2
    from .demo import Settings, run

    return run(Settings(arguments.jets, arguments.output, arguments.threads, arguments.seed))


def _training(arguments: argparse.Namespace) -> int:
    """Bad input is a line on standard error and status 2, before the first step."""
    from . import train

    try:
        train.check_installed(f"equikernels {arguments.command}")
        from .train import command

        return getattr(command, arguments.command)(arguments)
    except (ImportError, OSError, ValueError, TypeError) as error:
        print(f"equikernels {arguments.command}: {error}", file=sys.stderr)
        return 2


def _generate(arguments: argparse.Namespace) -> int:
    from .generate import generate_hits, generate_jets
    from .generate.hits import write_trackml

    try:
        if arguments.kind == "jets":
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            generate_jets(arguments.number, arguments.seed, arguments.sample).save(arguments.output)
        else:
            arguments.output.mkdir(parents=True, exist_ok=True)
            for k, event in enumerate(generate_hits(arguments.number, arguments.seed, arguments.pile_up)):
                write_trackml(arguments.output / f"event{k:09d}", event)
    except (ImportError, ValueError) as error:
        print(f"equikernels {error}", file=sys.stderr)
        return 2
    print(f"wrote {arguments.output}")
    return 0


def _study(argv: Sequence[str]) -> int:
    from . import train

    try:
        train.check_installed("equikernels study")
    except ImportError as error:
        print(error, file=sys.stderr)
        return 2
    command = importlib.import_module(f"{bench_package()}.studies.command")
    return int(command.main(argv, "equikernels study"))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["bench"]:  # has a parser of its own
        command = importlib.import_module(f"{bench_package()}.command")
        return command.main(argv[1:], "equikernels bench")
    if argv[:1] == ["study"]:
        return _study(argv[1:])
    arguments = _parser().parse_args(argv)
    if arguments.command == "demo":
        return _demo(arguments)
    if arguments.command in ("train", "evaluate", "score", "export"):
        return _training(arguments)
    if arguments.command == "generate":
        return _generate(arguments)
    from .info import environment

    print(environment())
    return 0


if __name__ == "__main__":
    sys.exit(main())
