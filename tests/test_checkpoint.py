"""Tests load_checkpoint on files of published LorentzNet networks."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import equikernels as ek

from .support.checkpoints import assert_same, load, published_state, saved
from .support.golden import stored

PREFIXES = ["", "module.", "mod.", "model.", "model.module.", "module.module."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("wrapper", [None, "model_state", "state_dict", "model", "model_state_dict"])
def test_save_and_load_is_identity(prefix: str, wrapper: str | None, tmp_path: Path) -> None:
    state = published_state()
    content: Any = {prefix + key: value for key, value in state.items()}
    if wrapper is not None:
        content = {"epoch": 34, "args": argparse.Namespace(lr=1e-3), wrapper: content}
    torch.save(content, tmp_path / "best.pt")
    model = ek.load_checkpoint(tmp_path / "best.pt", c_weight=1e-3)
    assert_same(model.state_dict(), state)
    again = {prefix + key: value for key, value in model.state_dict().items()}
    assert_same(again, content if wrapper is None else content[wrapper])
    assert_same(load(again).state_dict(), state)


@pytest.mark.parametrize(
    "sizes",
    [
        {"n_hidden": 72, "n_layers": 6},  # the published top tagger
        {"n_scalar": 8, "n_hidden": 72, "n_layers": 6},  # and quark/gluon tagger
        {"n_layers": 1},
        {"n_class": 5, "n_hidden": 3, "n_layers": 11},
    ],
)
def test_widths_come_from_the_file(sizes: dict[str, int]) -> None:
    state = published_state(**sizes)
    model = load(state)
    assert_same(model.state_dict(), state)
    assert model.n_scalar == sizes.get("n_scalar", 2)
    assert len(model.LGEBs) == sizes["n_layers"]
    if sizes["n_hidden" if "n_hidden" in sizes else "n_layers"] == 72:
        count = 224_072 if model.n_scalar == 2 else 227_096
        assert sum(p.numel() for p in model.parameters()) == count
        assert len(state) == 135


def test_options_and_dtype() -> None:
    state = published_state()
    model = load(state)
    assert model.readout == "padded_mean"
    assert model.graph_dec[2].p == 0.2
    assert {block.c_weight for block in model.LGEBs} == {5e-3}
    assert model.training
    assert next(model.parameters()).requires_grad
    other = load(state, c_weight=1e-3, readout="masked_mean", dropout=0.0, dtype=torch.float64)
    assert other.readout == "masked_mean"
    assert other.graph_dec[2].p == 0
    assert other.embedding.weight.dtype == torch.float64
    assert torch.equal(other.embedding.weight, state["embedding.weight"].double())
    assert load({k: v.double() if v.is_floating_point() else v for k, v in state.items()}).embedding.weight.dtype == (
        torch.float64
    )
    with pytest.raises(TypeError, match="c_weight"):
        ek.load_checkpoint(saved(state))


def test_a_loaded_network_gives_published_logits() -> None:
    g = stored("lorentznet_eval")
    model = load({"module." + key: value for key, value in g["state"].items()}, c_weight=g["cfg"]["c_weight"]).eval()
    logits = model(g["x_packed"], g["scalars_packed"], g["ptr"], padded_to=g["n_nodes"])
    torch.testing.assert_close(logits, g["logits"], rtol=1e-9, atol=0)


def test_problems_are_listed() -> None:
    state = published_state()
    bad = dict(state)
    del bad["LGEBs.0.phi_m.0.bias"], bad["LGEBs.1.phi_e.1.num_batches_tracked"]
    bad["LGEBs.1.phi_x.2.weight"] = torch.zeros(1, 8)
    bad["optimizer_step"] = torch.zeros(())
    bad["graph_dec.0.bias"] = torch.zeros(9)
    with pytest.raises(ValueError) as error:
        load(bad)
    assert str(error.value) == (
        "load_checkpoint: file: expected the keys of LorentzNet, got\n"
        "  missing: LGEBs.0.phi_m.0.bias\n"
        "  missing: LGEBs.1.phi_e.1.num_batches_tracked\n"
        "  unexpected: LGEBs.1.phi_x.2.weight\n"
        "  unexpected: optimizer_step\n"
        "  shape: graph_dec.0.bias: expected [8], got [9]"
    )
    headless = {key: value for key, value in state.items() if not key.startswith("graph_dec")}
    with pytest.raises(ValueError, match=r"LorentzNet, got\n  missing: graph_dec.3.weight"):
        load(headless)
    flat = {**state, "embedding.weight": torch.zeros(8)}
    with pytest.raises(ValueError, match=r"shape: embedding.weight: expected \[8, 8\], got \[8\]"):
        load(flat)
    hole = {key.replace("LGEBs.1.", "LGEBs.2."): value for key, value in state.items()}
    with pytest.raises(ValueError, match=r"missing: LGEBs.1.phi_e.0.weight"):
        load(hole)
    with pytest.raises(ValueError, match=r"expected keys of LorentzNet, .*, got \['fc.weight'\]"):
        load({"fc.weight": torch.zeros(2, 2)})
    twice = {**state, "module.embedding.weight": state["embedding.weight"]}
    with pytest.raises(ValueError, match=r"expected distinct keys, got 'embedding\.weight' twice"):
        load(twice)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {"state_dict": {}}, torch.zeros(2)])
def test_other_content_is_refused(content: Any) -> None:
    with pytest.raises(TypeError, match="load_checkpoint: file: expected a state dict, got"):
        load(content)


class Payload:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('a checkpoint was executed')",))


def test_nothing_in_a_file_is_executed() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"got objects of builtins.exec; none of it is executed"):
        load({"state_dict": published_state(), "payload": Payload()})
