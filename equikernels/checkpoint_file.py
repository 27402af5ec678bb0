"""Reads the files of training scripts: tensors and plain values. Nothing in a file is executed.

``torch.load(weights_only=True)`` builds plain containers and tensors, and rejects everything else. Training scripts
also store optimizers, schedulers and NumPy scalars: here their names map to :class:`Inert`, which stores nothing and
does nothing, so that no constructor of another class reads the content of the file.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import pickle
import zipfile
from collections.abc import Iterator
from typing import IO, Any, NoReturn

import torch

OP = "load_checkpoint"
SAVE = "torch.save(model.state_dict(), path)"
File = str | os.PathLike[str] | IO[bytes]


class Inert:
    """Replaces an object that a network does not need."""

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class Table:
    """Replaces a subclass of dict by a plain dict."""

    def __new__(cls, *args: object) -> Any:
        return {}


def _of_torch() -> list[str]:
    """The optimizers and schedulers that PyTorch defines, by their pickled names."""
    modules = (torch.optim, torch.optim.lr_scheduler, torch.optim.swa_utils)
    bases = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
    found = [kind for module in modules for kind in vars(module).values() if inspect.isclass(kind)]
    return sorted({f"{kind.__module__}.{kind.__qualname__}" for kind in found if issubclass(kind, bases)})


NUMPY = (
    "dtype",
    "ndarray",
    *(f"{core}.multiarray.{f}" for core in ("core", "_core") for f in ("scalar", "_reconstruct")),
)
HELPERS = ("builtins.getattr", "builtins.frozenset", *(f"numpy.{name}" for name in NUMPY))  # a method is a getattr
PATHS = [f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")]
FACTORIES = ("dict", "list", "int", "float")  # of a defaultdict, never called
LIGHTNING = (
    "lightning_fabric.utilities.data",
    "lightning.fabric.utilities.data",
    "pytorch_lightning.utilities.parsing",
)
TABLES = ("collections.defaultdict", *(f"{module}.AttributeDict" for module in LIGHTNING))


def _allowed() -> list[Any]:
    # argparse.Namespace only holds values
    names = (*_of_torch(), *HELPERS, *PATHS, *(f"builtins.{name}" for name in FACTORIES))
    return [argparse.Namespace, *((Inert, name) for name in names), *((Table, name) for name in TABLES)]


@contextlib.contextmanager
def _only(allowed: list[Any]) -> Iterator[None]:
    """Allows these names in the weights-only reader, replacing registrations by others under the same names:
    torch.compile registers defaultdict, for example."""
    before = torch.serialization.get_safe_globals()
    names = {_path(entry) for entry in allowed}
    try:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals([*(entry for entry in before if _path(entry) not in names), *allowed])
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _path(entry: Any) -> str:
    return entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"


def read(file: File) -> Any:
    """Loads the content that ``torch.save`` wrote, on the CPU.

    Raises:
        ValueError: another kind of file, or one that is damaged.
        pickle.UnpicklingError: objects of other classes.
        OSError: no such file.
    """
    with contextlib.ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(open(file, "rb")) if isinstance(file, str | os.PathLike) else file
        start = stream.tell()
        kind = _kind(stream)
        stream.seek(start)
        if kind is not None:
            raise ValueError(f"{OP}: file: expected what {SAVE} writes, got {kind}")
        stack.enter_context(_only(_allowed()))
        try:
            return torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            stream.seek(start)
            _refuse_classes(stream, error)
        except (RuntimeError, EOFError, KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{OP}: file: expected what {SAVE} writes, got one cut short or damaged ({reason})"
            ) from error


def _refuse_classes(stream: IO[bytes], error: Exception) -> NoReturn:
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(stream))
    except (ValueError, RuntimeError, pickle.UnpicklingError):
        names = []
    got = f"objects of {', '.join(names)}" if names else str(error).splitlines()[0]
    raise pickle.UnpicklingError(
        f"{OP}: file: expected tensors and plain values, got {got}; none of it is executed. If the file can be "
        f"trusted and loaded, save {SAVE}"
    ) from error


SIGNATURES = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"\x1f\x8b", "a gzip file: unpack it"),
    (b"BZh", "a bzip2 file: unpack it"),
    (b"\xfd7zXZ", "an xz file: unpack it"),
    (b"version https://git-lfs", "a Git LFS pointer: fetch the file itself (git lfs pull)"),
    (b"<", "a web page or XML"),
    (b"{", "JSON"),
    (b"GGUF", "a GGUF file"),
)
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first bytes of torch.save before 1.6


def _kind(stream: IO[bytes]) -> str | None:
    """The kind of a file that torch.save did not write."""
    start = stream.tell()
    head = stream.read(512)
    if not head:
        return "an empty file"
    for signature, kind in SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "a safetensors file: load it by safetensors.torch.load_file, and torch.save what that gives"
    if head[257:262] == b"ustar":
        return "a tar file: unpack it"
    if head.startswith(b"PK\x03\x04"):
        stream.seek(start)
        return _kind_of_zip(stream)
    if head.startswith(b"\x80") and not head.startswith(LEGACY):
        return "a pickle that torch.save did not write"
    return None if head.startswith(LEGACY) else "something else"


def _kind_of_zip(stream: IO[bytes]) -> str | None:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
    except zipfile.BadZipFile:
        return "one cut short or damaged"
    if any(name.startswith("code/") or name == "constants.pkl" for name in names) and "data.pkl" in names:
        return f"a TorchScript archive: torch.jit.load it, and {SAVE}"
    if "data.pkl" in names:
        return None
    if any(name.startswith(("models/", "archive_format")) for name in names):
        return "a torch.export package, which holds no names of weights to load"
    return "a NumPy archive" if any(name.endswith(".npy") for name in names) else "a zip file"
