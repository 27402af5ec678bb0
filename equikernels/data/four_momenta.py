"""Four-momenta from the records and columns of other libraries, as packed float64 (E, px, py, pz), and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..checks import check_choice, check_tensor, fail, need
from ..packing import check_offsets, pack, unpack
from ..ragged import check_counts, place, rows_of

if TYPE_CHECKING:
    import awkward

Array = npt.NDArray[Any]
UNITS = {"GeV": 1.0, "MeV": 1e-3}

# Components of a four-vector and their names, without regard to case; the first that are there count.
PT, PHI = ("pt", "rho"), ("phi",)
MOMENTA: tuple[dict[str, tuple[str, ...]], ...] = (
    {"px": ("px",), "py": ("py",), "pz": ("pz",)},
    {"pt": PT, "phi": PHI, "eta": ("eta",)},
    {"pt": PT, "phi": PHI, "rapidity": ("rapidity", "rap", "y")},
    {"pt": PT, "phi": PHI, "theta": ("theta",)},
    {"pt": PT, "phi": PHI, "pz": ("pz", "z")},
    {"px": ("x",), "py": ("y",), "pz": ("z",)},
)
ENERGIES: tuple[dict[str, tuple[str, ...]], ...] = (
    {"E": ("energy", "e")},
    {"mass": ("mass", "m", "tau")},
    {"E": ("t",)},
)
WANTED = "E, energy, e, t or mass, m with px, py, pz, or with pt, phi and eta, rapidity"


def four_momenta(
    particles: Any, *, unit: str = "GeV", ptr: Tensor | None = None, prefix: str = ""
) -> tuple[Tensor, Tensor]:
    """Packs anything with a four-vector in it.

    Columns are found by their names, in upper or lower case: E, energy, e or t, or mass or m; with px, py, pz (or x, y,
    z), or with pt (or rho), phi and one of eta, rapidity (or y), theta, pz. Energies come before masses. All arithmetic
    is in float64. A negative mass stands for a negative square (as in ``vector``).

    Args:
        particles: an awkward array of records ``B * var * {...}`` or of columns ``B * {...: var * number}``; a NumPy or
            ``vector`` structured array, a dict of columns, or a DataFrame. Columns of a dict may be awkward arrays,
            lists of lists, arrays and tensors [n] (one event, or as many as ``ptr`` says) or [B, N] (B events of N
            particles), and numbers, which hold for every particle. A missing event is an event without particles.
        unit: of energies, momenta and masses: "GeV" or "MeV". Results are in GeV.
        ptr: int64 [B + 1], the events of flat columns.
        prefix: at the start of the names, such as "part_".

    Returns:
        (p4 float64 [n_total, 4] (E, px, py, pz) in GeV, ptr int64 [B + 1]).

    Raises:
        ValueError: no four-vector among the names; a particle is missing or not finite (the message names event and
            particle); columns of different lengths in some event.
        TypeError: columns that are not numbers.
        ImportError: ragged columns, and awkward is not installed.
    """
    op = "four_momenta"
    check_choice(op, "unit", unit, UNITS)
    columns = _columns_of(op, particles)
    chosen = find_components(name.removeprefix(prefix) for name in columns if name.startswith(prefix))
    if chosen is None:
        starts = f"names that start with {prefix!r}: " if prefix else ""
        fail(op, "particles", starts + WANTED, f"columns {', '.join(columns) or 'without names'}")
    parts: dict[str, Array] = {}
    numbers: dict[str, float] = {}
    counts: dict[str, Array] = {}
    for component, name in chosen.items():
        column = _as_array(columns[prefix + name])
        if not _is_awkward(column) and np.ndim(column) == 0:  # one number for all
            numbers[component] = float(column)
        else:
            parts[component], counts[component] = _rows(op, f"particles[{prefix + name!r}]", column, ptr)
    if not parts:
        fail(op, "particles", "at least one column", "numbers alone")
    check_counts(op, [prefix + chosen[component] for component in parts], list(counts.values()), "particles")
    first, events = next(iter(parts.values())), next(iter(counts.values()))
    if (
        ptr is not None
        and check_offsets(op, ptr, torch.empty(len(first), 0), validate=True).tolist() != events.tolist()
    ):
        fail(op, "ptr", "the events of the ragged columns, or none", ptr.tolist())
    parts |= {component: np.full(len(first), value) for component, value in numbers.items()}
    p4 = cartesian(parts)
    check_finite(op, "particles", p4, events, parts)
    if UNITS[unit] != 1:
        p4 *= UNITS[unit]
    return torch.from_numpy(p4), torch.from_numpy(np.concatenate([[0], np.cumsum(events)]).astype(np.int64))


def find_components(names: Iterable[str]) -> dict[str, str] | None:
    """The names that make a four-vector: component -> name; None if they do not."""
    lower: dict[str, str] = {}
    for name in names:
        lower.setdefault(name.lower(), name)

    def first(choices: Iterable[dict[str, tuple[str, ...]]]) -> dict[str, str] | None:
        for components in choices:
            found = {
                component: next((lower[alias] for alias in aliases if alias in lower), None)
                for component, aliases in components.items()
            }
            if None not in found.values():
                return found  # type: ignore[return-value]
        return None

    momentum, energy = first(MOMENTA), first(ENERGIES)
    return None if momentum is None or energy is None else momentum | energy


def cartesian(parts: Mapping[str, Array]) -> Array:
    """float64 [n, 4] (E, px, py, pz) of the components of a four-vector."""
    c = {component: np.asarray(values, np.float64) for component, values in parts.items()}
    with np.errstate(all="ignore"):  # the result is checked
        if "px" in c:
            px, py = c["px"], c["py"]
            pt2 = px * px + py * py
        else:
            px, py = c["pt"] * np.cos(c["phi"]), c["pt"] * np.sin(c["phi"])
            pt2 = c["pt"] ** 2
        if "mass" in c:
            mass2 = c["mass"] * np.abs(c["mass"])
        if "pz" in c:
            pz = c["pz"]
        elif "eta" in c:
            pz = c["pt"] * np.sinh(c["eta"])
        elif "theta" in c:
            pz = c["pt"] / np.tan(c["theta"])
        elif "mass" in c:
            pz = np.sqrt(np.maximum(pt2 + mass2, 0)) * np.sinh(c["rapidity"])
        else:
            pz = c["E"] * np.tanh(c["rapidity"])
        if "mass" in c:
            energy = np.sqrt(np.maximum(pt2 + pz * pz + mass2, 0))
        else:
            energy = c["E"]
        return np.stack([energy, px, py, pz], axis=1)


def check_finite(
    op: str, argument: str, p4: Array, counts: Array, parts: Mapping[str, Array] | None = None, first: int = 0
) -> None:
    """Refuses the first particle that is not finite; events are counted from ``first``."""
    if np.isfinite(p4.sum()):  # one pass; a sum that overflows takes the other
        return
    bad = np.flatnonzero(~np.isfinite(p4).all(1))
    if len(bad):
        row = int(bad[0])
        parts = parts or dict(zip(("E", "px", "py", "pz"), p4.T, strict=True))
        got = ", ".join(f"{name} = {values[row]}" for name, values in parts.items())
        fail(op, argument, "finite four-momenta", f"{got} in {place(row, counts, 'particle', first)}")


def _columns_of(op: str, particles: Any) -> dict[str, Any]:
    if isinstance(particles, np.ndarray) and particles.dtype.names:
        plain = particles.view(np.ndarray)  # vector's arrays compute their fields
        return {name: plain[name] for name in particles.dtype.names}
    if isinstance(particles, np.ndarray | Tensor):
        fail(op, "particles", WANTED, f"an array of shape {list(particles.shape)} without names", TypeError)
    if _is_awkward(particles):
        return {name: particles[name] for name in particles.fields}
    if hasattr(particles, "keys"):
        return {str(name): particles[name] for name in particles.keys()}  # noqa: SIM118  a DataFrame
    fail(
        op,
        "particles",
        "an awkward array, a structured array or a dict of columns",
        type(particles).__name__,
        TypeError,
    )


def _as_array(column: Any) -> Any:
    if isinstance(column, Tensor):
        column = column.detach().cpu()
        return (column.double() if column.is_floating_point() else column).numpy()
    if _is_awkward(column):
        return column
    array = column if isinstance(column, np.ma.MaskedArray | list | tuple) else np.asarray(column)
    if isinstance(array, np.ndarray) and not isinstance(array, np.ma.MaskedArray) and array.dtype != object:
        return array
    ak = need("four_momenta", "awkward", "data")
    return ak.Array(array if isinstance(array, np.ma.MaskedArray) else list(array))


def _rows(op: str, argument: str, column: Any, ptr: Tensor | None) -> tuple[Array, Array]:
    """(values [n_total], particles of each event) of a column."""
    if _is_awkward(column):
        if not _is_flat(column):
            rows, counts = rows_of(op, argument, column, "particle")
            if rows.ndim != 1:
                fail(op, argument, "one number for each particle", str(column.type))
            return rows, counts
        column = column.to_numpy()
    if column.dtype.kind not in "biuf":
        fail(op, argument, "numbers", column.dtype, TypeError)
    if column.ndim == 2:
        return column.reshape(-1), np.full(len(column), column.shape[1])
    if column.ndim != 1:
        fail(op, argument, "shape [n] or [B, N]", list(column.shape))
    if ptr is None:
        return column, np.array([len(column)])
    return column, check_offsets(op, ptr, torch.empty(len(column), 0), validate=True).numpy()


def _is_awkward(value: Any) -> bool:
    return type(value).__module__.startswith(("awkward", "vector.backends.awkward"))


def _is_flat(column: Any) -> bool:
    import awkward as ak

    return isinstance(column.type.content, ak.types.NumpyType)


def to_awkward(p4: Tensor, ptr: Tensor, **features: Tensor) -> awkward.Array:
    """Records of ``vector``'s name Momentum4D with the fields px, py, pz, E, and further columns.

    With ``vector.register_awkward()`` they have pt, eta, mass, boosts and all else that ``vector`` computes.

    Args:
        p4: [n_total, 4] (E, px, py, pz).
        ptr: int64 [B + 1].
        features: columns [n_total], such as ``pdg_id=jets.features["pdg_id"]``.

    Returns:
        An awkward array ``B * var * Momentum4D[...]``.

    Raises:
        ValueError, TypeError: wrong shape, dtype or device.
        ImportError: awkward is not installed.
    """
    op = "to_awkward"
    ak = need(op, "awkward", "data")
    check_tensor(op, "p4", p4, ["n_total", 4])
    counts = check_offsets(op, ptr, p4, validate=True)
    columns = dict(zip(("E", "px", "py", "pz"), p4.unbind(1), strict=True)) | features
    for name, column in features.items():
        check_tensor(op, name, column, [p4.shape[0]])
    order = ("px", "py", "pz", "E", *features)
    arrays = {name: columns[name].detach().cpu().contiguous().numpy() for name in order}
    return ak.unflatten(ak.zip(arrays, with_name="Momentum4D"), counts.cpu().numpy())


def from_weaver(vectors: Tensor, mask: Tensor, *, unit: str = "GeV") -> tuple[Tensor, Tensor]:
    """Packs the arrays of ``weaver`` and ParT.

    Args:
        vectors: [N, 4, P] (px, py, pz, E).
        mask: [N, 1, P], not 0 for particles.
        unit: "GeV" or "MeV".

    Returns:
        (p4 float64 [n_total, 4] (E, px, py, pz) in GeV, ptr int64 [N + 1]).

    Raises:
        ValueError, TypeError: wrong shape; a particle that is not finite.
    """
    op = "from_weaver"
    check_choice(op, "unit", unit, UNITS)
    check_tensor(op, "vectors", vectors, ["N", 4, "P"])
    check_tensor(op, "mask", mask, [vectors.shape[0], 1, vectors.shape[2]])
    p4, ptr = pack(vectors.detach().double().transpose(1, 2)[:, :, [3, 0, 1, 2]], mask.squeeze(1) != 0)
    check_finite(op, "vectors", p4.cpu().numpy(), ptr.diff().cpu().numpy())
    return p4 * UNITS[unit], ptr


def to_weaver(p4: Tensor, ptr: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
    """The arrays of ``weaver`` and ParT, zeros behind the particles.

    Args:
        p4: [n_total, 4] (E, px, py, pz).
        ptr: int64 [N + 1].
        length: P; the largest number of particles by default.

    Returns:
        (vectors [N, 4, P] (px, py, pz, E), mask bool [N, 1, P]).

    Raises:
        ValueError, TypeError: wrong shape, dtype or device; an event of more than ``length`` particles.
    """
    check_tensor("to_weaver", "p4", p4, ["n_total", 4])
    padded, mask = unpack(p4[:, [1, 2, 3, 0]], ptr, length)
    return padded.transpose(1, 2), mask.unsqueeze(1)
