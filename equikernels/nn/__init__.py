"""Layers."""

from .egcl import EGCL as EGCL
from .egcl import EGCLVelocity as EGCLVelocity
from .lgeb import LGEB as LGEB
from .pelican import Eq1to2 as Eq1to2
from .pelican import Eq2to0 as Eq2to0
from .pelican import Eq2to1 as Eq2to1
from .pelican import Eq2to2 as Eq2to2
from .pelican import MessageBlock as MessageBlock
from .radial_field import RadialFieldLayer as RadialFieldLayer
