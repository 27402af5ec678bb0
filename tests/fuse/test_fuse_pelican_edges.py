"""Tests fuse_ on PELICAN layers that work on lists of edges: the same numbers, and every wrong edge named."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

import equikernels as ek
from equikernels.published.pelican_hep import EdgeAggregators

from ..support.fused_pelican import NODES, SIZES, assert_the_same, counted, edges, outcome, padded_batch, stack
from ..support.tools import assert_as_good_as_eager


@pytest.mark.parametrize("ranks", ["2to2", "2to1", "1to2", "2to0", "0to2"])
@pytest.mark.parametrize("aggr", ["sum", "mean", "amax", "amin"])
def test_aggregators_on_edge_lists(ranks: str, aggr: str) -> None:
    for factorize, self_loops, shuffled in ((False, True, True), (True, True, False), (True, False, True)):
        torch.manual_seed(1)
        edge_index = edges(self_loops, shuffled)
        rows = {"2": edge_index.shape[1], "1": NODES.shape[0], "0": len(SIZES)}[ranks[0]]
        x = torch.randn(rows, 4, dtype=torch.float64)
        module = EdgeAggregators(ranks, 4, 3, aggr, factorize).double()
        fused = assert_the_same(module, x, edge_index, NODES)
        if ranks == "2to0":  # events without particles
            torch.testing.assert_close(fused(x, edge_index, batch=NODES, G=5), module(x, edge_index, batch=NODES, G=5))


def test_aggregators_on_edge_lists_in_float32() -> None:
    torch.manual_seed(1)
    module = EdgeAggregators("2to2", 4, 3)
    x = torch.randn(edges().shape[1], 4)
    names, eager = outcome(module, x, edges(), NODES)
    _, oracle = outcome(copy.deepcopy(module).double(), x.double(), edges(), NODES)
    _, ours = outcome(ek.fuse_(module), x, edges(), NODES)
    assert_as_good_as_eager(ours, eager, oracle, names, names[2:])


def test_edges_are_ordered_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ek.fuse_(nn.ModuleList(EdgeAggregators("2to2", 3, 3) for _ in range(3)))
    made = counted(monkeypatch, "_edge_rows")
    edge_index = edges()
    for shuffled in (edge_index, edge_index.clone(), edge_index.flip(1)):
        x = torch.randn(edge_index.shape[1], 3)
        for layer in model:
            x = layer(x, edge_index=shuffled, batch=NODES)
    assert len(made) == 2


def test_a_batch_scored_in_inference_mode_can_be_trained_on() -> None:
    torch.manual_seed(1)
    x, _, mask, nobj = padded_batch()
    edge_index = edges()
    features = torch.randn(edge_index.shape[1], 4, dtype=torch.float64)
    padded = (stack(), (x, mask, nobj))
    for module, batch in (padded, (EdgeAggregators("2to2", 4, 3), (features, edge_index, NODES))):
        with torch.autocast("cpu"):  # not active while fuse_ compares a layer
            fused = ek.fuse_(module.double().eval())
        with torch.inference_mode():
            score = fused(*batch)
        out = fused(*batch)
        torch.testing.assert_close(out, score)
        out.sum().backward()


def test_with_an_edge_too_many_or_too_few_the_own_forward_runs_and_the_edge_is_named() -> None:
    own = EdgeAggregators("2to1", 3, 2)
    whole = edges(shuffled=False)  # (0, 0), (0, 1), (0, 2), (1, 0), ...

    def message(edge_index: Tensor, batch: Tensor = NODES) -> str:
        fused = ek.fuse_(copy.deepcopy(own))
        x = torch.randn(edge_index.shape[1], 3)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                out = fused(x, edge_index, batch)
            except Exception as error:  # as its own forward does
                with pytest.raises(type(error)):
                    own(x, edge_index, batch)
            else:
                assert torch.equal(out, own(x, edge_index, batch))
        return str(warned[0].message).partition("runs: ")[2]

    keep = torch.ones(whole.shape[1], dtype=torch.bool)
    keep[3] = False
    assert message(whole[:, keep]) == "fuse_: edge_index: expected the reverse of every edge, got (0, 1) without (1, 0)"
    keep[1] = False
    assert message(whole[:, keep]) == "fuse_: edge_index: expected all pairs of event 0, got no edge (0, 1)"
    assert "all pairs of event 0, got no edge (0, 0)" in message(whole[:, 1:])
    assert "every edge once, got (0, 0) twice" in message(torch.cat([whole, whole[:, :1]], 1))
    across = torch.cat([whole, torch.tensor([[0], [3]])], 1)
    assert "edges inside events, got (0, 3) between two" in message(across)
    assert "particles from 0 to 8, got 9" in message(torch.cat([whole, torch.tensor([[0], [9]])], 1))
    assert "batch: expected the events of particles in order" in message(whole, NODES.flip(0))
