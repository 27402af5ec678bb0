"""The multigraphs of energy flow polynomials, arXiv 1712.07124: enumeration up to isomorphism."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

Edges = tuple[tuple[int, int], ...]  # pairs of vertices, each once for every edge between them
Matrix = tuple[tuple[int, ...], ...]  # how many edges are between each two vertices


@functools.cache
def connected_graphs(degree: int) -> tuple[Edges, ...]:
    """All connected multigraphs without loops of ``degree`` >= 1 edges, one of each isomorphism class.

    Every one of d + 1 edges is one of d edges and an edge between two of its vertices or to a new one.
    """
    if degree == 1:
        return (((0, 1),),)
    found: dict[Matrix, Edges] = {}
    for edges in connected_graphs(degree - 1):
        size = 1 + max(max(edge) for edge in edges)
        more = [*itertools.combinations(range(size), 2), *((k, size) for k in range(size))]
        for edge in more:
            form = canonical(_matrix((*edges, edge)))
            found.setdefault(form, _edges(form))
    return tuple(found[form] for form in sorted(found))


@functools.cache
def products(degree: int) -> tuple[tuple[int, ...], ...]:
    """All multigraphs up to ``degree`` edges: the connected ones that each is made of, in ascending numbers.

    Number k is the k-th of the connected ones in the order of their edges; the first graph is the empty one.
    """
    sizes = [d for d in range(1, degree + 1) for _ in connected_graphs(d)]

    def of(total: int, last: int) -> list[tuple[int, ...]]:
        if total == 0:
            return [()]
        fitting = [k for k in range(last + 1) if sizes[k] <= total]
        return [(*rest, k) for k in fitting for rest in of(total - sizes[k], k)]

    return tuple(parts for d in range(degree + 1) for parts in of(d, len(sizes) - 1))


def canonical(matrix: Matrix) -> Matrix:
    """The greatest matrix among those of the orders of vertices that refinement of colours leaves: equal for isomorphic
    graphs, and for those alone."""
    best: list[Matrix] = []

    def search(colours: list[int]) -> None:
        colours = _refined(matrix, colours)
        cells: dict[int, list[int]] = {}
        for vertex, colour in enumerate(colours):
            cells.setdefault(colour, []).append(vertex)
        cell = next((cells[c] for c in sorted(cells) if len(cells[c]) > 1), None)
        if cell is None:
            order = sorted(range(len(matrix)), key=colours.__getitem__)
            form = tuple(tuple(matrix[a][b] for b in order) for a in order)
            if not best or form > best[0]:
                best[:] = [form]
            return
        tried: list[int] = []
        for vertex in cell:
            if any(_are_twins(matrix, vertex, other) for other in tried):
                continue
            tried.append(vertex)
            search([2 * c + (c == colours[vertex] and v != vertex) for v, c in enumerate(colours)])

    search([0] * len(matrix))
    return best[0]


def _refined(matrix: Matrix, colours: Sequence[int]) -> list[int]:
    """Colours of which each tells the colours of all neighbours; the order of colours depends on no names."""
    colours = list(colours)
    while True:
        seen = [
            (colours[v], sorted((colours[u], many) for u, many in enumerate(row) if many))
            for v, row in enumerate(matrix)
        ]
        ranks = sorted({(colour, tuple(around)) for colour, around in seen})
        rank = {key: number for number, key in enumerate(ranks)}
        new = [rank[colour, tuple(around)] for colour, around in seen]
        if len(ranks) == len(set(colours)):
            return new
        colours = new


def _are_twins(matrix: Matrix, a: int, b: int) -> bool:
    """Whether an exchange of two vertices changes nothing."""
    return all(matrix[a][u] == matrix[b][u] for u in range(len(matrix)) if u not in (a, b))


def _matrix(edges: Edges) -> Matrix:
    size = 1 + max(max(edge) for edge in edges)
    rows = [[0] * size for _ in range(size)]
    for a, b in edges:
        rows[a][b] += 1
        rows[b][a] += 1
    return tuple(map(tuple, rows))


def _edges(matrix: Matrix) -> Edges:
    pairs = itertools.combinations(range(len(matrix)), 2)
    return tuple((a, b) for a, b in pairs for _ in range(matrix[a][b]))
