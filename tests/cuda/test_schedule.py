"""Tests how CUDA kernels share their work out: blocks dealt to the multiprocessors of an H200, in simulation."""

from __future__ import annotations

import ctypes
import heapq

import numpy as np
import pytest

from equikernels.data import load_sample_jets

from ..support.emulator import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no g++ on the PATH")

PROCESSORS, SCHEDULERS = 132, 4
BEAMS = 2
KB = 1024
# LorentzNet's layer, 72 channels: shared memory of a block, of each of its warps; fewest and most warps of a block.
FORWARD, BACKWARD = (44_600, 5_700, 4, 12), (44_600, 18_500, 8, 8)


class Room(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("once", "each", "block", "processor")] + [
        (name, ctypes.c_int) for name in ("fewest", "most")
    ]


def messages(
    probes: ctypes.CDLL, nodes: int, edges: int, kernel: tuple[int, int, int, int], events: int = 0, block: int = 227
) -> tuple[int, int, int]:
    """Warps of a block, nodes of a warp, groups of nodes."""
    once, each, fewest, most = kernel
    room, to = Room(once, each, block * KB, (block + 1) * KB, fewest, most), (ctypes.c_int64 * 3)()
    probes.schedule_messages_of(*map(ctypes.c_int64, (nodes, edges, events)), ctypes.byref(room), to)
    return int(to[0]), int(to[1]), int(to[2])


def chain(probes: ctypes.CDLL, items: int, edges: int, most_blocks: int, rows: bool = False) -> tuple[int, int, int]:
    """Edges of a tile, receivers of a block, blocks."""
    to = (ctypes.c_int64 * 3)()
    numbers = ctypes.c_int64(items), ctypes.c_int64(edges), ctypes.c_bool(rows), ctypes.c_int64(most_blocks)
    probes.schedule_chain_of(*numbers, to)
    return int(to[0]), int(to[1]), int(to[2])


def sizes_of_jets(jets: int) -> np.ndarray:
    sizes = load_sample_jets().ptr.diff().numpy() + BEAMS
    return np.resize(sizes, jets)


def degrees_of_jets(jets: int) -> np.ndarray:
    sizes = sizes_of_jets(jets)
    return np.repeat(sizes - 1, sizes)


def degrees_of_padded_jets(jets: int) -> np.ndarray:
    """As the published network has them, whose blocks may be fused: every jet in as many rows as the longest has."""
    sizes = sizes_of_jets(jets)
    rows = np.arange(sizes.max()) < sizes[:, None]
    return np.where(rows, sizes[:, None] - 1, 0).ravel()


def degrees_of_hits(edges: int, degree: int = 16) -> np.ndarray:
    nodes = edges // degree
    return np.bincount(np.random.default_rng(0).integers(0, nodes, edges), minlength=nodes)


DEGREES = {
    "100 jets": degrees_of_jets(100),
    "1024 jets": degrees_of_jets(1024),
    "3k hits' edges": degrees_of_hits(3_000),
    "80k hits' edges": degrees_of_hits(80_000),
}


def dealt(cost: np.ndarray, places: int = PROCESSORS) -> float:
    """When the last block ends, where each goes to the place that is free first."""
    free = [0.0] * places
    for c in cost.tolist():
        heapq.heappush(free, heapq.heappop(free) + c)
    return max(free)


def sums_of(values: np.ndarray, each: int) -> np.ndarray:
    return np.add.reduceat(values, np.arange(0, len(values), each))


def used_by_messages(degrees: np.ndarray, warps: int, nodes: int, most_warps: int) -> float:
    """A scheduler takes a tile of 16 edges in one unit of time; a warp's tiles come one after another, beside those of
    other blocks of its multiprocessor. The share of the time that the edges need at best: spread over all schedulers,
    or those of the largest node alone."""
    tiles = -(-sums_of(degrees, nodes) // 16)
    tiles = np.pad(tiles, (0, -len(tiles) % warps)).reshape(-1, warps)
    cost = np.maximum(tiles.max(1) / (most_warps // warps), tiles.sum(1) / SCHEDULERS)
    best = max(degrees.sum() / 16 / (PROCESSORS * SCHEDULERS), -(-degrees.max() // 16))
    return float(best / max(dealt(cost), tiles.max()))


@pytest.mark.parametrize("kernel", [FORWARD, BACKWARD], ids=["forward", "backward"])
@pytest.mark.parametrize("name", [*DEGREES, "100 jets, padded"])
def test_messages_use_most_of_the_gpu(name: str, kernel: tuple[int, int, int, int], probes: ctypes.CDLL) -> None:
    degrees = DEGREES[name] if name in DEGREES else degrees_of_padded_jets(100)
    warps, nodes, groups = messages(probes, len(degrees), int(degrees.sum()), kernel)
    assert groups == -(-len(degrees) // (warps * nodes))
    assert used_by_messages(degrees, warps, nodes, kernel[3]) >= 0.6
    if len(degrees) > 4 * PROCESSORS * warps:
        assert groups >= 4 * PROCESSORS


def used_by_chain(degrees: np.ndarray, tile: int, nodes: int) -> float:
    """The same, where two blocks of four warps keep a multiprocessor busy, and a block takes 32 edges of a tile in one
    unit of time."""
    cost = -(-sums_of(degrees, nodes) // tile) * (tile / 32)
    places = 2 * PROCESSORS
    best = max(degrees.sum() / 32 / places, -(-degrees.max() // 32))
    return float(best / dealt(cost, places))


@pytest.mark.parametrize("most_blocks", [4096, 512], ids=["forward", "backward"])
@pytest.mark.parametrize("name", list(DEGREES))
def test_lanes_across_edges_use_most_of_the_gpu(name: str, most_blocks: int, probes: ctypes.CDLL) -> None:
    degrees = DEGREES[name]
    tile, nodes, blocks = chain(probes, len(degrees), int(degrees.sum()), most_blocks)
    assert blocks == -(-len(degrees) // nodes)
    assert used_by_chain(degrees, tile, nodes) >= 0.6


@pytest.mark.parametrize(("groups", "most"), [(7, 8), (16, 4), (3, 8)])
@pytest.mark.parametrize("events", [16, 64, 512])
def test_sums_of_pairs_use_most_of_the_gpu(events: int, groups: int, most: int, probes: ctypes.CDLL) -> None:
    """A block reads all rows of some columns of an event's pairs."""
    sizes = sizes_of_jets(events)
    width = probes.columns_of_a_panel(ctypes.c_int64(sizes.sum()), ctypes.c_int64(events), groups, most)
    assert width % groups == 0
    full, rest = sizes // width, sizes % width
    cost = np.concatenate([np.repeat(sizes * width, full), (sizes * rest)[rest > 0]])
    best = max((sizes**2).sum() / PROCESSORS, groups * sizes.max())
    assert best / dealt(cost) >= 0.6


def test_a_schedule_that_uses_little_is_seen() -> None:
    """Rows of padding among the nodes, and warps of 64 nodes; one block for each event of pairs."""
    degrees = degrees_of_jets(100)
    padded = np.concatenate([degrees, np.zeros(len(degrees), int)])
    assert used_by_messages(padded, warps=12, nodes=64, most_warps=12) < 0.1
    assert used_by_messages(DEGREES["3k hits' edges"], warps=12, nodes=8, most_warps=12) < 0.2
    assert used_by_chain(DEGREES["3k hits' edges"], tile=128, nodes=7) < 0.3
    sizes = sizes_of_jets(16)
    assert (sizes**2).sum() / PROCESSORS / dealt(sizes**2) < 0.15


@pytest.mark.parametrize("block", [64, 99, 163, 227])
@pytest.mark.parametrize("kernel", [FORWARD, BACKWARD], ids=["forward", "backward"])
def test_blocks_fit(kernel: tuple[int, int, int, int], block: int, probes: ctypes.CDLL) -> None:
    """The fewest warps that fill a multiprocessor; as many as there is room for, if that is few."""
    once, each, fewest, most = kernel
    warps, _, _ = messages(probes, 10**6, 10**7, kernel, block=block)
    fits = (block * KB - once) // each
    assert warps <= min(fits, most)
    assert warps >= min(fits, fewest)
    assert (warps == 0) == (fits == 0)


@pytest.mark.parametrize(
    ("nodes", "edges", "events", "nodes_of_a_warp"),
    [
        (0, 0, 0, 1),
        (3, 0, 0, 1),
        (10**6, 0, 0, 64),  # no edges
        (2**40, 2**45, 0, 4),
        (2**40, 2**40 + 5, 0, 64),
        (2**40, 2**62, 0, 1),
        (2**33, 0, 2**33, 64),  # complete graphs: the number of edges need not be known
        (2**40, 0, 2**34, 2),
        (2**40, 0, 1, 1),
    ],
)
def test_nodes_of_a_warp_have_about_a_hundred_edges(
    nodes: int, edges: int, events: int, nodes_of_a_warp: int, probes: ctypes.CDLL
) -> None:
    assert messages(probes, nodes, edges, FORWARD, events)[1] == nodes_of_a_warp


@pytest.mark.parametrize("edges", [0, 1, 2**20, 2**50])
@pytest.mark.parametrize("items", [0, 1, 2**20, 2**40])
@pytest.mark.parametrize("rows", [False, True])
def test_blocks_have_all_receivers(items: int, edges: int, rows: bool, probes: ctypes.CDLL) -> None:
    tile, nodes, blocks = chain(probes, items, items if rows else edges, 512, rows)
    assert tile in (32, 64, 128)
    assert 1 <= nodes <= 128 * 64
    assert blocks * nodes >= items > (blocks - 1) * nodes or items == blocks == 0


def test_no_two_lanes_read_a_bank_of_the_weights(probes: ctypes.CDLL) -> None:
    """Lane 4 g + t reads rows 2 t and 2 t + 1 of column g, or columns 2 t and 2 t + 1 of row g in two halves."""
    for stride in (40, 72):
        for first in range(0, 72, 8):
            for second in range(0, 72, 8):
                for more in (0, 1):
                    words = [
                        probes.weight_word(first + 2 * t + more, second + g, stride) for g in range(8) for t in range(4)
                    ]
                    assert len({word % 32 for word in words}) == 32
                for half in (range(4), range(4, 8)):
                    words = [
                        probes.weight_word(first + g, second + 2 * t + k, stride)
                        for g in half
                        for t in range(4)
                        for k in (0, 1)
                    ]
                    assert len({word % 32 for word in words}) == 32
                    assert all(word % 2 == 0 for word in words[::2])
