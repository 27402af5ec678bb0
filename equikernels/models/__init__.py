"""Networks, one file each. State-dict keys are those of the published code."""

from .efp import EFP as EFP
from .efp import efps as efps
from .egnn import EGNN as EGNN
from .egnn import EGNNVelocity as EGNNVelocity
from .egnn import RadialField as RadialField
from .euclidnet import EuclidNet as EuclidNet
from .euclidnet import EuclidNetSO3 as EuclidNetSO3
from .gnn import GNN as GNN
from .interaction_network import InteractionNetwork as InteractionNetwork
from .lgn import LGN as LGN
from .lorentznet import LorentzNet as LorentzNet
from .mlp import MLP as MLP
from .part import ParT as ParT
from .particlenet import ParticleNet as ParticleNet
from .pcnn import PCNN as PCNN
from .pelican import PELICANClassifier as PELICANClassifier
from .pelican import PELICANRegressor as PELICANRegressor
from .pelican_nano import PELICANNano as PELICANNano
from .pfn import EFN as EFN
from .pfn import PFN as PFN
from .resnext import ResNeXt as ResNeXt
from .schnet import SchNet as SchNet
from .tfn import TFN as TFN
from .vecnet import VecNet as VecNet
from .vecnet import VecNetTracking as VecNetTracking
