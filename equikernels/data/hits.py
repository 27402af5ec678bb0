"""Hit graphs: the hits of an event as nodes, possible track segments between neighbouring layers as edges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..checks import REAL, check_tensor, fail
from ..graph import Graph
from .trackml import Hits

# (volume, layer) of the TrackML pixel detector, numbered from the beam outwards: four barrel layers, seven discs at
# negative z, seven at positive z.
PIXEL_LAYERS = (
    *((8, layer) for layer in (2, 4, 6, 8)),
    *((7, layer) for layer in (14, 12, 10, 8, 6, 4, 2)),
    *((9, layer) for layer in (2, 4, 6, 8, 10, 12, 14)),
)
BARREL = 4  # layers 0 to 3
BARREL_RADII = (32.0, 72.0, 116.0, 172.0)  # mm
BARREL_HALF_LENGTH = 491.0  # mm

COLUMNS = ("x", "edge_attr", "y", "layer", "particle_id", "pt")  # of a file of graphs, beside edge_index
PAIRS = 2**18  # candidates in memory at a time

# Pairs of layers that a track crosses consecutively, inner first.
LAYER_PAIRS = (
    *((i, i + 1) for i in range(3)),
    *((i, disc) for disc in (4, 11) for i in range(BARREL)),
    *((i, i + 1) for i in range(4, 10)),
    *((i, i + 1) for i in range(11, 17)),
)


@dataclass(frozen=True)
class HitGraph:
    """A hit graph, as the Interaction Network (arXiv 2103.16701) and EuclidNet (arXiv 2304.05293) read it.

    Attributes:
        x: float32 [n, 3], (r / 1000 mm, phi / pi, z / 1000 mm).
        graph: edges from the inner to the outer hit.
        edge_attr: float32 [E, 4], (dr / 1000 mm, dphi / pi, dz / 1000 mm, dR), outer minus inner.
        y: bool [E], whether one particle left both hits.
        layer: int64 [n], index into :data:`PIXEL_LAYERS`.
        particle_id: int64 [n], 0 for noise.
        pt: float32 [n], GeV.
    """

    x: Tensor
    graph: Graph
    edge_attr: Tensor
    y: Tensor
    layer: Tensor
    particle_id: Tensor
    pt: Tensor

    @property
    def cartesian(self) -> Tensor:
        """[n, 3] (x, y, z) / 1000 mm: what EuclidNet reads, whose SO(2) turns the first two."""
        r, phi, z = self.x.unbind(1)
        return torch.stack([r * torch.cos(math.pi * phi), r * torch.sin(math.pi * phi), z], dim=1)


def load_sample_hit_graphs() -> list[HitGraph]:
    """Five hit graphs of simulated events, of 3.2k to 3.7k hits and 3.5k to 4.3k edges each.

    Top-quark pairs among 200 soft collisions, tracks as helices in 2 T through the pixel layers with multiple
    scattering and smeared hits, particles above 1.5 GeV of transverse momentum; edges as :func:`hit_graph` makes them.
    The geometry is that of TrackML, the simulation is much simpler: do not compare results with published ones.
    """
    path = resources.files("equikernels") / "data" / "hit_graphs.npz"
    with path.open("rb") as file:
        return load_hit_graphs(file)


def save_hit_graphs(path: str | Path, graphs: Sequence[HitGraph]) -> None:
    """Writes an npz file of hit graphs, which :func:`load_hit_graphs` reads: made once, read faster than the hits."""
    arrays: dict[str, Any] = {"count": np.asarray(len(graphs))}
    for k, graph in enumerate(graphs):
        arrays[f"{k}_edge_index"] = graph.graph.edge_index.numpy()
        arrays |= {f"{k}_{name}": getattr(graph, name).numpy() for name in COLUMNS}
    with Path(path).open("wb") as file:  # np.savez would append .npz to a name without it
        np.savez_compressed(file, allow_pickle=False, **arrays)


def load_hit_graphs(path: str | Path | IO[bytes]) -> list[HitGraph]:
    """Reads what :func:`save_hit_graphs` wrote. No code in the file is run.

    Raises:
        ValueError: an array is missing; the message names it.
    """
    graphs = []
    with np.load(path, allow_pickle=False) as arrays:
        count = int(arrays["count"]) if "count" in arrays else 0
        names = [f"{k}_{name}" for k in range(count) for name in ("edge_index", *COLUMNS)]
        if missing := sorted({"count", *names} - set(arrays.files)):
            fail("load_hit_graphs", str(path), "arrays of save_hit_graphs", f"no {', '.join(missing[:8])}")
        for k in range(count):
            edges = torch.from_numpy(arrays[f"{k}_edge_index"]).long()
            columns = {name: torch.from_numpy(arrays[f"{k}_{name}"]) for name in COLUMNS}
            columns |= {name: columns[name].long() for name in ("layer", "particle_id")}
            graphs.append(HitGraph(graph=Graph.from_edge_index(edges, len(columns["x"])), **columns))
    return graphs


def hit_graph(
    hits: Hits,
    *,
    pt_min: float = 1.5,
    phi_slope_max: float = 6e-4,
    z0_max: float = 100.0,
    layer_pairs: Sequence[tuple[int, int]] = LAYER_PAIRS,
) -> HitGraph:
    r"""Geometric graph of the hits in the pixel detector.

    Two hits of a pair of layers are connected if

    .. math:: |\Delta\phi / \Delta r| < \text{phi\_slope\_max}, \quad |z_1 - r_1 \Delta z / \Delta r| < \text{z0\_max},

    where z_1 - r_1 dz / dr is the point at which the line through both hits crosses the beam axis. A barrel hit and a
    disc hit are connected only if this line does not cross the next barrel layer before the disc, as in arXiv
    2103.16701. EuclidNet's released configuration is ``phi_slope_max=6e-3, z0_max=275``. The search considers only
    hits in the window of azimuths that the cuts allow.

    Args:
        hits: as :func:`load_trackml` reads them, of the TrackML detector; those outside the volumes 7, 8 and 9 are
            dropped.
        pt_min: drop hits of particles below this transverse momentum, GeV. Values above 0 also drop noise, and require
            truth; 0 keeps all hits.
        phi_slope_max: 1 / mm.
        z0_max: mm.
        layer_pairs: pairs (inner, outer) of indices into :data:`PIXEL_LAYERS`.

    Returns:
        The graph. Hits keep their order; edges are sorted by layer pair, in the given order, then by inner and outer
        hit.

    Raises:
        ValueError: a cut that is not positive; an invalid pair of layers; hits of another detector, without truth for
            ``pt_min``, on the beam axis, where the pseudorapidity is infinite, or at a position that is not finite.
        TypeError: fields of hits of a wrong dtype.
    """
    op = "hit_graph"
    for name, cut in (("phi_slope_max", phi_slope_max), ("z0_max", z0_max)):
        if not cut > 0:
            fail(op, name, "a number > 0", cut)
    if math.isnan(pt_min):
        fail(op, "pt_min", "a number", pt_min)
    for pair in layer_pairs:
        if len(pair) != 2 or not all(layer in range(len(PIXEL_LAYERS)) for layer in pair):
            fail(op, "layer_pairs", f"pairs of layers from 0 to {len(PIXEL_LAYERS) - 1}", pair)
    _check_hits(op, hits)
    layer = _layer_of(op, hits)
    inside = layer >= 0
    if pt_min > 0 and bool(inside.any()) and not bool(hits.particle_id[inside].any()):
        fail(op, "pt_min", "0 for hits without truth (all are noise)", pt_min)
    keep = inside & (hits.pt >= pt_min)
    rows = keep.nonzero().squeeze(1)
    hits, layer = hits[rows], layer[rows]
    position = _cylindrical(hits.xyz.double().numpy())
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        eta = np.arcsinh(position[:, 2] / position[:, 0])
    if not np.isfinite(eta).all():
        bad = int(np.flatnonzero(~np.isfinite(eta))[0])
        fail(op, "hits", "positions off the beam axis", f"{hits.xyz[bad].tolist()} in row {int(rows[bad])}")
    members = [np.flatnonzero(layer.numpy() == k) for k in range(len(PIXEL_LAYERS))]
    found = [
        _segments(position, members, inner, outer, phi_slope_max, z0_max) for inner, outer in layer_pairs
    ]  # fmt: skip
    edges = np.concatenate([np.empty((2, 0), np.int64), *found], axis=1)
    inner, outer = edges
    dr, dphi, dz = _difference(position, inner, outer)
    attr = np.stack([dr / 1000, dphi / np.pi, dz / 1000, np.hypot(eta[outer] - eta[inner], dphi)], axis=1)
    particle = hits.particle_id.numpy()
    return HitGraph(
        x=torch.from_numpy(position / [1000, np.pi, 1000]).float(),
        graph=Graph.from_edge_index(torch.from_numpy(edges), len(hits)),
        edge_attr=torch.from_numpy(attr).float(),
        y=torch.from_numpy((particle[inner] == particle[outer]) & (particle[inner] != 0)),
        layer=layer,
        particle_id=hits.particle_id,
        pt=hits.pt.float(),
    )


def _check_hits(op: str, hits: Hits) -> None:
    n = len(hits)
    check_tensor(op, "hits.xyz", hits.xyz, ["n", 3], REAL)
    check_tensor(op, "hits.pt", hits.pt, [n], REAL)
    for name, field in (("volume", hits.volume), ("layer", hits.layer), ("particle_id", hits.particle_id)):
        check_tensor(op, f"hits.{name}", field, [n], [torch.int64])
    if hits.xyz.device.type != "cpu":
        fail(op, "hits", "device cpu", hits.xyz.device)
    for what, bad in (("positions", ~hits.xyz.isfinite().all(1)), ("momenta", ~hits.pt.isfinite())):
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            got = hits.xyz[row].tolist() if what == "positions" else hits.pt[row].item()
            fail(op, "hits", f"finite {what}", f"{got} in row {row}")


def _layer_of(op: str, hits: Hits) -> Tensor:
    """[n] index into PIXEL_LAYERS, -1 in other volumes of the detector."""
    layer = torch.full((len(hits),), -1)
    known = torch.zeros(len(hits), dtype=torch.bool)
    for k, (volume, number) in enumerate(PIXEL_LAYERS):
        layer[(hits.volume == volume) & (hits.layer == number)] = k
        known |= hits.volume == volume
    if len(hits) > 0 and not bool(known.any()):
        fail(
            op,
            "hits",
            "hits in the volumes 7, 8, 9 of the TrackML detector",
            f"volumes {hits.volume.unique().tolist()}",
        )
    if bool((known & (layer < 0)).any()):
        row = int((known & (layer < 0)).nonzero()[0])
        got = f"layer {int(hits.layer[row])} of volume {int(hits.volume[row])} in row {row}"
        fail(op, "hits", "layers of the TrackML detector (PIXEL_LAYERS)", got)
    return layer


def _cylindrical(xyz: np.ndarray) -> np.ndarray:
    x, y, z = xyz.T
    return np.stack([np.hypot(x, y), np.arctan2(y, x), z], axis=1)


def _difference(
    position: np.ndarray, inner: np.ndarray, outer: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dr, dphi in [-pi, pi], dz)."""
    dr, dphi, dz = (position[outer] - position[inner]).T
    return dr, dphi - 2 * np.pi * np.round(dphi / (2 * np.pi)), dz


def _segments(
    position: np.ndarray, members: list[np.ndarray], i: int, j: int, phi_slope_max: float, z0_max: float
) -> np.ndarray:
    """[2, E] hits of layer i and of layer j that pass the cuts, sorted."""
    found = [np.empty((2, 0), np.int64)]
    if len(members[i]) and len(members[j]):
        for inner, outer in _in_window(position, members[i], members[j], phi_slope_max, z0_max):
            dr, dphi, dz = _difference(position, inner, outer)
            with np.errstate(divide="ignore", invalid="ignore"):
                tan = dz / dr
                z0 = position[inner, 2] - position[inner, 0] * tan
                good = (np.abs(dphi / dr) < phi_slope_max) & (np.abs(z0) < z0_max)
                if i < BARREL - 1 and j >= BARREL:
                    good &= np.abs(z0 + BARREL_RADII[i + 1] * tan) >= BARREL_HALF_LENGTH
            found.append(np.stack([inner[good], outer[good]]))
    edges = np.concatenate(found, axis=1)
    return edges[:, np.lexsort(edges[::-1])]


def _in_window(
    position: np.ndarray, inner: np.ndarray, outer: np.ndarray, phi_slope_max: float, z0_max: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs with azimuths close enough for some radius of the outer layer that z0 allows, in chunks."""
    r, phi, z = position[inner].T
    low, high = position[outer].min(0), position[outer].max(0)
    far_r = np.maximum(high[0] - r, r - low[0])
    far_z = np.maximum(high[2] - z, z - low[2])
    # |z - r dz / dr| < z0_max bounds dr for a hit that is itself farther out than z0_max
    steep = np.abs(z) - z0_max
    far_r = np.where(steep > 0, np.minimum(far_r, r * far_z / np.where(steep > 0, steep, 1.0)), far_r)
    reach = np.minimum(phi_slope_max * far_r * (1 + 1e-9), np.pi)

    outer = outer[np.argsort(position[outer, 1], kind="stable")]
    turns = (position[outer, 1] + 2 * np.pi * np.array([-1, 0, 1])[:, None]).ravel()
    first = np.searchsorted(turns, phi - reach, "left")
    # at most a full turn: beyond it a pair would occur twice
    count = np.minimum(np.searchsorted(turns, phi + reach, "right") - first, len(outer))
    parts = np.searchsorted(np.cumsum(count), np.arange(PAIRS, count.sum(), PAIRS))
    for part in np.split(np.arange(len(inner)), parts):
        n = count[part]
        start = np.repeat(first[part] - (np.cumsum(n) - n), n)
        yield np.repeat(inner[part], n), outer[(start + np.arange(n.sum())) % len(outer)]
