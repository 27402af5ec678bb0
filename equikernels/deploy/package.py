"""package: a network as a program for PyTorch in C++, by torch.export and AOTInductor."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import _native
from .._version import __version__
from ..checks import check_choice, fail
from ..export import TAKES_ANY_SIZE
from ..graph import Graph
from .arithmetic import as_pytorch
from .inputs import PTR, VECTORS, Input, check_network, inputs_of
from .scores import Scores, events_of

OP = "package"
READS = ("arguments", "events")
# Generated code moves and compares numbers. One instruction set for all machines and one thread are enough for it: the
# kernels choose theirs where they run. Convolutions get their inputs in the layout that PyTorch gives them.
GENERATED: dict[str, Any] = {"cpp.threads": 1, "layout_optimization": False}
NEEDS = ""
if platform.machine() in ("x86_64", "AMD64"):
    GENERATED |= {"cpp.march": "x86-64-v3", "cpp.simdlen": 256}
    NEEDS = "avx2 fma"


def package(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    reads: str = "arguments",
    coordinates: torch.dtype | None = None,
    dim: int = 3,
    padded_to: int | None = None,
) -> Path:
    """Writes a network into a file (``.pt2``) that PyTorch runs without Python and without the network's code.

    The file holds the weights and a shared library. It runs on any number of events, nodes and edges, none and one
    included, where the op library of this version of equikernels is loaded: ``equikernels.h`` does so in C++,
    :func:`load` in Python. Results have the same bits as those of the network under ``torch.inference_mode()`` in
    Python, one thread each, on one machine; TFN's may differ in the last digit.

    The program reads tensors alone. Where the network takes a graph it reads ``ptr`` int64 [n_events + 1] (networks on
    jets) or ``edge_index`` int64 [2, E] of senders and receivers; vectors [n, C, 3] as [n, 3 C]; otherwise the
    arguments of the network's forward, those without a default and those whose width the network was made with.
    ``equikernels.h`` and :func:`load` check every call; the program itself, under PyTorch's own loader, checks nothing,
    and wrong dtypes, ``ptr`` or ``edge_index`` are undefined behaviour.

    What a program cannot do: gradients and training; change with the backend, with autocast, with hooks or weights set
    later; run on a GPU; read a graph in another form. It is for the operating system and the processor family of the
    machine that writes it (on x86-64 with AVX2 and FMA), for this version of equikernels, and for the version of
    PyTorch that wrote it.

    Args:
        model: a network of :mod:`equikernels.models`, in evaluation, on the CPU.
        path: of the file; ends in ``.pt2``.
        reads: "arguments" of the network; or "events": jets as ``p4`` float64 [n, 4] (E, px, py, pz) in GeV and
            ``ptr``, hit graphs as ``x`` [n, 3] (r / m, phi / pi, z / m), ``edge_index`` and ``edge_attr`` [E, 4]. The
            program then prepares the inputs as :mod:`equikernels.train` does and gives the probability of signal,
            [n_events] or [E]; of PELICANRegressor the four-momentum [n_events, 4] in GeV.
        coordinates: with "arguments", the dtype of four-momenta (by default float64) or points (that of the weights).
        dim: with "arguments", the number of coordinates of a point, for networks that take any.
        padded_to: of networks that need it: the number of slots events are padded to, the same in every call. An event
            may not have more nodes; the program does not check it.

    Returns:
        The path.

    Raises:
        RuntimeError: PyTorch before 2.13; no kernels; the C++ compiler that AOTInductor calls is missing or fails.
        TypeError: a module that is not such a network; ParT, ParticleNet and EFP, whose steps depend on the sizes of
            events; LGN, which is complex.
        ValueError: another ending; a network in training, on a GPU, or with an option no program has: a readout of
            padded events without ``padded_to``, or the SoftDrop multiplicity (NumPy computes it, one jet at a time).
    """
    check_choice(OP, "reads", reads, READS)
    if not str(path).endswith(".pt2"):
        fail(OP, "path", "a name that ends in .pt2", path)
    if not TAKES_ANY_SIZE:
        raise RuntimeError(f"{OP}: expected PyTorch 2.13 or later, got {torch.__version__}")
    if _native.cpu_reason is not None:
        raise RuntimeError(f"{OP}: {_native.cpu_reason}")
    check_network(OP, model, padded_to)
    program: nn.Module
    if reads == "events":
        inputs = events_of(OP, model)
        program = Scores(model, padded_to)
    else:
        inputs = inputs_of(OP, model, dim, coordinates)
        program = Program(model, inputs, padded_to)
    compiled(program, inputs, path)
    return Path(path)


def compiled(program: nn.Module, inputs: Sequence[Input], path: str | os.PathLike[str]) -> None:
    """Exports a module that reads these tensors, and writes its program."""
    metadata = {"equikernels": __version__, "cpu": NEEDS, "inputs": "\n".join(map(str, inputs))}
    options = {**GENERATED, "aot_inductor.metadata": metadata}
    with torch.no_grad(), torch.fx.experimental._config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        example = tuple(given.example() for given in inputs)
        sizes = {"tensors": tuple(given.sizes() for given in inputs)}
        exported = torch.export.export(program, example, dynamic_shapes=sizes)
        from torch import _inductor  # takes a second

        with as_pytorch():
            _inductor.aoti_compile_and_package(exported, package_path=os.fspath(path), inductor_configs=options)


class Program(nn.Module):
    """A network that reads tensors alone: offsets in place of a complete graph, an edge_index in place of another, rows
    of numbers in place of vectors."""

    def __init__(self, model: nn.Module, inputs: Sequence[Input], padded_to: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.options = {} if padded_to is None else {"padded_to": padded_to}
        self.names = [given.name for given in inputs]

    def forward(self, *tensors: Tensor) -> Any:
        arguments = [self._argument(*given, tensors[0].shape[0]) for given in zip(self.names, tensors, strict=True)]
        return self.model(*arguments, **self.options)

    def _argument(self, name: str, t: Tensor, nodes: int) -> Any:
        if name == PTR.name:
            return Graph.complete(t, num_nodes=nodes, validate=False)
        return t.unflatten(1, (t.shape[1] // 3, 3)) if name == VECTORS else t


def cmake_prefix_path() -> str:
    """The folder for CMAKE_PREFIX_PATH, in which CMake's ``find_package(equikernels)`` finds the op library and
    ``equikernels.h``."""
    return str(Path(__file__).parents[2])
