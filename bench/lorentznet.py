"""LorentzNet against the published formula in eager PyTorch, side by side; writes JSON and prints a table.

python -m bench.lorentznet --out bench/results/lorentznet.json
"""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels import baselines

from . import side_by_side
from .ceilings import copy_bandwidth, multiply_adds
from .side_by_side import OURS, PUBLISHED, interleaved, median, row

WIDTH, LAYERS = 72, 6


class Sides(side_by_side.Sides):
    def __init__(self, jets: int | None) -> None:
        sample = ek.data.load_sample_jets()
        if jets is None:  # one jet, of the mean multiplicity
            count = sample.ptr.diff().double()
            typical = int((count - count.mean()).abs().argmin())
            sample = sample[typical : typical + 1]
        else:
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
        if side == "published":
            return self.published(*self.padded)
        return self.ours(self.x, self.scalars, self.graph, padded_to=self.padded[-1])

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
    side_by_side.print_peaks(lambda: sides.step(side), lambda: small.step(side))


def measure(jets: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    sides = Sides(jets)
    difference = sides.agree()
    sides.graph.edge_index  # noqa: B018 (the published side has its edge list ready too)
    rows = []
    peak = multiply_adds(threads)
    forward = interleaved(lambda: sides.forward(OURS), lambda: sides.forward(PUBLISHED), (5, 3))
    rows.append(row(f"forward, {jets} jets", *forward))
    # two products of H x H on every edge, the last layer without its head
    flops = 2 * sides.edges * WIDTH * WIDTH * (2 * LAYERS - 1)
    rows[-1]["fraction_of_fma_peak"] = flops / statistics.median(forward[0]) / peak
    kernel = median(sides.kernel, 15)
    one_layer = {"what": "fused op of one block, forward", f"{OURS}_ms": 1e3 * kernel}
    rows.append({**one_layer, "fraction_of_fma_peak": 4 * sides.edges * WIDTH * WIDTH / kernel / peak})
    for block in sides.ours.LGEBs:
        block.precision = "bfloat16"  # not the same numbers, by request: products on edges round their factors
    rows.append(sides.time(f"forward, {jets} jets, bfloat16 products", sides.forward, (5, 3)))
    for block in sides.ours.LGEBs:
        block.precision = "full"
    rows.append(sides.time(f"training step, {jets} jets", sides.step, (3, 2)))
    one = Sides(None)
    one.agree()
    rows.append(one.time(f"forward, one jet of {one.x.shape[0] - 2} constituents", one.forward, (20, 20)))
    if "avx2" in ek.available_isas() and ek.active_isa() != "avx2":
        isa = ek.active_isa()
        ek.set_isa("avx2")
        sides.agree()
        rows.append(sides.time(f"forward, {jets} jets, AVX2 kernels", sides.forward, (5, 2)))
        ek.set_isa(isa)
    return {
        **side_by_side.machine(threads),
        "ceilings": {"multiply_adds_gflops": peak / 1e9, "copy_gb_per_s": copy_bandwidth(threads) / 1e9},
        "edges": sides.edges,
        "logit_difference": difference,
        "rows": rows,
        "training_step_peak_mib": side_by_side.peaks(
            "bench.lorentznet", ["--jets", str(jets), "--threads", str(threads)]
        ),
    }


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--jets", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        child(options.child, options.jets)
    else:
        side_by_side.write(measure(options.jets, options.threads), options.out)


if __name__ == "__main__":
    main()
