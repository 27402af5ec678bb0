"""Tests sets of jets: indices, order, parts, files, loaders."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equikernels.data import Jets
from equikernels.data.loader import Batches


def made(counts: list[int]) -> Jets:
    """Jets whose rows and labels say which they are."""
    n = sum(counts)
    p4 = torch.arange(4.0 * n).reshape(n, 4)
    features = {"pdg_id": torch.arange(n), "track": torch.arange(2.0 * n).reshape(n, 2)}
    return Jets(p4, torch.tensor([0, *counts]).cumsum(0), torch.arange(len(counts)), features)


JETS = made([3, 0, 5, 1, 2, 4, 0, 7])


def one(jets: Jets, b: int) -> list[Any]:
    rows = slice(int(jets.ptr[b]), int(jets.ptr[b + 1]))
    return [jets.p4[rows].tolist(), int(jets.label[b]), {n: c[rows].tolist() for n, c in jets.features.items()}]


def same(jets: Jets, of: Jets, index: list[int]) -> None:
    assert len(jets) == len(index)
    assert jets.ptr[0] == 0
    for b, k in enumerate(index):
        assert one(jets, b) == one(of, k)


INDICES: dict[str, tuple[Callable[[], Any], list[int]]] = {
    "a mask": (lambda: torch.tensor([True, True, False, False, False, True, False, True]), [0, 1, 5, 7]),
    "a mask of numpy": (lambda: np.arange(8) % 3 == 1, [1, 4, 7]),
    "a mask of a list": (lambda: [False] * 7 + [True], [7]),
    "no jet": (lambda: [], []),
    "a mask of none": (lambda: JETS.label > 99, []),
    "a list": (lambda: [7, 0, 0, -1], [7, 0, 0, 7]),
    "a tensor": (lambda: torch.tensor([2, 1], dtype=torch.int32), [2, 1]),
    "an array": (lambda: np.array([6, -8]), [6, 0]),
    "steps": (lambda: slice(1, None, 3), [1, 4, 7]),
    "backwards": (lambda: slice(None, None, -1), [7, 6, 5, 4, 3, 2, 1, 0]),
    "a range": (lambda: slice(2, 4), [2, 3]),
}


@pytest.mark.parametrize("name", INDICES)
def test_indices(name: str) -> None:
    make, index = INDICES[name]
    same(JETS[make()], JETS, index)


@pytest.mark.parametrize(
    ("index", "kind", "message"),
    [
        (3, TypeError, "a slice, a mask or a list of indices, got 3"),
        ([0.5], TypeError, "integers or a mask, got torch.float32"),
        ([0, 8], IndexError, "indices of 8 jets, got 8"),
        ([-9], IndexError, "indices of 8 jets, got -9"),
        ([True, False], ValueError, "a mask of 8 jets, got one of 2"),
        (torch.zeros(2, 2), TypeError, "a slice, a mask or a list of indices"),
    ],
)
def test_wrong_indices(index: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^Jets: jets: expected {message}"):
        JETS[index]


def test_features_have_the_rows_of_the_momenta() -> None:
    with pytest.raises(ValueError, match=r"Jets: features\['charge'\]: expected shape \[22, ...\], got \[3\]"):
        Jets(JETS.p4, JETS.ptr, JETS.label, {"charge": torch.zeros(3)})


def test_shuffle_and_split() -> None:
    shuffled = JETS.shuffle(3)
    order = shuffled.label.tolist()
    assert sorted(order) == list(range(8))
    assert order != list(range(8))
    same(shuffled, JETS, order)
    assert torch.equal(JETS.shuffle(3).label, shuffled.label)
    assert not torch.equal(JETS.shuffle(4).label, shuffled.label)

    parts = JETS.split([0.5, 0.25, 0.25], seed=3)
    assert [len(part) for part in parts] == [4, 2, 2]
    assert torch.equal(torch.cat([part.label for part in parts]), shuffled.label)
    same(JETS.split([0.25, 0.5])[1], JETS, [2, 3, 4, 5])
    assert sum(len(part) for part in made([1] * 101).split([1 / 3, 1 / 3, 1 / 3])) == 101
    for wrong in ([], [0.9, 0.2], [-0.1, 0.5], [float("nan")]):
        with pytest.raises(ValueError, match=r"Jets.split: fractions: expected numbers from 0 to 1"):
            JETS.split(wrong)


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=4))
def test_concatenate(sizes: list[list[int]]) -> None:
    whole = made([n for part in sizes for n in part])
    ends = np.cumsum([0, *(len(part) for part in sizes)]).tolist()
    again = Jets.concatenate([whole[lo:hi] for lo, hi in pairwise(ends)])
    same(again, whole, list(range(len(whole))))


def test_what_does_not_join() -> None:
    with pytest.raises(ValueError, match=r"Jets.concatenate: parts: expected at least one part, got none"):
        Jets.concatenate([])
    with pytest.raises(ValueError, match=r"parts\[1\]: expected features \['pdg_id', 'track'\], got \[\]"):
        Jets.concatenate([JETS, Jets(JETS.p4, JETS.ptr, JETS.label)])


def test_to() -> None:
    double = JETS.to(dtype=torch.float64)
    assert double.p4.dtype == torch.float64
    assert double.features["track"].dtype == torch.float32
    assert JETS.to("cpu").p4 is JETS.p4
    assert JETS.to("meta").features["pdg_id"].device.type == "meta"


def test_save_and_load(tmp_path: Path) -> None:
    for name in ("jets.npz", "jets"):
        JETS.save(tmp_path / name)
        again = Jets.load(tmp_path / name)
        same(again, JETS, list(range(8)))
        assert {n: c.dtype for n, c in again.features.items()} == {"pdg_id": torch.int64, "track": torch.float32}
    np.savez(tmp_path / "other.npz", p4=np.zeros((1, 4)))
    with pytest.raises(ValueError, match=r"Jets.load: .*: expected arrays p4, ptr and label, got no label, ptr"):
        Jets.load(tmp_path / "other.npz")


def test_load_runs_no_code(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], dtype=object), allow_pickle=True)
    JETS.save(tmp_path / "jets.npz")
    with zipfile.ZipFile(tmp_path / "jets.npz", "a") as archive:
        archive.writestr("feature_x.npy", buffer.getvalue())
    with pytest.raises(ValueError, match="allow_pickle=False"):
        Jets.load(tmp_path / "jets.npz")


def seen(loader: Any) -> list[list[int]]:
    return [batch.label.tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_batches(workers: int) -> None:
    loader = JETS.loader(3, workers=workers)
    batches = list(loader)
    assert len(loader) == 3
    for batch, index in zip(batches, ([0, 1, 2], [3, 4, 5], [6, 7]), strict=True):
        same(batch, JETS, index)
    assert seen(JETS.loader(3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert seen(JETS.loader(99)) == [list(range(8))]
    assert seen(JETS[:0].loader(2)) == []


@pytest.mark.parametrize("bucket", [0, 2])
def test_a_shuffled_loader(bucket: int) -> None:
    loader = JETS.loader(3, True, bucket=bucket, seed=5)
    first, second = seen(loader), seen(loader)
    assert first != second  # another epoch
    for epoch in (first, second):
        assert sorted(label for batch in epoch for label in batch) == list(range(8))
    assert seen(JETS.loader(3, True, bucket=bucket, seed=5, workers=2)) == first
    again = JETS.loader(3, True, bucket=bucket, seed=5)
    again.batch_sampler.sampler.set_epoch(1)  # type: ignore[union-attr]
    assert seen(again) == second
    assert seen(JETS.loader(3, True, bucket=bucket, seed=6)) != first
    for batch in JETS.loader(3, True, bucket=bucket, seed=5):
        same(batch, JETS, batch.label.tolist())


def test_buckets_hold_similar_multiplicities() -> None:
    counts = torch.randint(1, 100, (400,))

    def padding(bucket: int) -> int:
        batches = Batches(counts, 20, True, bucket)
        return sum(int((counts[b].max() - counts[b]).sum()) for b in map(torch.tensor, batches))

    assert padding(10) < padding(0) / 3
    sizes = [len(batch) for batch in Batches(counts[:390], 20, True, 5)]
    assert sorted(sizes) == [10, *[20] * 19]
    assert all(len(batch) == 20 for batch in Batches(counts[:390], 20, True, 5, drop_last=True))


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_shards_cover_the_jets(processes: int, shuffle: bool) -> None:
    loaders = [JETS.loader(2, shuffle, seed=1, shard=(rank, processes)) for rank in range(processes)]
    for _ in range(2):
        epochs = [seen(loader) for loader in loaders]
        for step in zip(*epochs, strict=True):  # of the same sizes everywhere
            assert len({len(batch) for batch in step}) == 1
        every = [label for epoch in epochs for batch in epoch for label in batch]
        assert set(every) == set(range(8))
        assert len(every) == 8 + -8 % processes


@pytest.mark.parametrize("bucket", [0, 2])
def test_shards_are_parts_of_the_batches_of_one_process(bucket: int) -> None:
    jets = made(list(range(24)))
    options: dict[str, Any] = {"bucket": bucket, "seed": 1}
    one = seen(jets.loader(6, True, **options))
    two = [seen(jets.loader(3, True, shard=(rank, 2), **options)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*two, strict=True)] == [sorted(batch) for batch in one]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"bucket": 3}, "bucket: expected 0 without shuffle"),
        ({"bucket": -1, "shuffle": True}, "bucket: expected a number of batches"),
        ({"shard": (2, 2)}, r"shard: expected \(rank, number of processes\), got \(2, 2\)"),
    ],
)
def test_wrong_arguments_of_a_loader(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Jets.loader: {message}"):
        JETS.loader(**({"batch_size": 2} | options))
