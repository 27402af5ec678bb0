"""Layers."""

from .continuous_filter import ContinuousFilter as ContinuousFilter
from .egcl import EGCL as EGCL
from .egcl import EGCLVelocity as EGCLVelocity
from .euclid import EuclidBlock as EuclidBlock
from .euclid import EuclidPointsBlock as EuclidPointsBlock
from .euclid import PaperEuclidBlock as PaperEuclidBlock
from .free_stream import FreeStream as FreeStream
from .gcl import GCL as GCL
from .interaction import InteractionBlock as InteractionBlock
from .lgeb import LGEB as LGEB
from .lorentz_group import CGLevel as CGLevel
from .pelican import Eq1to2 as Eq1to2
from .pelican import Eq2to0 as Eq2to0
from .pelican import Eq2to1 as Eq2to1
from .pelican import Eq2to2 as Eq2to2
from .pelican import MessageBlock as MessageBlock
from .radial_field import RadialFieldLayer as RadialFieldLayer
from .sync_batch_norm import SyncBatchNorm as SyncBatchNorm
from .tensor_field import NormActivation as NormActivation
from .tensor_field import TensorFieldLayer as TensorFieldLayer

# Made of torch_geometric.nn.MessagePassing, which is imported when one of them is asked for.
_PYG = ("EGConv", "EuclidConv", "InteractionConv", "LGEBConv")


def __getattr__(name: str) -> object:
    if name in _PYG:
        from . import pyg

        return getattr(pyg, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
