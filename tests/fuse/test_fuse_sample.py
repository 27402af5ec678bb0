"""Tests fuse_ with a sample, with strict=True, and its report."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.fuse.swap import is_fused

from ..support.fuse_blocks import Layer, Lorentz, lorentz_call, runs_fused, variant


class Truncated(Lorentz):
    """Clamps values that only sums over many nodes reach; blocks are compared on few."""

    def new_h(self, h: Tensor, update: Tensor) -> Tensor:
        return h + update * (1.0 if len(h) < 12 else 0.5)


class Model(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, h: Tensor, x: Tensor, edges: Any, scalars: Tensor) -> Tensor:
        for block in self.blocks:
            h, x = block(h, x, edges, scalars)
        return h


class FromDict(Model):
    def forward(self, batch: dict[str, Any]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["h"], batch["x"], batch["edges"], batch["scalars"])


def test_what_the_sample_shows_is_unfused_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    model = Model(Lorentz(), Truncated(), Lorentz())
    ek.fuse_(model, verbose=True, sample=lorentz_call())
    assert [is_fused(block) for block in model.blocks] == [True, False, True]
    report = capsys.readouterr().out
    assert "left alone: blocks.1 (LorentzNet block?)" in report
    assert "fused: blocks.0, blocks.2 (LorentzNet block)" in report
    assert "differs by" in report


def test_samples_in_containers() -> None:
    h, x, edges, scalars = lorentz_call()
    batch = {"h": h, "x": x, "edges": edges, "scalars": scalars}
    for sample in ([batch], (batch,), batch):
        model = FromDict(Lorentz(), Truncated())
        ek.fuse_(model, sample=sample)
        assert [is_fused(block) for block in model.blocks] == [True, False]
    for keywords in ({"h": h, "x": x, "edges": edges, "scalars": scalars},):
        model = Model(Lorentz(), Truncated())
        ek.fuse_(model, sample=keywords)  # names of its arguments
        assert [is_fused(block) for block in model.blocks] == [True, False]


def test_a_graph_of_pytorch_geometrics_as_sample() -> None:
    data = pytest.importorskip("torch_geometric.data")

    class OnData(Model):
        def forward(self, batch: Any) -> Tensor:  # type: ignore[override]
            return super().forward(batch.x, batch.pos, batch.edge_index, batch.scalars)

    h, x, edges, scalars = lorentz_call()
    model = OnData(Lorentz(), Truncated())
    ek.fuse_(model, sample=data.Data(x=h.float(), pos=x.float(), edge_index=torch.stack(edges), scalars=scalars))
    assert [is_fused(block) for block in model.blocks] == [True, False]


@pytest.mark.parametrize("sample", [(), [1], {"nothing": 1}, [torch.ones(2, 3)] * 4])
def test_a_sample_that_the_model_refuses_leaves_it_as_it_was(sample: Any) -> None:
    model = Model(Lorentz(), Lorentz())
    with pytest.raises(ValueError, match="fuse_: sample: expected a call of the model, got"):
        ek.fuse_(model, sample=sample)
    assert [type(block) for block in model.blocks] == [Lorentz, Lorentz]


def test_strict_raises_and_leaves_the_model_as_it_was() -> None:
    model = Model(Lorentz(), variant(Lorentz, psi=lambda s, z: torch.asinh(z))())
    kinds = [type(block) for block in model.blocks]
    with pytest.raises(ValueError, match=r"strict: expected only blocks that can be fused, got left alone: blocks\.1"):
        ek.fuse_(model, strict=True)
    assert [type(block) for block in model.blocks] == kinds
    with pytest.raises(ValueError, match="strict"):
        ek.fuse_(Model(Lorentz(), Truncated()), strict=True, sample=lorentz_call())
    assert is_fused(ek.fuse_(Model(Lorentz(), Lorentz()), strict=True, sample=lorentz_call()).blocks[1])


def test_a_model_fused_before_stays_so_where_strict_raises() -> None:
    model = Model(Lorentz())
    ek.fuse_(model)
    model.blocks.append(variant(Lorentz, psi=lambda s, z: torch.asinh(z))())
    with pytest.raises(ValueError, match="strict"):
        ek.fuse_(model, strict=True)
    assert runs_fused(model.blocks[0].double().eval(), lorentz_call())


def test_equal_lines_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    other = variant(Lorentz, psi=lambda s, z: torch.asinh(z))
    ek.fuse_(nn.ModuleList([*(Lorentz() for _ in range(5)), Layer(), other(), other()]), verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["fused: 0, 1, ..., 4 [5] (LorentzNet block)", "fused: 5 (E_GCL)"]
    assert len(lines) == 3
    assert lines[2].startswith("left alone: 6, 7 (LorentzNet block?): its forward computes something else")
    assert "differs by" in lines[2]


def test_a_sample_changes_nothing_of_the_model() -> None:
    model = Model(Lorentz(), Lorentz())
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    ek.fuse_(model, sample=lorentz_call())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert model.training
