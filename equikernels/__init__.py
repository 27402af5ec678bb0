"""Fused kernels for Lorentz- and rotation-equivariant networks in particle physics."""

from . import _waiting as _waiting  # isort: skip (before torch is imported)
from . import _native as _native
from . import data as data
from . import deploy as deploy
from . import metrics as metrics
from . import models as models
from . import nn as nn
from . import train as train
from ._native import active_isa, available_isas, set_isa
from ._version import __version__
from .backend import backends, use_backend
from .checkpoint import load_checkpoint
from .cuda_graphs import graphed
from .fuse import fuse_, unfuse_
from .graph import Graph
from .metric import eta_phi, psi
from .ops.coordinates import coordinate_update
from .ops.encode import encode_invariants
from .ops.invariants import pairwise_invariants
from .ops.message_passing import EdgeMLP, EdgeOutput, Geometry, Layer, Norm, Normed, message_passing, row_mlp
from .ops.neighbors import k_nearest, knn_graph, radius_graph
from .ops.pairs import (
    Aggregation,
    PairBatch,
    PairNorm,
    linear_1to2,
    linear_2to0,
    linear_2to1,
    linear_2to2,
    pairwise_affine,
    pairwise_linear,
    pairwise_network,
    rank2_broadcast,
    rank2_mix,
    rank2_products,
    rank2_reduce,
)
from .ops.segment import gather_segment_reduce, segment_reduce, segment_softmax
from .packing import (
    pack,
    pack_awkward,
    pack_list,
    pack_nested,
    unpack,
    unpack_awkward,
    unpack_list,
    unpack_nested,
)
from .pairs import pack_pairs, unpack_pairs
from .pretrained import load_pretrained, pretrained_card, pretrained_names

__all__ = [
    "Aggregation",
    "EdgeMLP",
    "EdgeOutput",
    "Geometry",
    "Graph",
    "Layer",
    "Norm",
    "Normed",
    "PairBatch",
    "PairNorm",
    "__version__",
    "active_isa",
    "available_isas",
    "backends",
    "coordinate_update",
    "data",
    "deploy",
    "encode_invariants",
    "eta_phi",
    "fuse_",
    "gather_segment_reduce",
    "graphed",
    "k_nearest",
    "knn_graph",
    "linear_1to2",
    "linear_2to0",
    "linear_2to1",
    "linear_2to2",
    "load_checkpoint",
    "load_pretrained",
    "message_passing",
    "metrics",
    "models",
    "nn",
    "pack",
    "pack_awkward",
    "pack_list",
    "pack_nested",
    "pack_pairs",
    "pairwise_affine",
    "pairwise_invariants",
    "pairwise_linear",
    "pairwise_network",
    "pretrained_card",
    "pretrained_names",
    "psi",
    "radius_graph",
    "rank2_broadcast",
    "rank2_mix",
    "rank2_products",
    "rank2_reduce",
    "row_mlp",
    "segment_reduce",
    "segment_softmax",
    "set_isa",
    "unfuse_",
    "unpack",
    "unpack_awkward",
    "unpack_list",
    "unpack_nested",
    "unpack_pairs",
    "use_backend",
]
