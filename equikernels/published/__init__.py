"""The published formulas in eager PyTorch, as people run them: equikernels is measured and tested against these."""

from .egnn import E_GCL as E_GCL
from .egnn import EGNN as EGNN
from .egnn import E_GCL_vel as E_GCL_vel
from .egnn import EGNN_vel as EGNN_vel
from .egnn import GCL_rf_vel as GCL_rf_vel
from .egnn import NBodyE_GCL as NBodyE_GCL
from .egnn import RF_vel as RF_vel
from .euclidnet import EuclidNetSO2 as EuclidNetSO2
from .euclidnet import EuclidNetSO3 as EuclidNetSO3
from .euclidnet import PaperEuclidNet as PaperEuclidNet
from .interaction_network import InteractionNetwork as InteractionNetwork
from .lgn import LGN as LGN
from .lorentznet import LorentzNet as LorentzNet
from .nbody import GCL as GCL
from .nbody import GNN as GNN
from .nbody import RF as RF
from .nbody import GCL_rf as GCL_rf
from .part import ParT as ParT
from .pelican import PELICANClassifier as PELICANClassifier
from .pelican_nano import PELICANNano as PELICANNano
from .schnet import SchNet as SchNet
from .taggers import PFN as PFN
from .taggers import ParticleNet as ParticleNet
from .tfn import TFN as TFN
from .vecnet import VecNet as VecNet
