"""PELICAN networks that start from the same outputs, with spurions or with inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from equikernels.models import PELICANClassifier, PELICANRegressor
from equikernels.models.pelican_inputs import STABILIZERS

from ..support.golden import filled, jets
from ..support.pelican import SPURIONS, relative, small
from ..support.tools import boost

SHARED = {"shared_start": True}
KINDS = (PELICANClassifier, PELICANRegressor)


def output(network: Any, *event: Tensor) -> Tensor:
    found = network(*event)
    return found if isinstance(found, Tensor) else found[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dataset", ["", "qg"])
@pytest.mark.parametrize("letters", ["Mm", "sS"])
def test_first_outputs_are_the_same(kind: Any, dataset: str, letters: str) -> None:
    """Of one seed, whatever the stabilizer and the method, in evaluation; without shared_start they are not."""
    p4, ptr = jets(5, 0, 1, 4)
    event = p4, ptr, *((torch.rand(10, 12, dtype=torch.float64),) if dataset else ())

    def first(name: str, method: str, **options: Any) -> Tensor:
        torch.manual_seed(3)
        given = small(stabilizer=name, method=method, dataset=dataset, config=letters[0], config_out=letters[1])
        return output(kind(**{**given, **options}).double().eval(), *event).detach()

    reference = first("so13", "input", **SHARED)
    for name in set(STABILIZERS) - {"so13", "1_0"}:
        methods = ["spurions"] if kind is PELICANRegressor and name == "se2" else ["spurions", "input"]
        for method in methods:
            assert relative(first(name, method, **SHARED), reference) < 1e-10, (name, method)
        assert relative(first(name, "spurions"), reference) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_spurions(kind: Any) -> None:
    """They are learned from 0 on; the network sees the spurions then, and stays invariant with them."""
    p4, ptr = jets(5, 0, 4)
    network = filled(kind(**small(stabilizer="so2", **SPURIONS, **SHARED))).eval()
    assert network.spurion_weight.shape == (2,)
    assert torch.count_nonzero(kind(**small(stabilizer="so2", **SPURIONS, **SHARED)).spurion_weight) == 0
    assert kind(**small(stabilizer="so2", **SHARED)).spurion_weight is None

    at = torch.tensor([0.3, -0.2], dtype=torch.float64)

    def of(weight: Tensor) -> Tensor:
        return torch.func.functional_call(network, {"spurion_weight": weight}, (p4, ptr))

    assert torch.autograd.gradcheck(of, at.requires_grad_(), rtol=1e-5)
    network.spurion_weight.data.copy_(at.detach())
    out = output(network, p4, ptr)
    other, order = boost(0.3), torch.cat([torch.randperm(5), 5 + torch.randperm(4)])
    assert relative(output(network, p4[order], ptr), out) < 1e-12
    assert relative(output(network, p4[5:], torch.tensor([0, 4])), out[2:]) < 1e-12
    moved = p4 @ other.t()
    assert relative(output(network, moved, ptr), out) > 1e-6
    network.spurion_vectors = tuple(map(tuple, (network.spurions.double() @ other.t()).tolist()))
    expected = out if kind is PELICANClassifier else out @ other.t()
    assert relative(output(network, moved, ptr), expected) < 1e-11


def test_further_labels_keep_the_weights_of_the_others() -> None:
    made = {}
    for name in ("so13", "so2"):
        torch.manual_seed(3)
        method = "input" if name == "so13" else "spurions"
        made[name] = PELICANClassifier(**small(stabilizer=name, method=method, **SHARED))
    few, more = (made[name].eq1to2 for name in ("so13", "so2"))
    assert (few.in_dim, more.in_dim) == (1, 3)
    assert torch.equal(more.coefs[:1], few.coefs)
    assert more.coefs[1:].std() > 0
    assert more.alphas["0"].shape == (1, 3, 5, 1, 1)
    assert sum(p.numel() for p in made["so2"].parameters()) == 678 + 2  # those of the published network, two weights


@pytest.mark.parametrize("options", [{"config": "Mx"}, {"config_out": "n"}, {"irc_safe": True}, {"strict_irc": True}])
def test_what_has_no_weights_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="PELICANClassifier: shared_start: expected False, or irc_safe=False"):
        PELICANClassifier(**small(**SHARED, **options))
