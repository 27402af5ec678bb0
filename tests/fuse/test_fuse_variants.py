"""fuse_ on blocks near the published ones: the same numbers, or the block's own forward."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import equikernels as ek
from equikernels.published.lorentznet import scatter_sum

from ..support.fuse_blocks import (
    Layer,
    Lorentz,
    awake,
    compare,
    fuses,
    layer_call,
    lorentz_call,
    published,
    runs_fused,
    variant,
)


@pytest.mark.parametrize("name", list(published()))
def test_published_blocks_run_fused(name: str) -> None:
    make, call = published()[name]
    compare(make, call(), fused=True)


class Clamped(Lorentz):
    def message(self, *inputs: Tensor) -> Tensor:
        return super().message(*inputs).clamp(-1000, 1000)  # not reached by small features


class Shifted(Lorentz):
    def __init__(self) -> None:
        super().__init__()
        self.shift, self.factor = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))

    def new_h(self, h: Tensor, update: Tensor) -> Tensor:
        return h + update * self.factor + self.shift


OTHER_FORMULAS: dict[str, tuple[type[nn.Module], list[Any]]] = {
    "steps summed": (variant(Lorentz, aggregate=lambda s, t, i, n: scatter_sum(t, i, n)), lorentz_call()),
    "step reversed": (variant(Lorentz, move=lambda s, x, t: x - s.c_weight * t), lorentz_call()),
    "c_weight ignored": (variant(Lorentz, move=lambda s, x, t: x + t), lorentz_call()),
    "another psi": (variant(Lorentz, psi=lambda s, z: torch.asinh(z)), lorentz_call()),
    "another clamp": (variant(Lorentz, step=lambda s, d, m: (d * s.phi_x(m)).clamp(-50, 50)), lorentz_call()),
    "no clamp": (variant(Lorentz, step=lambda s, d, m: d * s.phi_x(m)), lorentz_call()),
    "gate clamped": (variant(Lorentz, gate=lambda s, m: s.phi_m(m).clamp(1e-3, 0.999)), lorentz_call()),
    "gate by softmax": (variant(Lorentz, gate=lambda s, m: torch.softmax(s.phi_m[0](m), 0)), lorentz_call()),
    "messages clamped": (Clamped, lorentz_call()),
    "residual scaled": (variant(Lorentz, new_h=lambda s, h, u: 1.01 * h + u), lorentz_call()),
    "parameters that start at 0 and 1": (Shifted, lorentz_call()),
    "other end of messages": (variant(Layer, total=lambda s, m, e, n: scatter_sum(m, e[1], n)), layer_call()),
    "x' detached": (variant(Lorentz, result=lambda s, h, x, m: (h, x.detach())), lorentz_call()),
    "float32 inside": (variant(Lorentz, new_h=lambda s, h, u: h + u.float()), lorentz_call()),
    "x written to": (variant(Lorentz, move=lambda s, x, t: x.add_(s.c_weight * t)), lorentz_call()),
    "h written to": (variant(Lorentz, new_h=lambda s, h, u: h.add_(u)), lorentz_call()),
    "other numbers without gradients": (
        variant(Lorentz, new_h=lambda s, h, u: h + (u if torch.is_grad_enabled() else 2 * u)),
        lorentz_call(),
    ),
}


@pytest.mark.parametrize("name", list(OTHER_FORMULAS))
def test_another_formula_keeps_its_forward(name: str) -> None:
    make, args = OTHER_FORMULAS[name]
    compare(make, args, fused=False)


RESULTS: dict[str, Callable[..., Any]] = {
    "dict": lambda s, h, x, m: {"h": h, "x": x},
    "list": lambda s, h, x, m: [h, x],
    "one in a tuple": lambda s, h, x, m: (h,),
    "nested": lambda s, h, x, m: ((h, x),),
    "exchanged": lambda s, h, x, m: (x, h),
    "four": lambda s, h, x, m: (h, x, m, m),
    "float32": lambda s, h, x, m: (h.float(), x),
}


@pytest.mark.parametrize("name", list(RESULTS))
def test_results_of_another_kind_keep_their_kind(name: str) -> None:
    compare(variant(Lorentz, result=RESULTS[name]), lorentz_call(), fused=False)


def test_a_result_of_another_dtype_in_float32_is_seen() -> None:
    block = variant(Lorentz, result=lambda s, h, x, m: (h.double(), x))()
    with pytest.raises(ValueError, match=r"output 0 .*differs in shape, dtype or kind \(float32"):
        ek.fuse_(block)


class Drawing(Lorentz):
    """Draws from its own generator."""

    def __init__(self, generator: Any, draw: Callable[[Any], float]) -> None:
        super().__init__()
        self.generator, self.draw = generator, draw

    def new_h(self, h: Tensor, update: Tensor) -> Tensor:
        return h + update * (1 + (self.draw(self.generator) < 1e-4))


def from_torch(generator: torch.Generator) -> float:
    return float(torch.rand(1, generator=generator))


RANDOM: dict[str, Callable[[], nn.Module]] = {
    "dropout": variant(Lorentz, new_h=lambda s, h, u: h + F.dropout(u, 0.5, s.training)),
    "rare dropout": variant(Lorentz, new_h=lambda s, h, u: h + F.dropout(u, 1e-4, s.training)),
    "dropout in evaluation": variant(Lorentz, new_h=lambda s, h, u: h + F.dropout(u, 1e-4)),
    "NumPy's": variant(Lorentz, new_h=lambda s, h, u: h + u * (1 + (np.random.rand() < 1e-4))),  # noqa: NPY002
    "Python's": variant(Lorentz, new_h=lambda s, h, u: h + u * (1 + (random.random() < 1e-4))),
    "a generator of NumPy's": lambda: Drawing(np.random.default_rng(0), lambda g: g.random()),
    "a generator of Python's": lambda: Drawing(random.Random(0), lambda g: g.random()),
    "a generator of PyTorch's": lambda: Drawing(torch.Generator().manual_seed(0), from_torch),
}


@pytest.mark.parametrize("name", list(RANDOM))
def test_a_block_that_draws_random_numbers_keeps_its_forward(name: str) -> None:
    assert not fuses(RANDOM[name]())


class Writing(Lorentz):
    def __init__(self, write: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.write, self.seen, self.last, self.count = write, [], {}, 0
        self.register_buffer("calls", torch.zeros(1))

    def new_h(self, h: Tensor, update: Tensor) -> Tensor:
        self.write(self, update)
        return h + update


WRITES: dict[str, Callable[[Any, Tensor], Any]] = {
    "attribute": lambda s, u: setattr(s, "count", s.count + 1),
    "list": lambda s, u: s.seen.append(len(u)),
    "dict": lambda s, u: s.last.update(mean=u.mean().item()),
    "buffer": lambda s, u: s.calls.add_(1),
    "buffer that is new": lambda s, u: s.training and s.register_buffer("more", torch.ones(1)),
    "parameter": lambda s, u: s.phi_m[0].bias.data.mul_(0.9),
    "class": lambda s, u: setattr(type(s), "classwide", getattr(type(s), "classwide", 0) + 1),
    "its number in training": lambda s, u: s.training and setattr(s, "c_weight", 0.9 * s.c_weight),
}


@pytest.mark.parametrize("name", list(WRITES))
def test_a_block_that_writes_to_itself_keeps_its_forward(name: str) -> None:
    assert not fuses(Writing(WRITES[name]))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0
        self.register_buffer("table", torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.table * self.factor


class Settings:
    def __init__(self) -> None:
        self.factor = 1.0


class Adjustable(Lorentz):
    """Reads numbers from many places, each of which is 1."""

    of_class = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.nothing, self.dropout = Scale(), nn.Identity(), nn.Dropout(0.0)
        self._private, self.table, self.pair, self.settings = 1.0, {"factor": 1.0}, (1.0,), Settings()
        self.register_buffer("of_buffer", torch.ones(1))

    def factor(self) -> float:
        return 1.0

    def new_h(self, h: Tensor, update: Tensor) -> Tensor:
        factors = self._private * self.table["factor"] * self.pair[0] * self.settings.factor * self.factor()
        factors = factors * self.of_class * getattr(self, "set_later", 1.0)
        return h + self.dropout(self.nothing(self.scale(update))) * factors * self.of_buffer


CHANGES: dict[str, Callable[[Any], Any]] = {
    "a number": lambda m: setattr(m, "_private", 2.0),
    "a table": lambda m: m.table.update(factor=2.0),
    "a pair": lambda m: setattr(m, "pair", (2.0,)),
    "settings": lambda m: setattr(m.settings, "factor", 2.0),
    "a number of the class": lambda m: setattr(m, "of_class", 2.0),
    "a number that was not there": lambda m: setattr(m, "set_later", 2.0),
    "a buffer": lambda m: m.of_buffer.mul_(2),
    "a method": lambda m: setattr(m, "factor", lambda: 2.0),
    "a number of a module inside": lambda m: setattr(m.scale, "factor", 2.0),
    "a buffer of a module inside": lambda m: m.scale.table.mul_(2),
    "dropout's probability": lambda m: setattr(m.dropout, "p", 0.5),
    "a hook on nothing": lambda m: m.nothing.register_forward_hook(lambda module, args, out: 2 * out),
    "another layer": lambda m: setattr(m, "nothing", nn.ReLU()),
}


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_change_after_fuse_is_seen(name: str) -> None:
    block = compare(Adjustable, lorentz_call(), fused=False, after=CHANGES[name])
    assert type(block).__mro__[1] is Adjustable  # it was fused before


@pytest.mark.parametrize("name", ["forward", "new_h"])
def test_a_change_of_the_class_is_seen(name: str) -> None:
    kind: Any = variant(Lorentz)
    block = awake(kind()).eval()
    args = lorentz_call()
    ek.fuse_(block)
    assert runs_fused(block, args)
    replaced = {"forward": lambda self, h, x, e, a: (h, x), "new_h": lambda self, h, update: h}
    setattr(kind, name, replaced[name])
    with pytest.warns(UserWarning, match="the code of its class has changed"):
        assert torch.equal(block(*args)[0], args[0])


class Optional(Layer):
    def forward(self, h: Any, edges: Any, coord: Any, *, edge_attr: Any = None, twice: Any = False, **more: Any) -> Any:  # type: ignore[override]
        h, coord, edge_attr = self.run(h, edges, coord, edge_attr)
        return (2 * h if twice or more else h), coord, edge_attr


class Positional(Layer):
    def forward(self, h: Any, edges: Any, coord: Any, scale: Any = 1.0, *more: Any) -> Any:  # type: ignore[override]
        h, coord, edge_attr = self.run(h, edges, coord)
        return h * scale * (2 if more else 1), coord, edge_attr


@pytest.mark.parametrize("given", [{}, {"twice": True}, {"other": 1}, {"twice": torch.ones(1)}], ids=str)
def test_keywords_that_were_not_proved_run_the_own_forward(given: dict[str, Any]) -> None:
    compare(Optional, layer_call(), given, fused=not given)


@pytest.mark.parametrize(
    "given", [(), (1.0,), (2.0,), (1.0, 2), (torch.full((12, 1), 2.0),), (np.float64(2.0),)], ids=str
)
def test_arguments_that_were_not_proved_run_the_own_forward(given: tuple[Any, ...]) -> None:
    proved = not given or (len(given) == 1 and type(given[0]) is float and given[0] == 1.0)
    compare(Positional, [*layer_call(), *given], fused=proved)


@pytest.mark.parametrize("missing", ["phi_e", "phi_m", "phi_h", "c_weight"])
def test_a_block_that_lacks_something_is_left_alone(missing: str) -> None:
    block = Lorentz()
    delattr(block, missing)
    assert not fuses(block)


class Unruly(Layer):
    @property
    def phi_h(self) -> Any:
        raise RuntimeError("not yet")

    def __deepcopy__(self, memo: Any) -> Any:
        raise RuntimeError("not to be copied")


def test_a_module_that_fails_does_not_stop_the_others() -> None:
    model = nn.ModuleList([Unruly(), Layer()])
    assert fuses(model)
    assert type(model[0]) is Unruly
    assert runs_fused(model[1], [t.float() if isinstance(t, Tensor) else t for t in layer_call()])
