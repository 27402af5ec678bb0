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


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["bench"]:  # has a parser of its own
        command = importlib.import_module(f"{bench_package()}.command")
        return command.main(argv[1:], "equikernels bench")
    arguments = _parser().parse_args(argv)
    if arguments.command == "demo":
        return _demo(arguments)
    from .info import environment

    print(environment())
    return 0


if __name__ == "__main__":
    sys.exit(main())
