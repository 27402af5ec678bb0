"""Tables of complete graphs: the library's pass over host memory, and the same by PyTorch, for devices and tracing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import equikernels as ek
from equikernels import indices

PTRS = ([0], [0, 0], [0, 5], [0, 2, 2, 7, 8], [0, 0, 3, 3])


@pytest.fixture(params=PTRS, ids=str)
def ptr(request: pytest.FixtureRequest) -> Tensor:
    return torch.tensor(request.param)


def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indices, "on_host", lambda t: False)


@pytest.mark.parametrize("self_loops", [False, True])
def test_table(ptr: Tensor, self_loops: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    table, edges = indices.pairs_table(ptr, self_loops)
    strided = torch.stack([ptr, ptr + 1], dim=1)[:, 0]
    assert torch.equal(indices.pairs_table(strided, self_loops)[0], table)
    sizes = ptr.diff().tolist()
    assert edges in (None, sum(n * n if self_loops else n * (n - 1) for n in sizes))
    traced(monkeypatch)
    expected, unknown = indices.pairs_table(ptr, self_loops)
    assert unknown is None
    assert torch.equal(table, expected)


@pytest.mark.parametrize("k", [1, 2])
def test_prepended(ptr: Tensor, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each event's rows come behind the k new ones, which lie in front of all."""
    sizes = ptr.diff().tolist()
    total = sum(sizes) + k * len(sizes)
    table, source = indices.prepended(ptr, k, total)
    rows, first = [], k
    for n in sizes:
        rows += [*range(k), *range(first, first + n)]
        first += n
    assert (source is None) == (len(sizes) == 1 and indices._native.prepended is not None)
    assert (list(range(total)) if source is None else source.tolist()) == rows
    traced(monkeypatch)
    expected, places = indices.prepended(ptr, k, total)
    assert places is not None
    assert torch.equal(table, expected)
    assert places.tolist() == rows


@pytest.mark.parametrize("wrong", [[1, 2], [0, 3, 2], [0, 3]])
def test_wrong_offsets_are_refused_alike(wrong: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^Graph.complete: ptr: expected") as here:
        ek.Graph.complete(torch.tensor(wrong), num_nodes=2)
    traced(monkeypatch)
    with pytest.raises(ValueError, match=r"^Graph.complete: ptr: expected") as there:
        ek.Graph.complete(torch.tensor(wrong), num_nodes=2)
    assert str(here.value) == str(there.value)


def test_tables_made_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        graph = ek.Graph.complete(torch.tensor([0, 3]), num_nodes=3)
    assert not graph._indices.is_inference()
    assert graph._num_edges is None  # compiled code would take the number of the first batch for a constant
