"""Jets: packed four-momenta (E, px, py, pz) in GeV with labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..checks import REAL, check_tensor, fail
from ..packing import check_offsets

Rows = slice | Tensor | Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Jets:
    """Packed jets.

    Attributes:
        p4: [n_total, 4] four-momenta of the constituents (E, px, py, pz) in GeV.
        ptr: int64 [n_jets + 1]; jet b owns rows ptr[b] .. ptr[b + 1] - 1.
        label: int64 [n_jets], 1 for signal, or the number of the class; -1 where it is not known.
        features: further tensors [n_total, ...] of the constituents, such as "pdg_id".
        truth: further tensors [n_jets, ...] of the jets, such as "W", the four-momentum of the W boson in it.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device; on the CPU, ``ptr`` does not start at 0, decreases or does
            not end at n_total.
    """

    p4: Tensor
    ptr: Tensor
    label: Tensor
    features: dict[str, Tensor] = field(default_factory=dict)
    truth: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        op = "Jets"
        check_tensor(op, "p4", self.p4, ["n_total", 4], REAL)
        # values on the CPU only: no synchronisation with a device
        check_offsets(op, self.ptr, self.p4, validate=self.p4.device.type == "cpu")
        check_tensor(op, "label", self.label, [self.ptr.shape[0] - 1])
        for name, column in self.features.items():
            if not isinstance(column, Tensor) or column.shape[:1] != self.p4.shape[:1]:
                fail(op, f"features[{name!r}]", f"shape [{self.p4.shape[0]}, ...]", list(getattr(column, "shape", [])))
        for name, column in self.truth.items():
            if not isinstance(column, Tensor) or column.shape[:1] != self.label.shape:
                fail(op, f"truth[{name!r}]", f"shape [{len(self)}, ...]", list(getattr(column, "shape", [])))

    def __len__(self) -> int:
        return self.ptr.shape[0] - 1

    def __getitem__(self, jets: Rows) -> Jets:
        """The jets of a slice (for ``jets[lo:hi]`` on the same storage), of a mask or of a list of indices."""
        if isinstance(jets, slice):
            lo, hi, step = jets.indices(len(self))
            if step == 1:
                return self._range(lo, max(lo, hi))
            return self._take(torch.from_numpy(np.arange(lo, hi, step)))
        index = torch.as_tensor(jets, device=self.ptr.device)
        if index.dim() != 1:
            fail("Jets", "jets", "a slice, a mask or a list of indices", jets, TypeError)
        if index.dtype == torch.bool:
            if index.shape[0] != len(self):
                fail("Jets", "jets", f"a mask of {len(self)} jets", f"one of {index.shape[0]}")
            return self._take(index.nonzero().squeeze(1))
        if index.numel() == 0:
            return self._range(0, 0)
        if index.dtype.is_floating_point or index.dtype.is_complex:
            fail("Jets", "jets", "integers or a mask", index.dtype, TypeError)
        lowest, highest = int(index.min()), int(index.max())
        if lowest < -len(self) or highest >= len(self):
            wrong = lowest if lowest < -len(self) else highest
            fail("Jets", "jets", f"indices of {len(self)} jets", wrong, IndexError)
        return self._take(torch.where(index < 0, index + len(self), index).long())

    def _range(self, lo: int, hi: int) -> Jets:
        ptr = self.ptr[lo : hi + 1]
        first, last = int(ptr[0]), int(ptr[-1])
        features = {name: column[first:last] for name, column in self.features.items()}
        truth = {name: column[lo:hi] for name, column in self.truth.items()}
        return Jets(self.p4[first:last], ptr - first, self.label[lo:hi], features, truth)

    def _take(self, index: Tensor) -> Jets:
        counts = self.ptr.diff()[index]
        ptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        start = self.ptr[index] - ptr[:-1]
        rows = torch.repeat_interleave(start, counts) + torch.arange(int(ptr[-1]), device=ptr.device)
        features = {name: column[rows] for name, column in self.features.items()}
        truth = {name: column[index] for name, column in self.truth.items()}
        return Jets(self.p4[rows], ptr, self.label[index], features, truth)

    def batches(self, size: int) -> Iterator[Jets]:
        """Batches of ``size`` jets in order; the last one may be smaller."""
        if size < 1:
            fail("Jets.batches", "size", "at least 1", size)
        for lo in range(0, len(self), size):
            yield self[lo : lo + size]

    def shuffle(self, seed: int) -> Jets:
        """The jets in an order that ``seed`` determines."""
        return self[torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))]

    def split(self, fractions: Sequence[float], seed: int | None = None) -> list[Jets]:
        """Disjoint parts, such as ``train, val, test = jets.split([0.8, 0.1, 0.1], seed=0)``.

        Args:
            fractions: of the jets in each part, together at most 1.
            seed: of the order before the cuts; the order of the jets if None.
        """
        op = "Jets.split"
        total = sum(fractions)
        if not fractions or not all(0 <= f <= 1 for f in fractions) or total > 1 + 1e-9:
            fail(op, "fractions", "numbers from 0 to 1 of a sum of at most 1", list(fractions))
        jets = self if seed is None else self.shuffle(seed)
        ends = [round(len(self) * min(end, 1.0)) for end in np.cumsum([0.0, *fractions])]
        return [jets[lo:hi] for lo, hi in pairwise(ends)]

    @staticmethod
    def concatenate(parts: Sequence[Jets]) -> Jets:
        """All jets of the parts, in order. Parts have the same features."""
        op = "Jets.concatenate"
        if len(parts) == 0:
            fail(op, "parts", "at least one part", "none")
        names, truths = parts[0].features.keys(), parts[0].truth.keys()
        for k, part in enumerate(parts):
            for what, found, wanted in (("features", part.features, names), ("truth", part.truth, truths)):
                if found.keys() != wanted:
                    fail(op, f"parts[{k}]", f"{what} {list(wanted)}", list(found))
        ends = torch.cumsum(torch.tensor([0, *(part.p4.shape[0] for part in parts)]), 0).tolist()
        ptr = torch.cat([parts[0].ptr[:1], *(part.ptr[1:] + end for part, end in zip(parts, ends, strict=False))])
        features = {name: torch.cat([part.features[name] for part in parts]) for name in names}
        truth = {name: torch.cat([part.truth[name] for part in parts]) for name in truths}
        label = torch.cat([part.label for part in parts])
        return Jets(torch.cat([part.p4 for part in parts]), ptr, label, features, truth)

    def loader(
        self,
        batch_size: int,
        shuffle: bool = False,
        *,
        bucket: int = 0,
        workers: int = 0,
        seed: int = 0,
        drop_last: bool = False,
        shard: tuple[int, int] = (0, 1),
        **options: Any,
    ) -> DataLoader[Jets]:
        """A torch DataLoader of batches, each of type Jets.

        Args:
            batch_size: jets of a batch.
            shuffle: another order in each epoch, which ``seed`` and the number of the epoch determine.
            bucket: with ``shuffle``: sort this many batches of shuffled jets by multiplicity before they are cut, so
                that jets of a batch have similar numbers of constituents (less padding for networks that pad); batches
                then come in random order. Batches are no random samples then: their shares of classes and their batch
                statistics depend on the multiplicity. 0: no sorting.
            workers: processes that make batches.
            seed: of the order.
            drop_last: leave out a last batch of fewer jets.
            shard: (rank, number of processes) for distributed training: processes share out batches of ``batch_size``
                times their number, so that a step is that of one process with such batches. All have the same number of
                batches, of the same sizes: the first jets come again where the last ones do not suffice for all.
            options: of DataLoader, such as ``pin_memory``, or a ``collate_fn`` of one batch, of type Jets.
        """
        from .loader import Batches, JetDataset, first

        batches = Batches(self.ptr.diff().cpu(), batch_size, shuffle, bucket, seed, drop_last, shard)
        options = {"collate_fn": first, "persistent_workers": workers > 0, **options}
        return DataLoader(JetDataset(self), batch_sampler=batches, num_workers=workers, **options)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Jets:
        """On another device; ``dtype`` is that of p4."""
        features = {name: column.to(device) for name, column in self.features.items()}
        truth = {name: column.to(device) for name, column in self.truth.items()}
        return Jets(self.p4.to(device, dtype), self.ptr.to(device), self.label.to(device), features, truth)

    def pin_memory(self) -> Jets:
        """In page-locked memory, which a DataLoader with ``pin_memory`` asks for."""
        features = {name: column.pin_memory() for name, column in self.features.items()}
        truth = {name: column.pin_memory() for name, column in self.truth.items()}
        return Jets(self.p4.pin_memory(), self.ptr.pin_memory(), self.label.pin_memory(), features, truth)

    def save(self, path: str | Path) -> None:
        """Writes an npz file of arrays p4, ptr, label, feature_<name> and truth_<name>, which :meth:`load` reads."""
        arrays = {"p4": self.p4, "ptr": self.ptr, "label": self.label}
        arrays |= {f"feature_{name}": column for name, column in self.features.items()}
        arrays |= {f"truth_{name}": column for name, column in self.truth.items()}
        with Path(path).open("wb") as file:  # np.savez would append .npz to a name without it
            np.savez_compressed(file, allow_pickle=False, **{k: v.detach().cpu().numpy() for k, v in arrays.items()})

    @staticmethod
    def load(path: str | Path | IO[bytes]) -> Jets:
        """Reads what :meth:`save` wrote. No code in the file is run."""
        with np.load(path, allow_pickle=False) as arrays:
            if missing := {"p4", "ptr", "label"} - set(arrays.files):
                expected = "arrays p4, ptr and label"
                fail("Jets.load", str(path), expected, f"no {', '.join(sorted(missing))}")
            tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        features, truth = (
            {name.removeprefix(start): tensors[name] for name in tensors if name.startswith(start)}
            for start in ("feature_", "truth_")
        )
        return Jets(tensors["p4"], tensors["ptr"].long(), tensors["label"].long(), features, truth)


def load_sample_jets() -> Jets:
    """Two thousand simulated jets, half from top quarks (label 1), half from light quarks and gluons (label 0).

    Anti-kT R = 0.8, 550 < pT < 650 GeV, |eta| < 2, simulated like the Top Quark Tagging Reference Dataset (arXiv
    1902.09914) but with a parametrised detector: do not compare results with published ones. Each jet has 6 to 132
    massless constituents, sorted by falling pT; p4 is float32.
    """
    path = resources.files("equikernels") / "data" / "top_jets_2k.npz"
    with path.open("rb") as file:
        return Jets.load(file)
