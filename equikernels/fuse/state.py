"""What a user's module keeps beside parameters and layers: it must stay as it was when the module was compared."""

from __future__ import annotations

import hashlib
import random
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..nn.plain import Layers, kind_of

SIMPLE = (bool, int, float, str, type(None), types.FunctionType, types.BuiltinFunctionType)
# What every module keeps, and what PyTorch and a recipe add.
INTERNAL = frozenset(vars(nn.Module())) | {"equikernels_recipe", "_former_parameters", "_compiled_call_impl"}
MANY = 1000  # entries of a container, up to which they are looked at


@dataclass
class Kept:
    """The attributes of one module: numbers, strings, flags and functions, containers and objects, tables."""

    path: str
    code: str
    place: int = 0  # among the layers of the block
    names: tuple[str, ...] = ()
    values: Any = None
    objects: dict[str, Any] = field(default_factory=dict)  # their fingerprints
    tables: dict[str, Tensor] = field(default_factory=dict)
    known: frozenset[str] = frozenset()  # names of all attributes
    size: int = 0  # how many there are in a fused block
    read: Any = None

    @classmethod
    def of(cls, path: str, module: nn.Module, live: Sequence[str]) -> Kept:
        known = frozenset(vars(module)) | ({"equikernels_recipe"} if path == "" else set())
        made = cls(path, source(type(module)).code, known=known, size=len(known))
        if isinstance(module, _BatchNorm):  # statistics and momentum are read at every call
            return made
        kept = {n: v for n, v in vars(module).items() if n not in INTERNAL and n not in live}
        made.names = tuple(name for name, value in kept.items() if isinstance(value, SIMPLE))
        made.read = itemgetter(*made.names) if made.names else None
        made.values = made.read(kept) if made.names else None
        tables = {**kept, **module._buffers}
        made.tables = {n: t.detach().clone() for n, t in tables.items() if isinstance(t, Tensor) and n not in live}
        made.objects = {n: fingerprint(v) for n, v in kept.items() if not isinstance(v, (*SIMPLE, Tensor))}
        return made

    def changed(self, module: nn.Module, compiling: bool) -> str | None:
        """What is no longer so, in words. A compiler looks at numbers, strings and flags only."""
        if compiling:
            return self._changed_value(module)
        state = module.__dict__
        kind = source(type(module))
        if kind.code != self.code:
            return "the code of its class has changed"
        try:
            same = self.read is None or self.read(state) == self.values
        except KeyError:
            same = False
        if not same and (found := self._changed_value(module)):
            return found
        for name, value in self.objects.items():
            if name not in state or fingerprint(state[name]) != value:
                return f"{name} has changed since it was fused"
        for name, table in self.tables.items():
            if not _same(getattr(module, name, None), table):
                return f"{name} was {table!r} when it was fused, and is {getattr(module, name, None)!r}"
        if len(state) != self.size and state.keys() != self.known:
            for name in state.keys() - self.known:
                if name in kind.mentioned and name not in self.tables and not isinstance(state[name], Tensor):
                    return f"{name} has been set since it was fused"
        return None

    def _changed_value(self, module: nn.Module) -> str | None:
        values = self.values if len(self.names) > 1 else (self.values,)
        for name, value in zip(self.names, values, strict=False):
            now = getattr(module, name, _MISSING)
            if now is not value and not (type(now) is type(value) and now == value):
                return f"{name} was {value!r} when it was fused, and is {now!r}"
        return None


_MISSING = object()


def kept_by(module: nn.Module, layers: Layers, live: Sequence[str]) -> list[Kept]:
    """Of a block, and of the modules inside that are of no class of PyTorch's."""
    found = [Kept.of("", module, live)]
    for place, (path, m) in enumerate(layers):
        if not _of_torch(m):
            found.append(Kept.of(path, m, ()))
            found[-1].place = place
    return found


def attributes(module: nn.Module) -> dict[str, Any]:
    """Fingerprints of what a module and those inside keep, and the code of their classes."""
    found: dict[str, Any] = {}
    for path, m in module.named_modules():
        for name, value in vars(m).items():
            if name not in INTERNAL or name == "training":
                found[f"{path}.{name}".lstrip(".")] = fingerprint(value)
        found[f"the class {type(m).__name__}"] = source(type(m)).values
    return found


def fingerprint(value: Any, depth: int = 5) -> Any:
    """Something that is equal as long as a value holds the same."""
    if isinstance(value, (*SIMPLE, type, complex, bytes, torch.dtype, torch.device)):
        return value
    if isinstance(value, Tensor):
        contents = value.detach().flatten()[:MANY].tolist() if value.device.type == "cpu" else value._version
        return "tensor", tuple(value.shape), str(value.dtype), repr(contents)
    if isinstance(value, np.ndarray):
        return "array", value.shape, str(value.dtype), value.tobytes() if value.size <= MANY else id(value)
    if (state := _random_state(value)) is not None:
        return state
    if depth == 0 or isinstance(value, nn.Module):
        return "object", id(value)
    kind = type(value)
    if isinstance(value, dict):
        return kind, len(value), tuple((fingerprint(k), fingerprint(v, depth - 1)) for k, v in [*value.items()][:MANY])
    if isinstance(value, list | tuple):
        return kind, len(value), tuple(fingerprint(v, depth - 1) for v in value[:MANY])
    if isinstance(value, set | frozenset):
        return kind, len(value), tuple(sorted(repr(v) for v in value))
    inside = getattr(value, "__dict__", None)
    return ("object", id(value)) if inside is None else (kind, fingerprint(inside, depth - 1))


def _random_state(value: Any) -> Any:
    """The state of a random number generator."""
    if isinstance(value, torch.Generator):
        return "generator", value.get_state().numpy().tobytes()
    if isinstance(value, np.random.Generator):
        return "generator", repr(value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return "generator", repr(value.get_state())
    return ("generator", value.getstate()) if isinstance(value, random.Random) else None


def random_states() -> tuple[Any, ...]:
    """Of the generators that Python, NumPy and PyTorch share."""
    numbers = repr(np.random.get_state(legacy=False))  # noqa: NPY002 (users draw from it)
    return random.getstate(), numbers, torch.get_rng_state().numpy().tobytes()


def _of_torch(module: nn.Module) -> bool:
    return getattr(kind_of(module), "__module__", "").startswith("torch.nn.modules.")


def _same(now: Any, table: Tensor) -> bool:
    alike = isinstance(now, Tensor) and now.shape == table.shape and now.device == table.device
    # Elsewhere than on the CPU a comparison would wait for the device.
    return alike and (torch.compiler.is_compiling() or not table.is_cpu or torch.equal(now.to(table.dtype), table))


class Source:
    """The code of a class: a hash, and all names in it. Known again by the values of its dictionaries."""

    __slots__ = ("classes", "code", "mentioned", "values")

    def __init__(self, classes: list[type], values: list[dict[str, Any]]) -> None:
        self.classes, self.values = classes, values
        digest, names = hashlib.sha256(), set()
        for kind in classes:
            for name, value in sorted(vars(kind).items()):
                function = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(function, types.FunctionType):
                    for code in _codes(function.__code__):
                        texts = [_text(c) for c in code.co_consts]
                        digest.update(repr((name, code.co_names, texts)).encode() + code.co_code)
                        names |= {*code.co_names, *(c for c in code.co_consts if isinstance(c, str))}
                elif isinstance(value, SIMPLE) and name not in ("__doc__", "__firstlineno__"):
                    digest.update(repr((name, value)).encode())
        self.code, self.mentioned = digest.hexdigest(), frozenset(names)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _text(constant: Any) -> str:
    if isinstance(constant, types.CodeType):
        return constant.co_name
    return repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)


_sources: dict[type, Source] = {}


def source(kind: type) -> Source:
    """The code of a user's class and of those it derives from, PyTorch's own left out."""
    known = _sources.get(kind)
    if known is not None:
        try:
            if [*map(vars, known.classes)] == known.values:
                return known
        except Exception:  # values that do not like to be compared
            known = None
    own = getattr(kind, "equikernels_own", kind)
    classes = [c for c in own.__mro__ if not c.__module__.startswith(("torch.", "builtins", "abc", "typing"))]
    made = Source(classes, [dict(vars(c)) for c in classes])
    _sources[kind] = made
    return made
