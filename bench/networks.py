"""Any network beside its published formula: forward pass, training step and its peak memory.

python -m bench.networks --network egnn --out bench/results/egnn.json
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels.data import Jets

from . import lorentznet, memory, pelican, side_by_side
from .baselines.nano import Nano
from .baselines.vecnet import VecNet
from .machine import machine
from .side_by_side import PUBLISHED
from .tracking import EGNNSides, EuclidNetSides, InteractionSides


class PelicanSides(pelican.Sides):
    """The network of another width: channels of scalars, of messages and of edges as the repository names them."""

    def __init__(self, quick: bool, scalar: int, message: int, edge: int) -> None:
        sizes = {"num_channels_scalar": scalar, "num_channels_m": [[message]] * 5, "num_channels_2to2": [edge] * 5}
        sizes |= {"num_channels_out": [message], "num_channels_m_out": [message, edge]}
        events = pelican.evenly(27, 54, 4 if quick else 16)
        super().__init__(events, **sizes)
        self.size, self.name = f"{len(events)} events, n 27 to 54", f"widths {message} and {edge}, 5 blocks"


class NanoSides(pelican.Sides):
    """Eleven parameters and BatchNorm's four."""

    name = "n 1, with BatchNorm"

    def __init__(self, quick: bool) -> None:
        events = pelican.evenly(27, 54, 16 if quick else 100)
        super().__init__(events)
        sizes: dict[str, Any] = {"batchnorm": "b", "dropout": False}
        torch.manual_seed(0)
        self.ours, self.published = ek.models.PELICANNano(1, **sizes), Nano(1, **sizes)
        self.published.load_state_dict(self.ours.state_dict())
        self.size = f"{len(events)} events, n 27 to 54"


class VecNetSides(lorentznet.Sides):
    """LorentzNet with a free stream of half its width."""

    name = "h 72, 36 free, L 6"

    def __init__(self, jets: int | Jets) -> None:
        super().__init__(jets)
        self.free = self.x.sign() * self.x.abs().log1p()
        sizes: dict[str, Any] = {"n_free_input": 4, "c_weight": 5e-3}
        torch.manual_seed(0)
        self.ours, self.published = ek.models.VecNet(2, 72, 36, **sizes), VecNet(2, 72, 36, **sizes)
        self.published.load_state_dict(self.ours.state_dict())
        self.rows = self.graph.receiver, self.graph.sender
        count = self.ptr.diff()
        self.events = torch.repeat_interleave(torch.arange(len(count)), count), count[:, None]
        self.size = f"{len(self.label)} jets"

    def logits(self, side: str) -> Tensor:
        model = self.model(side)
        x, scalars, free = (t.to(next(model.parameters()).dtype) for t in (self.x, self.scalars, self.free))
        if side == PUBLISHED:
            return model(x, scalars, self.rows, self.events, free)
        return model(x, scalars, self.graph, free)


NETWORKS: dict[str, Callable[[bool], Any]] = {
    "egnn": EGNNSides,
    "euclidnet": EuclidNetSides,
    "interaction_network": InteractionSides,
    "vecnet": lambda quick: VecNetSides(20 if quick else 100),
    "pelican_nano": NanoSides,
    "pelican_11k": lambda quick: PelicanSides(quick, 10, 25, 15),
    "pelican_208k": lambda quick: PelicanSides(quick, 10, 132, 78),
}


def measure(network: str, threads: int, quick: bool, device: str = "cpu") -> dict[str, Any]:
    """``quick``: a fraction of the events or edges."""
    torch.set_num_threads(threads)
    sides = NETWORKS[network](quick).to(device)
    if hasattr(sides, "graph"):
        sides.graph.table  # noqa: B018 (made on first use; not what is measured)
    difference, errors = sides.agree(), sides.gradient_errors()
    start = time.perf_counter()
    sides.step(PUBLISHED)
    rounds = (3, 3) if quick else (3, max(4, min(10, int(20 / (time.perf_counter() - start)))))
    forward = sides.time(f"forward, {sides.size}", sides.forward, rounds)
    step = sides.time(f"training step, {sides.size}", sides.step, rounds)
    arguments = ["--network", network, "--threads", str(threads), *(["--quick"] if quick else [])]
    on_cpu = device == "cpu"
    return {
        **machine(network, threads, device),
        "model": sides.name,
        "parameters": sum(p.numel() for p in sides.ours.parameters()),
        "rows": [
            {**forward, "difference": difference},
            {**step, "gradient_error": errors[0], "published_gradient_error": errors[1]},
        ],
        memory.KEY: memory.peaks(f"{__package__}.networks", arguments) if on_cpu else memory.on_device(sides.step),
    }


def main() -> None:
    parser = side_by_side.parser(__doc__)
    parser.add_argument("--network", choices=NETWORKS, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.child:
        sides, small = NETWORKS[options.network](options.quick), NETWORKS[options.network](True)
        memory.print_peaks(lambda: sides.step(options.child), lambda: small.step(options.child))
    else:
        result = measure(options.network, options.threads, options.quick, options.device)
        side_by_side.write(result, options.out)


if __name__ == "__main__":
    main()
