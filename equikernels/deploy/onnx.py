"""export_onnx: a network as an ONNX file, which plain ONNX Runtime runs, and faster with the kernels.

An op of this package is a node of the domain ``equikernels``, and the file holds a function of the same name: its
formula in standard operators. Plain ONNX Runtime runs the function; with :func:`onnxruntime_library` registered it runs
the kernel instead.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._version import __version__
from ..checks import check_choice, check_integer, fail
from ..export import TAKES_ANY_SIZE
from .inputs import PTR, Input, check_network, inputs_of
from .package import Program
from .scores import Scores, events_of

if TYPE_CHECKING:
    import onnx

OP = "export_onnx"
LAYOUTS = ("padded", "packed")


def onnxruntime_library() -> str:
    """The path of the custom-op library for ONNX Runtime 1.14 and later:
    ``session_options.register_custom_ops_library(equikernels.deploy.onnxruntime_library())``.

    Raises:
        FileNotFoundError: this installation has none.
    """
    path = Path(__file__).parents[1] / "libequikernels_ort.so"
    if not path.exists():
        raise FileNotFoundError(f"onnxruntime_library: {path.name} was not built with this installation")
    return str(path)


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    reads: str = "arguments",
    layout: str | None = None,
    max_constituents: int | None = None,
    padded_to: int | None = None,
    standard: bool = False,
    example: Mapping[str, Tensor] | None = None,
    dynamic_shapes: Mapping[str, dict[int, Any]] | None = None,
    dim: int = 3,
) -> Path:
    """Writes a network in evaluation as an ONNX file (IR version 8, opset 18: ONNX Runtime 1.14 and later).

    The inputs of a network on jets are, ``layout="padded"``:

    - ``p4`` (or ``x``, as the network calls it) float [B, N, 4]: (E, px, py, pz) in GeV;
    - ``mask`` float [B, N]: above 0.5 where there is a particle;
    - what else it reads of particles, as ``scalars`` [B, N, n_scalar];

    or, ``layout="packed"``, the rows of all particles one event after another and ``ptr`` int64 [B + 1]. A network on
    graphs reads ``x`` [n, D], ``edge_index`` int64 [2, E] (senders, receivers) and its edge attributes. All sizes are
    open. Outputs have a row for each event, or for each edge; of particles [B, N, ...], 0 where there is none.

    Args:
        model: of :mod:`equikernels.models`, with float32 weights; or any other, with ``example``.
        path: of the file.
        reads: "arguments" of the network; or "events", from which :mod:`equikernels.train` makes them: jets' p4 alone,
            or hits. The output is then the probability of signal; of PELICANRegressor the four-momentum in GeV.
        layout: "padded" or "packed"; by default padded for jets, packed for graphs.
        max_constituents: N, if the file is to be for this one; any by default.
        standard: write standard operators alone, for runtimes without functions; such a file never runs a kernel.
        padded_to: the number of slots by which LorentzNet's readout "padded_mean" divides, as its forward takes it.
        example: the arguments of another model's forward, tensors alone, in its order and by the names that the file's
            inputs get; the model is traced on them.
        dynamic_shapes: by name the axes whose size is open, as ``torch.export`` takes them; by default the first.
        dim: coordinates of a point, of networks that take any number.

    Returns:
        path.

    Raises:
        ImportError: onnx or onnxscript is not installed (the extra ``onnx``).
        RuntimeError: PyTorch is older than 2.13.
        TypeError: a network of which the inputs are not known, without ``example``; ParT, ParticleNet and EFP, whose
            steps depend on the sizes of events; LGN, which is complex.
        ValueError: the model is in training, is not float32, or uses an option without an ONNX formula (products in
            bfloat16, sums over senders, weights of pairs); the message names it.
    """
    _check(model, reads, layout, max_constituents)
    if example is not None:
        first = {0: torch.export.Dim.AUTO}
        if unknown := set(dynamic_shapes or {}) - set(example):
            fail(OP, "dynamic_shapes", f"names of {', '.join(example)}", ", ".join(sorted(unknown)))
        sizes = tuple((dynamic_shapes or {}).get(name, first) for name in example)
        made = _traced(model, tuple(example.values()), sizes, list(example))
    else:
        check_network(OP, model, padded_to)
        given = events_of(OP, model) if reads == "events" else inputs_of(OP, model, dim, torch.float32)
        inputs = [of._replace(dtype=torch.float32) if of.dtype == torch.float64 else of for of in given]
        made = _packed(model, inputs, reads, padded_to)
        jets = any(given.name == PTR.name for given in inputs)
        if (layout or ("padded" if jets else "packed")) == "padded":
            if not jets:
                fail(OP, "layout", "packed for a network on graphs", layout)
            from .onnx_padded import pad

            made = pad(made, inputs, max_constituents)
        elif max_constituents is not None:
            fail(OP, "max_constituents", 'None with layout="packed"', max_constituents)
    import onnx

    if standard:
        import onnx.inliner

        made = onnx.inliner.inline_local_functions(made)
        for number, node in enumerate(made.graph.node):  # a function that is called twice leaves nodes of one name
            node.name = f"{node.op_type}_{number}"
    made.producer_name, made.producer_version = "equikernels", __version__
    onnx.checker.check_model(made, full_check=True)
    onnx.save(made, os.fspath(path))
    return Path(path)


def _check(model: nn.Module, reads: str, layout: str | None, max_constituents: int | None) -> None:
    check_choice(OP, "reads", reads, ("arguments", "events"))
    if layout is not None:
        check_choice(OP, "layout", layout, LAYOUTS)
    if max_constituents is not None:
        check_integer(OP, "max_constituents", max_constituents, "a number >= 1", 1)
    if model.training:
        fail(OP, "model", "a network in evaluation, as model.eval() makes it", "one in training")
    for name, t in [*model.named_parameters(), *model.named_buffers()]:
        if t.is_floating_point() and t.dtype != torch.float32:
            fail(OP, "model", "float32 weights", f"{name} in {t.dtype}")
    if not TAKES_ANY_SIZE:
        raise RuntimeError(f"{OP}: needs PyTorch 2.13 or later, this is {torch.__version__}")
    try:
        import onnx as onnx
        import onnxscript as onnxscript
    except ImportError as error:
        raise ImportError(f"{OP}: {error.name} is not installed; pip install 'equikernels[onnx]'") from error


def _packed(model: nn.Module, inputs: Sequence[Input], reads: str, padded_to: int | None) -> onnx.ModelProto:
    program = Scores(model, padded_to) if reads == "events" else Program(model, inputs, padded_to)
    example, sizes = tuple(given.example() for given in inputs), tuple(given.sizes() for given in inputs)
    return _traced(program, example, {"tensors": sizes}, [given.name for given in inputs])


def _traced(program: nn.Module, example: tuple[Tensor, ...], sizes: Any, names: Sequence[str]) -> onnx.ModelProto:
    """The model, of nodes of this package's domain with their functions, and of standard nodes."""
    from .onnx_functions import with_functions
    from .onnx_nodes import Nodes

    nodes = Nodes()
    config: Any = torch.fx.experimental._config
    with torch.no_grad(), config.patch(backed_size_oblivious=True), _quiet():
        exported = torch.export.export(program, example, dynamic_shapes=sizes, strict=False)
        exported = exported.run_decompositions(nodes.table())
        count = len(exported.graph_signature.user_outputs)
        outputs = ["output"] if count == 1 else [f"output_{k}" for k in range(count)]
        made = torch.onnx.export(
            exported, dynamo=True, opset_version=18, verbose=False, input_names=list(names), output_names=outputs
        )
    assert made is not None
    return with_functions(made.model_proto, nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on packages that it misses."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
