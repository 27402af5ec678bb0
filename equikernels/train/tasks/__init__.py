"""Networks by name: how a batch becomes their arguments, for our networks and for the published formulas."""

from __future__ import annotations

from torch import nn

from ...checks import fail
from .lorentz import PELICAN, LorentzNet, PELICANWithIds, VecNet
from .lorentz_group import LGN
from .momentum import PELICANRegressor
from .plain import EFN, EFP, MLP, PCNN, PFN, ParT, ParticleNet, ResNeXt
from .points import EGNN, GNN, TFN, RadialField, SchNet
from .task import Hits as Hits
from .task import JetBatch as JetBatch
from .task import Options, Task
from .tracking import EuclidNet, InteractionNetwork

TASKS: dict[str, Task] = {
    "LorentzNet": LorentzNet(),
    "PELICAN": PELICAN(),
    "PELICANWithIds": PELICANWithIds(),
    "PELICANRegressor": PELICANRegressor(),
    "VecNet": VecNet(),
    "LGN": LGN(),
    "EGNN": EGNN(),
    "SchNet": SchNet(),
    "TFN": TFN(),
    "GNN": GNN(),
    "RadialField": RadialField(),
    "ParticleNet": ParticleNet(),
    "ParT": ParT(),
    "PFN": PFN(),
    "EFN": EFN(),
    "EFP": EFP(),
    "MLP": MLP(),
    "PCNN": PCNN(),
    "ResNeXt": ResNeXt(),
    "EuclidNet": EuclidNet(),
    "InteractionNetwork": InteractionNetwork(),
}


def build(network: str, options: Options, backend: str) -> nn.Module:
    """A network with fresh weights.

    Raises:
        ValueError: no published formula of it.
        TypeError: an option that it has not.
    """
    task = TASKS[network]
    if backend == "published" and not task.formulas:
        fail("config", "backend", f"equikernels or reference: {network} has no published formula here", backend)
    try:
        return task.build(options, backend == "published")
    except TypeError as error:
        fail("config", "options", f"options of {network}", error, TypeError)
