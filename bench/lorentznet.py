"""LorentzNet against the published formula, eager and compiled."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import equikernels as ek
from equikernels import published
from equikernels.data import Jets
from equikernels.nn.lgeb import lorentz_messages

from . import side_by_side
from .ceilings import ceilings
from .clock import clock_of
from .plan import Entry, Plan, Row, Setting, pair
from .side_by_side import OURS, PUBLISHED, Disagreement, interleaved, median, row, same

WIDTH, LAYERS = 72, 6
COMPILED = "torch.compile"


def mean_jet() -> Jets:
    """The sample jet of the mean multiplicity."""
    sample = ek.data.load_sample_jets()
    count = sample.ptr.diff().double()
    typical = int((count - count.mean()).abs().argmin())
    return sample[typical : typical + 1]


class Sides(side_by_side.Sides):
    """A number of sample jets, one jet of the mean multiplicity (None), or other jets."""

    def __init__(self, jets: int | Jets | None) -> None:
        sample = jets if isinstance(jets, Jets) else ek.data.load_sample_jets()
        if jets is None:
            sample = mean_jet()
        elif isinstance(jets, int):
            sample = sample[:jets]
        self.x, self.ptr, is_beam = ek.data.with_beams(sample.p4, sample.ptr)
        self.scalars = ek.data.top_tagging_scalars(self.x, is_beam)
        self.label = sample.label.long()
        self.graph = ek.Graph.complete(self.ptr)
        self.edges = self.graph.num_edges
        self.padded = published.LorentzNet.padded_inputs(self.x, self.scalars, self.ptr)
        torch.manual_seed(0)
        self.ours = ek.models.LorentzNet(2, WIDTH, n_layers=LAYERS, c_weight=5e-3, readout="padded_mean")
        self.published = published.LorentzNet(2, WIDTH, n_layers=LAYERS, c_weight=5e-3)
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        if side == PUBLISHED:
            return self.published(*self.padded)
        dtype = next(self.ours.parameters()).dtype  # float64 for reference gradients
        return self.ours(self.x.to(dtype), self.scalars.to(dtype), self.graph, padded_to=self.padded[-1])

    def exact(self) -> None:
        """Converts both sides to float64, where gradients agree to rounding."""
        self.ours.double(), self.published.double()
        scalars, x, edges, node_mask, n_nodes = self.padded
        self.padded = scalars.double(), x.double(), edges, node_mask.double(), n_nodes
        same("gradients in float64", self.gradient(OURS), self.gradient(PUBLISHED), 1e-8)

    @torch.inference_mode()
    def kernel(self, precision: str = "highest") -> None:
        """The fused op of the first block alone."""
        lorentz_messages(self.ours.LGEBs[0], self.features(), self.x, self.graph, precision=precision)

    def features(self) -> Tensor:
        return torch.randn(self.x.shape[0], WIDTH, generator=torch.Generator().manual_seed(0))

    def backward_of_kernel(self) -> Callable[[], object]:
        """The gradients of the same op in training, of all it reads; without its forward pass."""
        block = self.ours.LGEBs[0].train()
        h, x = self.features().requires_grad_(), self.x.clone().requires_grad_()
        out = lorentz_messages(block, h, x, self.graph)
        outputs = [t for t in (out.messages, out.coordinates) if t is not None]
        read = [h, x, *(p for name, p in block.named_parameters() if not name.startswith("phi_h"))]
        cotangents = [torch.ones_like(t) for t in outputs]
        return lambda: torch.autograd.grad(outputs, read, cotangents, retain_graph=True)


def plan(setting: Setting) -> Plan:
    """``quick``: 20 jets instead of 100, fewer repetitions. On a GPU, forward and training step only."""
    jets = 20 if setting.quick else 100
    few, many = ((5, 2), (10, 10)) if setting.quick else ((5, 3), (20, 20))
    on_cpu = setting.device == "cpu"
    both = functools.cache(lambda: Sides(jets).to(setting.device).prepared())
    one = functools.cache(lambda: Sides(None).to(setting.device).prepared())
    limits = functools.cache(lambda: ceilings(setting.threads, setting.device))

    def check() -> None:
        Sides(3).to(setting.device).exact()
        both().agree(), both().errors()

    def share(flops: float, seconds: float) -> Entry:
        return {"fraction_of_fma_peak": 1e-9 * flops / seconds / limits()["multiply_adds_gflops"]} if on_cpu else {}

    def forward(what: str) -> Entry:
        entry = main_rows[0].measure(what)
        return {**entry, **share(flops_of(both().edges), 1e-3 * entry[f"{OURS}_ms"])}

    def block(what: str, precision: str = "highest", rate: str = "tf32") -> Entry:
        flops = 4 * both().edges * WIDTH * WIDTH
        if on_cpu:
            seconds = median(both().kernel, 15)
            return {"what": what, f"{OURS}_ms": 1e3 * seconds, **share(flops, seconds)}
        seconds = statistics.median(clock_of(setting.device)(lambda: both().kernel(precision)) for _ in range(15))
        share_of_rate = 1e-9 * flops / seconds / limits()[f"matmul_{rate}_gflops"]
        return {"what": what, f"{OURS}_ms": 1e3 * seconds, "fraction_of_matmul_rate": share_of_rate}

    def block_backward(what: str) -> Entry:
        # The gradients of both products, by inputs and by weights, and the first product again: the head's is kept.
        seconds = median(both().backward_of_kernel(), 15)
        return {"what": what, f"{OURS}_ms": 1e3 * seconds, **share(10 * both().edges * WIDTH * WIDTH, seconds)}

    name = f"{jets} jets"
    main_rows = pair(both, name, lambda: few)
    step = pair(both, name, lambda: (3, 2))[1]
    alone = pair(one, f"one jet of {int(mean_jet().ptr[1])} constituents", lambda: many)[0]
    rows = [Row(main_rows[0].what, forward), step, alone]
    if not setting.quick:
        rows.append(Row(f"forward, {name}", lambda what: compiled(both(), what, few), COMPILED))
        rows.append(Row(f"training step, {name}", lambda what: compiled(both(), what, (3, 2), True), COMPILED))
    rows.append(Row("fused op of one block, forward", block, None))
    if not on_cpu:
        in_bfloat16 = functools.partial(block, precision="medium", rate="bf16")
        rows.append(Row("fused op of one block, forward, bfloat16 products", in_bfloat16, None))
        rows.append(Row(f"forward, {name}, graphed", lambda what: both().graphed(what, few)))
        rows.append(Row("forward, one jet, graphed", lambda what: one().graphed(what, many)))
    if on_cpu:
        rows.append(Row("fused op of one block, backward", block_backward, None))
        rows.append(Row(f"forward, {name}, bfloat16 products", lambda what: bfloat16(both(), what, few)))
        of_step = functools.partial(bfloat16, training=True)
        rows.append(Row(f"training step, {name}, bfloat16 products", lambda what: of_step(both(), what, (3, 2))))
        if "avx2" in ek.available_isas() and ek.active_isa() != "avx2":
            rows.append(Row(f"forward, {name}, AVX2 kernels", lambda what: avx2(both(), what, few)))
    steps = {"": lambda: (Sides(jets).prepared(), Sides(1))}
    return Plan(rows, check, steps, lambda _: {"edges": both().edges, "ceilings": limits()})


def flops_of(edges: int) -> int:
    """Of a forward pass: two products of H x H on every edge, the last layer without its head."""
    return 2 * edges * WIDTH * WIDTH * (2 * LAYERS - 1)


def compiled(sides: Sides, what: str, rounds: tuple[int, int], training: bool = False) -> Entry:
    """Against torch.compile of the published formula, or the reason why it is left out."""
    sides.agree()  # the same running statistics
    eager, sides.published = sides.published, torch.compile(sides.published)
    try:
        start = time.perf_counter()
        sides.forward(PUBLISHED)
        seconds = time.perf_counter() - start
        difference = same("logits of the compiled formula", sides.forward(OURS), sides.forward(PUBLISHED), 1e-4)
        call = sides.step if training else sides.forward
        times = interleaved(lambda: call(OURS), lambda: call(PUBLISHED), rounds, f"{what}, {COMPILED}", sides.device)
        return {**row(what, *times, COMPILED), "compile_seconds": seconds, "difference": difference}
    except (RuntimeError, Disagreement) as error:
        return {"left_out": [f"torch.compile of the published formula: {str(error).strip().splitlines()[0]}"]}
    finally:
        sides.published = eager


def bfloat16(sides: Sides, what: str, rounds: tuple[int, int], training: bool = False) -> Entry:
    """With bfloat16 products on edges, which change logits and gradients by design."""
    sides.agree()
    exact = sides.gradient(OURS) if training else sides.forward(PUBLISHED)
    for block in sides.ours.LGEBs:
        block.precision = "medium"
    found = sides.gradient(OURS) if training else sides.forward(OURS)
    # Autocast of the published formula to bfloat16 moves the gradients of 100 jets by 0.23.
    moved = same(f"{what}: gradients", found, exact, 5e-2) if training else same(f"{what}: logits", found, exact, 2e-2)
    entry = sides.time(what, sides.step if training else sides.forward, rounds)
    for block in sides.ours.LGEBs:
        block.precision = "highest"
    return {**entry, "difference": moved}


def avx2(sides: Sides, what: str, rounds: tuple[int, int]) -> Entry:
    isa = ek.active_isa()
    ek.set_isa("avx2")
    difference = sides.agree()
    entry = sides.time(what, sides.forward, rounds)
    ek.set_isa(isa)
    return {**entry, "difference": difference}
