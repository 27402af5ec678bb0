"""Tests load_checkpoint on files of training scripts and libraries: finds the network, or names the kind of file."""

from __future__ import annotations

import argparse
import collections
import inspect
import io
import json
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR, AveragedModel

import equikernels as ek
from equikernels.checkpoint_file import Inert, read

from .support.checkpoints import assert_same, load, published_state, saved

STATE = published_state()
OTHER = {key: value + 1 for key, value in STATE.items()}


def network() -> ek.models.LorentzNet:
    model = ek.models.LorentzNet(2, 8, n_layers=2)
    model.load_state_dict(STATE)
    return model


def keyed(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


class Task(nn.Module):
    """A network, metrics and a loss with weights, as in Lightning."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(2))
        self.accuracy = nn.BatchNorm1d(2)  # counts in buffers


def compiled_inside() -> nn.Module:
    model = network()
    model.LGEBs[0] = torch.compile(model.LGEBs[0], backend="eager")
    model.graph_dec = torch.compile(model.graph_dec, backend="eager")
    return torch.compile(model, backend="eager")


FOUND: dict[str, Callable[[], Any]] = {
    "compiled": lambda: torch.compile(network(), backend="eager").state_dict(),
    "compiled, parts and whole": lambda: compiled_inside().state_dict(),
    "compiled, then parallel": lambda: keyed("module._orig_mod."),
    "parallel, then compiled": lambda: keyed("_orig_mod.module."),
    "a parallel part": lambda: {key.replace("LGEBs.", "LGEBs.module."): value for key, value in STATE.items()},
    "checkpointed parts": lambda: {
        key.replace("LGEBs.0.", "LGEBs.0._checkpoint_wrapped_module."): value for key, value in STATE.items()
    },
    "averaged": lambda: AveragedModel(network()).state_dict(),
    "averaged and compiled": lambda: AveragedModel(torch.compile(network(), backend="eager")).state_dict(),
    "averaged, without the prefix": lambda: {**STATE, "n_averaged": torch.tensor(3)},
    "averaged, in a dict": lambda: {"state_dict": AveragedModel(network()).state_dict(), "epoch": 3},
    "any prefix": lambda: keyed("tagger.backbone."),
    "a prefix that parallel wraps": lambda: keyed("module.tagger.module."),
    "a task": lambda: Task(network()).state_dict(),
    "a compiled task": lambda: Task(torch.compile(network(), backend="eager")).state_dict(),
    "a task's checkpoint": lambda: {"state_dict": Task(network()).state_dict(), "hyper_parameters": {"lr": 1e-3}},
    "dicts in dicts": lambda: {"best": {"epoch": 3, "weights": {"model": keyed("module.")}}},
    "any name": lambda: {"net": STATE, "step": 5},
    "beside another network": lambda: {"head": nn.Linear(3, 3).state_dict(), "net": STATE},
    "beside plain values": lambda: {"model": STATE, 3: "three", "names": ["a"], "shape": torch.Size([1]), "k": {1, 2}},
}


@pytest.mark.parametrize("name", FOUND)
def test_the_network_is_found(name: str) -> None:
    assert_same(dict(load(FOUND[name]()).state_dict()), dict(STATE))


def test_one_of_several_networks() -> None:
    together = {**keyed("model."), **keyed("ema.module.", OTHER), "criterion.weight": torch.ones(2)}
    apart = {"model": keyed("module."), "model_ema": OTHER}
    inside = {"state_dict": together}
    for content, names in (
        (together, ("model.", "ema.")),
        (apart, ("model.module.", "model_ema.")),
        (inside, ("state_dict.model.", "state_dict.ema.")),
    ):
        with pytest.raises(
            ValueError, match=r"^load_checkpoint: file: expected one network, or prefix=\.\.\."
        ) as error:
            load(content)
        for name in names:
            assert f"'{name}' (LorentzNet)" in str(error.value)
        for name, state in zip(names, (STATE, OTHER), strict=True):
            for prefix in (name, name.removesuffix(".")):
                assert_same(dict(load(content, prefix=prefix).state_dict()), dict(state))
        with pytest.raises(ValueError, match=r"load_checkpoint: prefix: expected one of .*LorentzNet.*, got 'emma'"):
            load(content, prefix="emma")
    assert_same(dict(load(inside, prefix="ema").state_dict()), dict(OTHER))  # names of enclosing dicts may be omitted
    assert_same(dict(load({**STATE, **keyed("ema.", OTHER)}, prefix="ema").state_dict()), dict(OTHER))


def test_what_is_under_the_prefix_must_be_the_network() -> None:
    free = ek.models.VecNet(2, 8, 4, 3, n_layers=2).state_dict()
    for content in (free, keyed("model.", free), {**keyed("net."), "net.extra": torch.ones(1)}):
        with pytest.raises(ValueError, match=r"expected the keys of LorentzNet, got\n  unexpected: (free|extra)"):
            load(content)
    part = {key: value for key, value in keyed("net.").items() if "graph_dec.3" not in key}
    with pytest.raises(ValueError, match=r"LorentzNet, got\n  missing: net.graph_dec.3.weight"):
        load(part)
    with pytest.raises(ValueError, match=r"LorentzNet, got\n  missing: net.graph_dec.3.weight"):
        load({**part, **keyed("ema.")}, prefix="net")


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_files_of_16_bits_give_networks_of_float32(low: torch.dtype) -> None:
    half = {key: value.to(low) if value.is_floating_point() else value for key, value in STATE.items()}
    mixed = {key: value if "running" in key else half[key] for key, value in STATE.items()}
    for content in (half, mixed):
        model = load(content)
        for key, value in model.state_dict().items():
            assert torch.equal(value, content[key].to(value.dtype))
            assert value.dtype in (torch.float32, torch.int64)
        assert load(content, dtype=low).embedding.weight.dtype == low
        assert load(content, dtype=torch.float64).embedding.weight.dtype == torch.float64
    x, ptr, is_beam = ek.data.with_beams(torch.tensor([[5.0, 3, 0, 4], [5, 0, 3, 4]]), torch.tensor([0, 2]))
    assert load(half).eval()(x, ek.data.top_tagging_scalars(x, is_beam), ptr).isfinite().all()


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(2, 2))]


def optimizers() -> dict[str, torch.optim.Optimizer]:
    kinds = [k for k in vars(torch.optim).values() if inspect.isclass(k) and issubclass(k, torch.optim.Optimizer)]
    return {k.__name__: k(parameters()) for k in kinds if k is not torch.optim.Optimizer}


def schedulers() -> dict[str, Any]:
    o = torch.optim.AdamW(parameters(), lr=0.1)
    momentum = torch.optim.SGD(parameters(), lr=0.1, momentum=0.9)
    return {
        "warm restarts": lr_scheduler.CosineAnnealingWarmRestarts(o, 4, 2),
        "cosine": lr_scheduler.CosineAnnealingLR(o, 5),
        "steps": lr_scheduler.MultiStepLR(o, [2, 3]),
        "one cycle": lr_scheduler.OneCycleLR(o, 0.1, 10),
        "cyclic": lr_scheduler.CyclicLR(momentum, 0.1, 0.2),
        "plateau": lr_scheduler.ReduceLROnPlateau(o),
        "one after the other": lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o), lr_scheduler.ConstantLR(o)], [2]
        ),
        "chained": lr_scheduler.ChainedScheduler([lr_scheduler.ExponentialLR(o, 0.9)]),
        "averaging": SWALR(o, 0.1),
    }


VALUES: dict[str, Any] = {
    "numpy": {"loss": np.float64(1.5), "n": np.int64(3), "best": np.bool_(True), "confusion": np.ones((2, 2))},
    "standard": [collections.defaultdict(list, a=[1]), collections.OrderedDict(a=1), collections.Counter("aab")],
    "path": [pathlib.PurePath("a"), pathlib.Path("runs/1"), frozenset([1])],
    "arguments": argparse.Namespace(lr=1e-3, device=torch.device("cpu"), dtype=torch.float32, best=np.float64(3)),
}


@pytest.mark.parametrize("name", [*optimizers(), *schedulers()])
def test_optimizers_and_schedulers_are_passed_over(name: str) -> None:
    thing = {**optimizers(), **schedulers()}[name]
    content = {"model_state": STATE, "optimizer": thing, "scheduler_state": {"after_scheduler": thing, "k": 1}}
    assert_same(dict(load(content).state_dict()), dict(STATE))
    assert isinstance(read(saved(content))["optimizer"], Inert)  # no constructor has run


@pytest.mark.parametrize("name", ["numpy", "standard", "arguments"])
def test_values_beside_a_network_are_passed_over(name: str) -> None:
    content = {"model_state": STATE, "best_metrics": VALUES[name], "args": VALUES["arguments"]}
    assert_same(dict(load(content).state_dict()), dict(STATE))


def test_paths_are_passed_over() -> None:
    assert_same(
        dict(load({"model": STATE, "args": argparse.Namespace(out=pathlib.Path("a"))}).state_dict()), dict(STATE)
    )


def a_function(epoch: int) -> float:
    return 1.0


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


OBJECTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a function of a scheduler": (
        lambda: lr_scheduler.LambdaLR(torch.optim.SGD(parameters(), lr=0.1), a_function),
        r"\w*\.?test_checkpoint_files.a_function",
    ),
    "a whole network": (network, r"equikernels\.models\.lorentznet\.LorentzNet.*torch\.nn\.modules"),
    "evaluation": (lambda: Call(eval, "__import__('os').abort()"), r"builtins\.eval"),
    "a shell": (lambda: Call(pathlib.os.system, "true"), r"\w+\.system"),
    "a class of one's own": (lambda: Task(nn.Identity()), r"test_checkpoint_files\.Task"),
}


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_of_other_classes_are_refused_by_name(name: str) -> None:
    make, message = OBJECTS[name]
    for content in (make(), {"model": STATE, "extra": make()}, {"optimizer": [make()], "state": STATE}):
        with pytest.raises(
            pickle.UnpicklingError,
            match=rf"^load_checkpoint: file: expected tensors and plain values, got objects of .*{message}.*"
            r"none of it is executed.*save torch\.save\(model\.state_dict\(\), path\)$",
        ):
            load(content)


def test_stand_ins_do_nothing_with_what_they_are_given() -> None:
    """getattr, a scheduler's constructor, a defaultdict's factory: named in a file, and none is called."""
    optimizer = torch.optim.SGD(parameters(), lr=0.1)
    for call in (
        Call(getattr, optimizer, "step"),
        Call(torch.optim.SGD, parameters(), 0.1),
        Call(lr_scheduler.LambdaLR, optimizer, dict),
        Call(lr_scheduler.StepLR, 3, "no scheduler would take this"),
        Call(torch.optim.Adam, "nor an optimizer this"),
    ):
        assert isinstance(read(saved({"a": call}))["a"], Inert)
    assert read(saved(collections.defaultdict(list, a=[1]))) == {"a": [1]}


def test_what_others_have_registered_does_not_matter_and_stays() -> None:
    classes = [collections.defaultdict, torch.optim.SGD, pathlib.PurePosixPath]  # as torch.compile, or a user, does
    before = set(torch.serialization.get_safe_globals())
    with torch.serialization.safe_globals(classes):
        registered = set(torch.serialization.get_safe_globals())
        assert read(saved(collections.defaultdict(list, a=[1]))) == {"a": [1]}
        assert isinstance(read(saved({"a": torch.optim.SGD(parameters(), lr=0.1)}))["a"], Inert)
        with pytest.raises(pickle.UnpicklingError):
            read(saved({"a": Call(print, "executed")}))
        assert set(torch.serialization.get_safe_globals()) == registered
    assert set(torch.serialization.get_safe_globals()) >= before - set(classes)


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(2))
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(2))
    return file.getvalue()


def zipped(**files: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return file.getvalue()


def scripted() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), file)
    return file.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


WHOLE = saved(STATE).getvalue()
OTHER_FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "an empty file"),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "safetensors": (safetensors, "a safetensors file: load it by safetensors.torch.load_file"),
    "zip": (lambda: zipped(readme="hello"), "a zip file"),
    "npz": (npz, "a NumPy archive"),
    "npy": (npy, "a NumPy file"),
    "TorchScript": (scripted, "a TorchScript archive: torch.jit.load it"),
    "pickle": (lambda: pickle.dumps({"a": 1}), "a pickle that torch.save did not write"),
    "old pickle": (lambda: pickle.dumps({"a": 1}, 0), "something else"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(50), "a gzip file"),
    "LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "page": (lambda: b"<!DOCTYPE html><html>", "a web page"),
    "JSON": (lambda: b'{"a": 1}', "JSON"),
    "text": (lambda: b"hello", "something else"),
    "tar": (lambda: b"a".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), "a tar file"),
    "half a file": (lambda: WHOLE[: len(WHOLE) // 2], "one cut short or damaged"),
    "all but the end": (lambda: WHOLE[:-10], "one cut short or damaged"),
    "a few bytes": (lambda: WHOLE[:30], "one cut short or damaged"),
    "half an old file": (lambda: old_format()[:400], "one cut short or damaged"),
    "most of an old file": (lambda: old_format()[:-100], "one cut short or damaged"),
}


def old_format() -> bytes:
    file = io.BytesIO()
    torch.save(STATE, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


@pytest.mark.parametrize("name", OTHER_FILES)
def test_another_kind_of_file_is_named(name: str, tmp_path: pathlib.Path) -> None:
    make, kind = OTHER_FILES[name]
    (tmp_path / "best.pt").write_bytes(make())
    for file in (tmp_path / "best.pt", io.BytesIO(make())):
        with pytest.raises(
            ValueError, match=rf"load_checkpoint: file: expected what torch\.save\(.* writes, got {kind}"
        ):
            ek.load_checkpoint(file, c_weight=5e-3)


def test_files_of_the_old_format() -> None:
    assert_same(dict(ek.load_checkpoint(io.BytesIO(old_format()), c_weight=5e-3).state_dict()), dict(STATE))


def test_a_missing_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError):
        ek.load_checkpoint(tmp_path / "none.pt", c_weight=5e-3)


@pytest.mark.parametrize("where", range(0, 100, 7))
def test_damage_never_raises_anything_else(where: int) -> None:
    """One byte of the pickle is changed: the file is rejected, or does not fit a network, or nothing changes."""
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(member for member in members if member.endswith("data.pkl"))
    data = bytearray(members[name])
    data[len(data) * where // 100] ^= 0x15
    members[name] = bytes(data)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    file.seek(0)
    try:
        ek.load_checkpoint(file, c_weight=5e-3)
    except (ValueError, TypeError, pickle.UnpicklingError) as error:
        assert str(error).startswith("load_checkpoint: ")  # noqa: PT017
