"""Markdown of a study's numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from equikernels.metrics import Spread

from .study import Published


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def cell(found: Spread | None, digits: int = 4) -> str:
    """Mean and standard deviation over seeds; empty where there is nothing."""
    if found is None:
        return ""
    if math.isnan(found.deviation):
        return f"{found.mean:,.{digits}f}"
    return f"{found.mean:,.{digits}f} ± {found.deviation:,.{digits}f}"


def other_data(published: Published | None) -> str:
    """A published number, with its source."""
    return "" if published is None else f"{published.text} ({published.source})"
