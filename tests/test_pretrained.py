"""The trained networks of the package: their numbers, their formulas, and what their cards say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels import metrics
from equikernels.data import Jets
from equikernels.demo import NETWORKS
from equikernels.pretrained import FOLDER
from equikernels.train.tasks import TASKS, JetBatch

from .support import ROOT

LEAST = {"lorentznet-top": 0.985, "pelican-top": 0.985}  # AUC of the cards


def logits(name: str, model: torch.nn.Module, jets: Jets) -> Tensor:
    """In the dtype of the weights."""
    dtype = next(model.parameters()).dtype
    batch = JetBatch(jets.p4, jets.ptr, jets.label)
    out: Tensor = model(*TASKS[ek.pretrained_card(name)["config"]["network"]].arguments(batch, dtype, False))
    return out


@pytest.mark.parametrize("name", ek.pretrained_names())
def test_a_tagger_is_as_good_as_its_card_says(name: str) -> None:
    """The sample jets are a quarter of those of the card; none was trained on."""
    card, jets = ek.pretrained_card(name), ek.data.load_sample_jets()
    model = ek.load_pretrained(name)
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    with torch.inference_mode():
        scores = torch.cat([logits(name, model, batch).softmax(1)[:, 1] for batch in jets.batches(100)])
    found = metrics.summary(scores, jets.label)
    assert card["test"]["auc"] >= LEAST[name]
    assert found["auc"] == pytest.approx(card["test"]["auc"], abs=3e-3)
    assert found["accuracy"] == pytest.approx(card["test"]["accuracy"], abs=1.5e-2)
    assert all(card["config"]["data"][part] is None for part in ("train", "validation", "test"))


@pytest.mark.parametrize("name", ek.pretrained_names())
def test_files_are_small_and_have_a_card(name: str) -> None:
    folder = ROOT / "equikernels" / FOLDER
    assert (folder / f"{name}.npz").stat().st_size < 2**20
    text = (folder / f"{name}.md").read_text()
    assert "not comparable with the literature" in text
    auc = f"{ek.pretrained_card(name)['test']['auc']:.4f}"
    assert auc in text
    page = (ROOT / "docs" / "training.md").read_text().splitlines()
    assert any(line.startswith(f"| `{name}` |") and auc in line for line in page)


@pytest.mark.parametrize("name", ek.pretrained_names())
def test_a_score_does_not_depend_on_other_jets(name: str) -> None:
    model, jets = ek.load_pretrained(name).double(), ek.data.load_sample_jets()[:12].to(dtype=torch.float64)
    with torch.no_grad():
        together, alone = (logits(name, model, part) for part in (jets, jets[4:5]))
    torch.testing.assert_close(alone[0], together[4], rtol=1e-9, atol=1e-9)


def test_a_score_of_pelican_does_not_depend_on_the_azimuth() -> None:
    """That of LorentzNet does, as its card says: the clamp of its coordinate steps acts on each component."""
    name = "pelican-top"
    model, jets = ek.load_pretrained(name).double(), ek.data.load_sample_jets()[:12].to(dtype=torch.float64)
    turn = torch.eye(4, dtype=torch.float64)
    turn[1:3, 1:3] = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    with torch.no_grad():
        before, after = (logits(name, model, Jets(p4, jets.ptr, jets.label)) for p4 in (jets.p4, jets.p4 @ turn.T))
    torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)


def test_both_sides_of_the_demo_are_the_tagger() -> None:
    sides = NETWORKS["Tagger"].models()
    sides["published"].load_state_dict(sides["equikernels"].state_dict())
    jets = ek.data.load_sample_jets()[:6]
    arguments = {side: NETWORKS["Tagger"].inputs(side, jets, torch.float32, 80) for side in sides}
    with torch.no_grad():
        ours, theirs = (sides[side].eval()(*arguments[side]) for side in ("equikernels", "published"))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name: expected one of lorentznet-top, pelican-top, got 'lorentznet'"):
        ek.load_pretrained("lorentznet")
