"""fuse_ on EuclidNet's released blocks and on the Interaction Network."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels import published
from equikernels.fuse.swap import is_fused

from ..support.golden import filled
from ..support.hits import hits
from ..support.points import close, weighted

MODELS = {
    "SO(2)": lambda: published.EuclidNetSO2(6, 2, 2, 0.1),
    "IN": lambda: published.InteractionNetwork(8, 2),
}


def run(model: nn.Module, x: Tensor, a: Tensor) -> Tensor:
    p = hits()
    return model(x, p.graph.edge_index, a) if isinstance(model, published.InteractionNetwork) else model(x, p.rows)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [False, True])
def test_numbers_and_gradients_are_the_models_own(name: str, training: bool) -> None:
    results = []
    for fused in (False, True):
        model = filled(MODELS[name]()).train(training)
        keys = list(model.state_dict())
        if fused:
            assert ek.fuse_(model) is model
            assert any(is_fused(m) for m in model.modules())
            assert list(model.state_dict()) == keys
        x, a = (t.clone().requires_grad_() for t in (hits().x, hits().edge_attr))
        out = run(model, x, a)
        leaves = [x, *([a] if name == "IN" else []), *model.parameters()]
        grads = torch.autograd.grad(weighted(out), leaves, allow_unused=True)
        results.append([out, *(torch.zeros(1).double() if g is None or not g.any() else g for g in grads)])
        if fused:
            ek.unfuse_(model)
            close([run(model, x, a)], results[0][:1])
    close(*results)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_fused_is_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ek.fuse_(MODELS[name](), verbose=True)
    kind = {"SO(2)": "EB (EuclidNet SO(2) block)"}
    report = capsys.readouterr().out
    assert f"fused: {kind.get(name, 'InteractionNetwork (InteractionNetwork)')}" in report
    assert "left alone" not in report


def test_a_block_that_gains_nothing_is_left_alone() -> None:
    with pytest.raises(ValueError, match=r"EBs.0 \(EuclidNet SO\(3\) block\?\): its own forward is faster"):
        ek.fuse_(published.EuclidNetSO3(6, 2, 0.1))


class Other(published.euclidnet.EB):
    """Like the released block, but twice the step."""

    def forward(self, v: Tensor, edge_index: Tensor, s: Tensor, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        moved, s, e = super().forward(v, edge_index, s, e)
        return 2 * moved - v, s, e


def test_another_formula_is_left_alone() -> None:
    model = nn.ModuleList([Other(4, 2, 0.1)])
    with pytest.raises(ValueError, match="computes something else"):
        ek.fuse_(model)
    wide = published.euclidnet.EB(4, 2, 0.1)
    wide.phi_s = nn.Sequential(nn.Linear(9, 4))
    with pytest.raises(ValueError, match="other widths"):
        ek.fuse_(wide)
    net = published.InteractionNetwork(8)
    net.O.layers[4] = nn.Linear(8, 2)
    with pytest.raises(ValueError, match="do not fit each other"):
        ek.fuse_(net)


@pytest.mark.parametrize("name", MODELS)
def test_autocast_gives_the_dtype_of_its_own_forward(name: str) -> None:
    own = MODELS[name]().float().eval()
    fused = ek.fuse_(copy.deepcopy(own))
    x, a = hits().x.float(), hits().edge_attr.float()
    with torch.autocast("cpu", torch.bfloat16), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(run(fused, x, a), run(own, x, a))
        assert run(fused, x, a).dtype == run(own, x, a).dtype
