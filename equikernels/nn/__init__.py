"""Layers."""

from .egcl import EGCL as EGCL
from .egcl import EGCLVelocity as EGCLVelocity
from .euclid import EuclidConv as EuclidConv
from .euclid import EuclidConv3 as EuclidConv3
from .euclid import PaperEuclidConv as PaperEuclidConv
from .free_stream import FreeStream as FreeStream
from .interaction import InteractionConv as InteractionConv
from .lgeb import LGEB as LGEB
from .pelican import Eq1to2 as Eq1to2
from .pelican import Eq2to0 as Eq2to0
from .pelican import Eq2to1 as Eq2to1
from .pelican import Eq2to2 as Eq2to2
from .pelican import MessageBlock as MessageBlock
from .radial_field import RadialFieldLayer as RadialFieldLayer
