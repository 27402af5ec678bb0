"""What the coordinate update's weight multiplies: by name, or with a norm of one's own."""

from __future__ import annotations

import math
from typing import NamedTuple

from ...checks import fail

DIFFERENCE, NORMED_HELD, NORMED, SENDER = range(4)  # as Direction in csrc/message_passing/channels/message.h


class Normed(NamedTuple):
    r"""A direction: x_i - x_j over a norm,

    .. math:: d_{ij} = \frac{x_i - x_j}{\sqrt{\|x_i - x_j\|^2 + a} + b}

    Where ||x_i - x_j||^2 + a is 0, the derivative of the root is taken as 0.

    Attributes:
        inside: a >= 0.
        offset: b >= 0.
        held: the backward pass holds the norm constant.
    """

    inside: float = 0.0
    offset: float = 0.0
    held: bool = False


# What the strings mean. "unit" and "norm_plus_one" are settings of Normed.
NAMED: dict[str, Normed | int] = {
    "difference": DIFFERENCE,
    "unit": Normed(offset=1e-8, held=True),
    "norm_plus_one": Normed(offset=1.0),
    "sender": SENDER,
}


def direction_options(op: str, direction: str | Normed) -> tuple[int, float, float]:
    """(direction, norm_inside, norm_offset), as the schemas take them."""
    if not isinstance(direction, Normed):
        meant = NAMED.get(direction) if isinstance(direction, str) else None
        if meant is None:
            fail(op, "direction", f"one of {', '.join(NAMED)}, or a Normed", repr(direction))
        if isinstance(meant, int):
            return meant, 0.0, 0.0
        direction = meant
    for name, value in zip(("inside", "offset"), direction, strict=False):
        if isinstance(value, str) or not 0 <= value < math.inf:
            fail(op, f"direction.{name}", "a number >= 0", repr(value))
    return NORMED_HELD if direction.held else NORMED, float(direction.inside), float(direction.offset)
