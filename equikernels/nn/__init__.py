"""Layers."""

from .egcl import EGCL as EGCL
from .egcl import EGCLVelocity as EGCLVelocity
from .lgeb import LGEB as LGEB
from .radial_field import RadialFieldLayer as RadialFieldLayer
