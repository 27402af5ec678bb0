"""Fused kernels for Lorentz- and rotation-equivariant networks in particle physics."""

from . import _native as _native
from . import data as data
from ._native import active_isa, available_isas, set_isa
from ._version import __version__
from .backend import backends, use_backend
from .graph import Graph
from .metric import psi
from .ops.coordinates import coordinate_update
from .ops.invariants import pairwise_invariants
from .packing import (
    pack,
    pack_awkward,
    pack_list,
    pack_nested,
    unpack,
    unpack_awkward,
    unpack_list,
    unpack_nested,
)

__all__ = [
    "Graph",
    "__version__",
    "active_isa",
    "available_isas",
    "backends",
    "coordinate_update",
    "data",
    "pack",
    "pack_awkward",
    "pack_list",
    "pack_nested",
    "pairwise_invariants",
    "psi",
    "set_isa",
    "unpack",
    "unpack_awkward",
    "unpack_list",
    "unpack_nested",
    "use_backend",
]
