"""Events as packed tensors: sample jets that ship with the package, and the networks' inputs made from four-momenta."""

from .jets import PDG_IDS as PDG_IDS
from .jets import Jets as Jets
from .jets import invariant_mass as invariant_mass
from .jets import load_sample_jets as load_sample_jets
from .jets import quark_gluon_scalars as quark_gluon_scalars
from .jets import top_tagging_scalars as top_tagging_scalars
from .jets import with_beams as with_beams
