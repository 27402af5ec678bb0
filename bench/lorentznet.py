"""LorentzNet against the published formula in eager PyTorch, side by side; writes JSON and prints a table.

python -m bench.lorentznet --out bench/results/lorentznet.json
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels import baselines
from equikernels.data import Jets

from . import memory, side_by_side
from .ceilings import ceilings
from .machine import machine
from .side_by_side import OURS, PUBLISHED, Disagreement, interleaved, median, row, same

WIDTH, LAYERS = 72, 6
COMPILED = "torch.compile"


class Sides(side_by_side.Sides):
    """So many sample jets, one of the mean multiplicity (None), or other jets."""

    def __init__(self, jets: int | Jets | None) -> None:
        sample = jets if isinstance(jets, Jets) else ek.data.load_sample_jets()
        if jets is None:  # one jet, of the mean multiplicity
            count = sample.ptr.diff().double()
            typical = int((count - count.mean()).abs().argmin())
            sample = sample[typical : typical + 1]
        elif isinstance(jets, int):
            sample = sample[:jets]
        self.x, self.ptr, is_beam = ek.data.with_beams(sample.p4, sample.ptr)
        self.scalars = ek.data.top_tagging_scalars(self.x, is_beam)
        self.label = sample.label.long()
        self.graph = ek.Graph.complete(self.ptr)
        self.edges = self.graph.num_edges
        self.padded = baselines.LorentzNet.padded_inputs(self.x, self.scalars, self.ptr)
        torch.manual_seed(0)
        self.ours = ek.models.LorentzNet(2, WIDTH, n_layers=LAYERS, c_weight=5e-3, readout="padded_mean")
        self.published = baselines.LorentzNet(2, WIDTH, n_layers=LAYERS, c_weight=5e-3)
        self.published.load_state_dict(self.ours.state_dict())

    def logits(self, side: str) -> Tensor:
        if side == PUBLISHED:
            return self.published(*self.padded)
        dtype = next(self.ours.parameters()).dtype  # float64 where gradients are held against it
        return self.ours(self.x.to(dtype), self.scalars.to(dtype), self.graph, padded_to=self.padded[-1])

    def exact(self) -> None:
        """Both sides to float64, where gradients agree to rounding or not at all."""
        self.ours.double(), self.published.double()
        scalars, x, edges, node_mask, n_nodes = self.padded
        self.padded = scalars.double(), x.double(), edges, node_mask.double(), n_nodes
        same("gradients in float64", self.gradient(OURS), self.gradient(PUBLISHED), 1e-8)

    @torch.inference_mode()
    def kernel(self) -> None:
        """The fused op of the first block alone, on tables of its sizes."""
        block: Any = self.ours.LGEBs[0]
        tables = torch.randn(2, self.x.shape[0], WIDTH, generator=torch.Generator().manual_seed(0))
        ek.message_passing(
            tables[0],
            tables[1],
            self.x,
            self.graph,
            invariant_weight=block.phi_e[0].weight[:, -2:],
            layers=[(block.phi_e[3].weight, block.phi_e[3].bias)],
            gate=(block.phi_m[0].weight, block.phi_m[0].bias),
            head=(block.phi_x[0].weight, block.phi_x[0].bias, block.phi_x[2].weight),
            clamp=100.0,
        )


def child(side: str, jets: int) -> None:
    sides, small = Sides(jets), Sides(1)
    sides.graph.edge_index if side == PUBLISHED else sides.graph.table  # noqa: B018 (inputs, made before)
    memory.print_peaks(lambda: sides.step(side), lambda: small.step(side))


def measure(threads: int, quick: bool, device: str = "cpu", jets: int | None = None) -> dict[str, Any]:
    """``quick``: 20 jets instead of 100, fewer repetitions. On a GPU, forward and training step only."""
    torch.set_num_threads(threads)
    jets = jets or (20 if quick else 100)
    Sides(3).to(device).exact()
    sides = Sides(jets).to(device)
    difference = sides.agree()
    errors = sides.gradient_errors()
    sides.agree()
    sides.graph.edge_index  # noqa: B018 (the published side has its edge list ready too)
    few, many = ((5, 2), (10, 10)) if quick else ((5, 3), (20, 20))
    rows = [{**sides.time(f"forward, {jets} jets", sides.forward, few), "difference": difference}]
    step = sides.time(f"training step, {jets} jets", sides.step, (3, 2))
    rows.append({**step, "gradient_error": errors[0], "published_gradient_error": errors[1]})
    one = Sides(None).to(device)
    one.agree()
    rows.append(one.time(f"forward, one jet of {one.x.shape[0] - 2} constituents", one.forward, many))
    result = {**machine("lorentznet", threads, device), "edges": sides.edges, "rows": rows}
    result["ceilings"] = ceilings(threads, device)
    if not quick:
        compiled(sides, result, f"forward, {jets} jets", few)
    if device != "cpu":
        return result | {memory.KEY: memory.on_device(sides.step)}
    on_cpu(sides, result, jets, few)
    arguments = ["--jets", str(jets), "--threads", str(threads)]
    return result | {memory.KEY: memory.peaks(f"{__package__}.lorentznet", arguments)}


def compiled(sides: Sides, result: dict[str, Any], name: str, rounds: tuple[int, int]) -> None:
    """Adds a row against torch.compile of the published formula, or why there is none."""
    sides.agree()  # the same running statistics
    eager, sides.published = sides.published, torch.compile(sides.published)
    try:
        start = time.perf_counter()
        sides.forward(PUBLISHED)
        seconds = time.perf_counter() - start
        difference = same("logits of the compiled formula", sides.forward(OURS), sides.forward(PUBLISHED), 1e-4)
        times = interleaved(
            lambda: sides.forward(OURS), lambda: sides.forward(PUBLISHED), rounds, f"{name}, {COMPILED}", sides.device
        )
        result["rows"].append({**row(name, *times, COMPILED), "compile_seconds": seconds, "difference": difference})
    except (RuntimeError, Disagreement) as error:
        result["left_out"] = [f"torch.compile of the published formula: {str(error).strip().splitlines()[0]}"]
    sides.published = eager


def on_cpu(sides: Sides, result: dict[str, Any], jets: int, rounds: tuple[int, int]) -> None:
    """Adds what has a meaning on CPUs: distance from the machine's limit, bfloat16, AVX2."""
    rows, peak = result["rows"], 1e9 * result["ceilings"]["multiply_adds_gflops"]
    # two products of H x H on every edge, the last layer without its head
    flops = 2 * sides.edges * WIDTH * WIDTH * (2 * LAYERS - 1)
    rows[0]["fraction_of_fma_peak"] = flops / (1e-3 * rows[0][f"{OURS}_ms"]) / peak
    kernel = median(sides.kernel, 15)
    one_layer = {"what": "fused op of one block, forward", f"{OURS}_ms": 1e3 * kernel}
    rows.append({**one_layer, "fraction_of_fma_peak": 4 * sides.edges * WIDTH * WIDTH / kernel / peak})
    sides.agree()  # the same running statistics
    for block in sides.ours.LGEBs:
        block.precision = "bfloat16"  # not the same numbers, by request: products on edges round their factors
    moved = same("logits with bfloat16 products", sides.forward(OURS), sides.forward(PUBLISHED), 2e-2)
    bfloat16 = sides.time(f"forward, {jets} jets, bfloat16 products", sides.forward, rounds)
    rows.append({**bfloat16, "difference": moved})
    for block in sides.ours.LGEBs:
        block.precision = "full"
    if "avx2" in ek.available_isas() and ek.active_isa() != "avx2":
        isa = ek.active_isa()
        ek.set_isa("avx2")
        sides.agree()
        rows.append(sides.time(f"forward, {jets} jets, AVX2 kernels", sides.forward, rounds))
        ek.set_isa(isa)


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--jets", type=int, help="default: 100; --quick: 20")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        child(options.child, options.jets or 100)
    else:
        side_by_side.write(measure(options.threads, options.quick, options.device, jets=options.jets), options.out)


if __name__ == "__main__":
    main()
