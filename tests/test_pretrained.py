"""The trained networks of the package: their numbers, their formulas, and what their cards say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels import metrics
from equikernels.data import Jets, top_tagging_scalars, with_beams
from equikernels.demo import NETWORKS
from equikernels.pretrained import FOLDER

from .support import ROOT


@torch.inference_mode()
def scores(model: torch.nn.Module, jets: Jets) -> Tensor:
    parts = []
    for batch in jets.batches(100):
        x, ptr, is_beam = with_beams(batch.p4, batch.ptr)
        parts.append(model(x.float(), top_tagging_scalars(x, is_beam).float(), ptr).softmax(1)[:, 1])
    return torch.cat(parts)


@pytest.mark.parametrize("name", ek.pretrained_names())
def test_a_tagger_is_as_good_as_its_card_says(name: str) -> None:
    """The sample jets are a quarter of those of the card; none was trained on."""
    card, jets = ek.pretrained_card(name), ek.data.load_sample_jets()
    model = ek.load_pretrained(name)
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    found = metrics.summary(scores(model, jets), jets.label)
    assert card["test"]["auc"] >= 0.985
    assert found["auc"] == pytest.approx(card["test"]["auc"], abs=3e-3)
    assert found["accuracy"] == pytest.approx(card["test"]["accuracy"], abs=1.5e-2)
    assert all(card["config"]["data"][part] is None for part in ("train", "validation", "test"))


@pytest.mark.parametrize("name", ek.pretrained_names())
def test_files_are_small_and_have_a_card(name: str) -> None:
    folder = ROOT / "equikernels" / FOLDER
    assert (folder / f"{name}.npz").stat().st_size < 2**20
    text = (folder / f"{name}.md").read_text()
    assert "not comparable with the literature" in text
    assert f"{ek.pretrained_card(name)['test']['auc']:.4f}" in text


def test_a_score_does_not_depend_on_other_jets() -> None:
    model, jets = ek.load_pretrained("lorentznet-top").double(), ek.data.load_sample_jets()[:12]
    x, ptr, is_beam = with_beams(jets.p4.double(), jets.ptr)
    scalars = top_tagging_scalars(x, is_beam)
    first = slice(int(ptr[4]), int(ptr[5]))
    with torch.no_grad():
        together = model(x, scalars, ptr)
        alone = model(x[first], scalars[first], torch.tensor([0, first.stop - first.start]))
    torch.testing.assert_close(alone[0], together[4], rtol=1e-9, atol=1e-9)


def test_both_sides_of_the_demo_are_the_tagger() -> None:
    sides = NETWORKS["Tagger"].models()
    sides["published"].load_state_dict(sides["equikernels"].state_dict())
    jets = ek.data.load_sample_jets()[:6]
    arguments = {side: NETWORKS["Tagger"].inputs(side, jets, torch.float32, 80) for side in sides}
    with torch.no_grad():
        ours, theirs = (sides[side].eval()(*arguments[side]) for side in ("equikernels", "published"))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="load_pretrained: name: expected one of lorentznet-top, got 'lorentznet'"):
        ek.load_pretrained("lorentznet")
