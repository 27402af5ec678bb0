"""message_passing and row_mlp, see op.py and rows.py."""

from .direction import Normed as Normed
from .edge_mlp import EdgeMLP as EdgeMLP
from .edge_mlp import Layer as Layer
from .edge_mlp import Norm as Norm
from .op import EdgeOutput as EdgeOutput
from .op import message_passing as message_passing
from .options import Geometry as Geometry
from .rows import row_mlp as row_mlp
