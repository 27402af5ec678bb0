"""The one-line swap: fused kernels under a model that stays the user's own."""

from .swap import fuse_ as fuse_
from .swap import unfuse_ as unfuse_
