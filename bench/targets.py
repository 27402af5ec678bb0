"""Targets for the tables of docs/measuring.md."""

from __future__ import annotations

from dataclasses import dataclass

from .side_by_side import PUBLISHED


@dataclass(frozen=True)
class Target:
    """A goal for a field of a row: a lower limit, or an upper limit with ``most``."""

    what: str
    network: str
    row: str
    goal: float
    field: str = "ratio"  # a ratio, a fraction_of_..., or a time in ..._ms
    baseline: str | None = PUBLISHED
    memory: bool = False
    most: bool = False
    optional: bool = False  # not every machine has its row


COMPILED = "torch.compile"
BOTH = ("forward", "training step")
CPU = (
    Target("LorentzNet, forward, 100 jets", "lorentznet", "forward, 100 jets", 25),
    Target("the same, bfloat16 products", "lorentznet", "forward, 100 jets, bfloat16 products", 45),
    Target("the same, AVX2 kernels", "lorentznet", "forward, 100 jets, AVX2 kernels", 8, optional=True),
    Target("the same, one jet", "lorentznet", "forward, one jet of 56 constituents", 8),
    Target("LorentzNet, training step, 100 jets", "lorentznet", "training step, 100 jets", 15),
    Target("the same, peak memory", "lorentznet", "PyTorch's allocator", 20, memory=True),
    Target(
        "LorentzNet, fused op of one block, of the multiply-add peak",
        "lorentznet",
        "fused op of one block, forward",
        0.75,
        "fraction_of_fma_peak",
        None,
    ),
    Target(
        "PELICAN, one 2->2 layer, of the multiply-add peak",
        "pelican",
        "one 2->2 layer 35 -> 60, forward",
        0.7,
        "fraction_of_fma_peak",
    ),
    Target("PELICAN, forward, 16 events", "pelican", "forward, 16 events, n 27 to 54", 45),
    Target("PELICAN, training step, 16 events", "pelican", "training step, 16 events, n 27 to 54", 36),
    *(Target(f"PELICAN, {what}, one event", "pelican", f"{what}, one event of n = 54", 10) for what in BOTH),
    *(Target(f"EGNN, {what}, 80k edges", "egnn", f"{what}, 80,000 edges", 6) for what in BOTH),
    *(
        Target(f"EuclidNet, {what}, {edges} edges, H {h}", "euclidnet",
               f"{what}, {edges} edges" + (f", H {h}" if h > 8 else ""), goal)
        for edges, h, goals in (("80,256", 8, (9, 6)), ("80,256", 16, (7, 6)), ("80,256", 32, (6, 5)),
                                ("3,508", 8, (6, 4)), ("3,508", 16, (6, 4)), ("3,508", 32, (6, 4)))
        for what, goal in zip(BOTH, goals, strict=True)
    ),
    *(
        Target(f"Interaction Network, {what}, {edges} edges", "interaction_network", f"{what}, {edges} edges", goal)
        for edges, goal in (("80,256", 5), ("3,508", 4)) for what in BOTH
    ),
    *(
        Target(f"`k_nearest`, {metric}, k 16, 100 jets of 100", "kernels",
               f"k_nearest, k = 16, {metric}, 100 jets of 100, forward, 2 threads", 8, baseline="topk over all pairs")
        for metric in ("euclidean", "minkowski")
    ),
    *(
        Target(f"ONNX Runtime, 1 thread, one jet of 50: our library over {what}", "deploy",
               "ONNX Runtime with kernels, one jet of 50", goal, baseline=baseline)
        for what, goal, baseline in (("plain ONNX Runtime", 5, "plain_onnx"),
                                     ("the fused network in PyTorch", 0.77, "fused_pytorch"))
    ),
    Target(
        "LorentzNet and ParticleNet, forward", "taggers", "LorentzNet, forward, 100 jets", 1, baseline="particlenet"
    ),
    *(
        Target(f"`{op}`, two particles", "kernels", f"{op}, two particles, forward, 1 thread", 0.01, "equikernels_ms",
               "index_add_", most=True)
        for op in ("pairwise_invariants", "coordinate_update", "gather_segment_reduce, sum", "segment_reduce, sum")
    ),
)  # fmt: skip
MEMORY_BOUND = (
    ("pairwise_invariants", "100 jets"),
    ("segment_reduce, sum", "100 jets"),
    ("segment_softmax", "100 jets"),
    ("rank2_reduce, sum", "16 jets"),
    ("rank2_broadcast", "16 jets"),
)
GPU = (
    Target("LorentzNet, forward, 100 jets", "lorentznet", "forward, 100 jets", 10),
    Target("the same relative to torch.compile", "lorentznet", "forward, 100 jets", 4, baseline=COMPILED),
    Target("LorentzNet, training step, 100 jets", "lorentznet", "training step, 100 jets", 6),
    Target("PELICAN, forward, 16 events", "pelican", "forward, 16 events, n 27 to 54", 8),
    Target("PELICAN, training step, 16 events", "pelican", "training step, 16 events, n 27 to 54", 6),
    Target(
        "PELICAN relative to the compiled `pelican-hep`, forward",
        "pelican",
        "forward, 16 events, n 27 to 54, letter s, pelican_hep_compiled",
        3,
    ),
    Target("EGNN, forward, 80k edges", "egnn", "forward, 80,000 edges", 5),
    Target("EuclidNet, forward, 80k edges", "euclidnet", "forward, 80,256 edges", 5),
    Target(
        "LorentzNet and ParticleNet, forward", "taggers", "LorentzNet, forward, 100 jets", 1, baseline="particlenet"
    ),
    *(
        Target(f"`{op}`, of the copy bandwidth", "kernels", f"{op}, {graph}, forward, 1 thread", 0.85,
               "fraction_of_roof", "index_add_")
        for op, graph in MEMORY_BOUND
    ),
)  # fmt: skip
