"""Networks, one file each. State-dict keys are those of the published code."""

from .egnn import EGNN as EGNN
from .egnn import EGNNVelocity as EGNNVelocity
from .egnn import RadialField as RadialField
from .euclidnet import EuclidNet as EuclidNet
from .euclidnet import EuclidNetSO3 as EuclidNetSO3
from .lgn import LGN as LGN
from .interaction_network import InteractionNetwork as InteractionNetwork
from .lorentznet import LorentzNet as LorentzNet
from .pelican import PELICANClassifier as PELICANClassifier
from .pelican import PELICANRegressor as PELICANRegressor
from .pelican_nano import PELICANNano as PELICANNano
from .vecnet import VecNet as VecNet
from .vecnet import VecNetTracking as VecNetTracking
