"""The command ``equikernels``."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path


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
    generate = commands.add_parser("generate", help="simulate jets or hits")
    kinds = generate.add_subparsers(dest="kind", required=True)
    jets = kinds.add_parser("jets", help="top and QCD jets, as an npz file that read_jets reads")
    jets.add_argument("--number", type=_positive, default=2000, metavar="N", help="how many jets (default: 2000)")
    jets.add_argument("--output", type=Path, default=Path("jets.npz"), metavar="FILE", help="default: jets.npz")
    hits = kinds.add_parser("hits", help="pixel hits of top-quark pairs with pile-up, as TrackML files")
    hits.add_argument("--number", type=_positive, default=5, metavar="N", help="how many events (default: 5)")
    hits.add_argument("--pile-up", type=float, default=200.0, metavar="MU", help="mean number of soft collisions")
    hits.add_argument("--output", type=Path, default=Path("hits"), metavar="DIR", help="default: hits")
    for kind in (jets, hits):
        kind.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same numbers")
    commands.add_parser("bench", help="measure networks against their published formulas", add_help=False)
    return parser


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


def _generate(arguments: argparse.Namespace) -> int:
    from .generate import generate_hits, generate_jets
    from .generate.hits import write_trackml

    try:
        if arguments.kind == "jets":
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            generate_jets(arguments.number, arguments.seed).save(arguments.output)
        else:
            arguments.output.mkdir(parents=True, exist_ok=True)
            for k, event in enumerate(generate_hits(arguments.number, arguments.seed, arguments.pile_up)):
                write_trackml(arguments.output / f"event{k:09d}", event)
    except (ImportError, ValueError) as error:
        print(f"equikernels {error}", file=sys.stderr)
        return 2
    print(f"wrote {arguments.output}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["bench"]:  # has a parser of its own
        command = importlib.import_module(f"{bench_package()}.command")
        return command.main(argv[1:], "equikernels bench")
    arguments = _parser().parse_args(argv)
    if arguments.command == "demo":
        return _demo(arguments)
    if arguments.command == "generate":
        return _generate(arguments)
    from .info import environment

    print(environment())
    return 0


if __name__ == "__main__":
    sys.exit(main())
