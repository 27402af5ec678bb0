"""Events as packed tensors: samples of the package, readers, and the inputs of networks."""

from .four_momenta import four_momenta as four_momenta
from .four_momenta import from_weaver as from_weaver
from .four_momenta import to_awkward as to_awkward
from .four_momenta import to_weaver as to_weaver
from .hits import LAYER_PAIRS as LAYER_PAIRS
from .hits import PIXEL_LAYERS as PIXEL_LAYERS
from .hits import HitGraph as HitGraph
from .hits import hit_graph as hit_graph
from .hits import load_sample_hit_graphs as load_sample_hit_graphs
from .inputs import PDG_IDS as PDG_IDS
from .inputs import invariant_mass as invariant_mass
from .inputs import quark_gluon_scalars as quark_gluon_scalars
from .inputs import top_tagging_scalars as top_tagging_scalars
from .inputs import with_beams as with_beams
from .jets import Jets as Jets
from .jets import load_sample_jets as load_sample_jets
from .kinematics import boosted as boosted
from .kinematics import energy_flow as energy_flow
from .kinematics import jet_images as jet_images
from .kinematics import kinematic_features as kinematic_features
from .read import FORMATS as FORMATS
from .read import iter_jets as iter_jets
from .read import read_jets as read_jets
from .trackml import Hits as Hits
from .trackml import load_acts as load_acts
from .trackml import load_trackml as load_trackml
