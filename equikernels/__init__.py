"""Fused kernels for Lorentz- and rotation-equivariant networks in particle physics."""

from . import _native as _native
from ._native import active_isa, available_isas, set_isa
from ._version import __version__
from .backend import backends, use_backend
from .graph import Graph
from .metric import psi
from .ops.coordinates import coordinate_update
from .ops.invariants import pairwise_invariants

__all__ = [
    "Graph",
    "__version__",
    "active_isa",
    "available_isas",
    "backends",
    "coordinate_update",
    "pairwise_invariants",
    "psi",
    "set_isa",
    "use_backend",
]
