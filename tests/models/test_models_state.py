"""Tests construction, casts and copies of networks: meta device, skipped initialisation, other dtypes."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.models import pelican_inputs

from ..support.networks import NETWORKS, SPURIONS, events
from ..support.pelican import small


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    with torch.no_grad():
        out = model.eval()(*inputs)
    return [out] if isinstance(out, Tensor) else list(out)


def same(model: nn.Module, inputs: tuple[Any, ...], expected: list[Tensor]) -> None:
    for got, want in zip(outputs(model, inputs), expected, strict=True):
        assert torch.equal(got, want)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[Callable[[], nn.Module], nn.Module, tuple[Any, ...], list[Tensor]]:
    make, make_inputs = NETWORKS[request.param]
    model, inputs = make(), make_inputs()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return make, model, inputs, outputs(model, inputs)


def _to_empty(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        model = make()
    model = model.to_empty(device="cpu")
    for t in [*model.parameters(), *model.buffers()]:
        t.data.fill_(77)  # possible content of uninitialised memory
    model.load_state_dict(state)
    return model


def _assigned(make: Callable[[], nn.Module], state: dict[str, Tensor]) -> nn.Module:
    with torch.device("meta"):
        model = make()
    model.load_state_dict(state, assign=True)
    return model


WAYS = {"to_empty": _to_empty, "assign": _assigned}


@pytest.mark.parametrize("way", WAYS)
def test_made_on_the_meta_device(network: Any, way: str) -> None:
    make, model, inputs, expected = network
    pelican_inputs._made.clear()
    same(WAYS[way](make, model.state_dict()), inputs, expected)


def test_copies_give_the_same(network: Any) -> None:
    _, model, inputs, expected = network
    same(copy.deepcopy(model), inputs, expected)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    same(torch.load(file, weights_only=False), inputs, expected)


def test_everything_that_is_no_parameter_is_in_the_state_dict(network: Any) -> None:
    _, model, _, _ = network
    assert {name for name, _ in model.named_buffers()} <= set(model.state_dict())
    for module in model.modules():
        kept = [name for name, value in vars(module).items() if isinstance(value, Tensor)]
        assert kept == []


def test_casting_there_and_back_loses_nothing_but_digits(network: Any) -> None:
    """Constants stay exact under casts of the weights: float64 results are equal before and after a cast to float16."""
    make, model, inputs, _ = network
    wide = [t.double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in inputs]
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    straight = make()
    straight.load_state_dict(state)
    expected = outputs(straight.double(), tuple(wide))
    same(copy.deepcopy(model).half().double(), tuple(wide), expected)


def test_skip_init() -> None:
    """PyTorch's skip_init makes modules on the meta device; it requires a parameter ``device``."""
    for kind, options in ((ek.models.PELICANClassifier, small(**SPURIONS)), (ek.models.PELICANNano, {"n_hidden": 2})):
        model = kind(**options)
        twin = torch.nn.utils.skip_init(kind, **options)
        twin.load_state_dict(model.state_dict())
        inputs = tuple(events().values())
        same(twin, inputs, outputs(model, inputs))


INT = np.int64
NUMPY: dict[str, Callable[[], nn.Module]] = {
    "LorentzNet": lambda: ek.models.LorentzNet(INT(2), INT(8), INT(2), INT(2)),
    "VecNet": lambda: ek.models.VecNet(INT(2), INT(8), INT(4), INT(3), INT(2), INT(2)),
    "EGNN": lambda: ek.models.EGNN(INT(5), INT(8), INT(3), INT(0), n_layers=INT(2)),
    "EGNNVelocity": lambda: ek.models.EGNNVelocity(INT(5), INT(0), INT(8), n_layers=INT(2)),
    "RadialField": lambda: ek.models.RadialField(INT(8), INT(0), n_layers=INT(2)),
    "EuclidNet": lambda: ek.models.EuclidNet(INT(8), INT(3), INT(2)),
    "EuclidNet, paper": lambda: ek.models.EuclidNet(INT(8), INT(3), INT(2), variant="paper"),
    "InteractionNetwork": lambda: ek.models.InteractionNetwork(INT(8), INT(2)),
    "VecNetTracking": lambda: ek.models.VecNetTracking(INT(8), INT(4), INT(3), INT(3), INT(2)),
    "PELICANNano": lambda: ek.models.PELICANNano(INT(2), average_nobj=INT(49)),
    "PELICANClassifier": lambda: ek.models.PELICANClassifier(
        num_channels_scalar=INT(2),
        num_channels_m=[[INT(5)]],
        num_channels_2to2=[INT(3)],
        num_channels_out=[INT(4)],
        num_channels_m_out=[INT(5), INT(3)],
        num_classes=INT(3),
        **SPURIONS,
    ),
}


@pytest.mark.parametrize("name", NUMPY)
def test_sizes_may_be_integers_of_numpy(name: str) -> None:
    model, inputs = NUMPY[name](), NETWORKS[name][1]()
    assert all(out.isfinite().all() for out in outputs(model, inputs))
    width = next(k for k, t in enumerate(inputs) if isinstance(t, Tensor) and t.is_floating_point())
    wrong = [t[:, 1:] if k == width else t for k, t in enumerate(inputs)]
    with pytest.raises((ValueError, TypeError), match="expected"):  # they are checked like Python's
        model(*wrong)
    if name in ("LorentzNet", "VecNet"):
        with pytest.raises(ValueError, match=r"Net: scalars: expected shape \[10, 2\]"):
            model(inputs[0], inputs[1][:, 1:], *inputs[2:])


def test_constants_are_cached_and_not_inference_tensors() -> None:
    model = ek.models.PELICANClassifier(**small(**SPURIONS)).eval()
    inputs = tuple(events().values())
    pelican_inputs._made.clear()
    with torch.inference_mode():
        expected = model(*inputs)
    kept = list(pelican_inputs._made.values())
    assert kept
    assert not any(t.is_inference() for t in kept)
    model.spurions.fill_(5)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        pelican_inputs.constant(((1.0, 2.0),), torch.zeros(1))
    same(model, inputs, [expected])
    assert [id(t) for t in pelican_inputs._made.values()] == [id(t) for t in kept]
