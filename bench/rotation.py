"""Plots the effect of rotations about the beam on trackers: EuclidNet (arXiv 2304.05293), figure 2 and appendix B.

python -m bench.rotation    writes docs/rotation.png, in a few minutes

Left: EuclidNet SO(2) and the Interaction Network are trained on hit graphs rotated by each of five angles and
evaluated on other graphs rotated by all of them: the AUC of edges. Both read Cartesian hits. There are only five
graphs, so the AUCs show the dependence on the angle, not the quality of the networks. The simulated detector is round,
so rotations change little for a network that reads x and y.
Right: how far the points of EuclidNet are from being covariant: max over graphs of |phi(R x) - R phi(x)| over |phi(x)|,
and the paper's signed ratio of means, (<phi(R x)> - <R phi(x)>) / <R phi(x)>, which cancellation can make arbitrarily
small or large.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

import equikernels as ek

ANGLES = [k * math.pi / 4 for k in range(5)]
TURNS = [0.2 + 0.3 * k for k in range(10)]  # no multiples of a right angle, whose rotations have no rounding
TRAINED_ON, STEPS = 3, 150
Model = Callable[[Tensor, ek.Graph, Tensor], Tensor]


def rotation(angle: float) -> Tensor:
    """About z, [3, 3], float64."""
    matrix = torch.eye(3, dtype=torch.float64)
    matrix[0, 0] = matrix[1, 1] = math.cos(angle)
    matrix[1, 0] = math.sin(angle)
    matrix[0, 1] = -math.sin(angle)
    return matrix


class Event:
    """A graph with every edge in both directions, as in EuclidNet's release."""

    def __init__(self, sample: ek.data.HitGraph) -> None:
        edges = sample.graph.edge_index
        self.graph = ek.Graph.from_edge_index(torch.cat([edges, edges.flip(0)], dim=1), sample.x.shape[0])
        self.edge_attr = torch.cat([sample.edge_attr, -sample.edge_attr]).float()
        self.label = torch.cat([sample.y, sample.y]).float()
        self.x = sample.cartesian.double()


def auc(score: Tensor, label: Tensor) -> float:
    """Exact, ties counted half."""
    signal, background = score[label > 0.5].double(), score[label <= 0.5].double().sort().values
    below = torch.searchsorted(background, signal) + torch.searchsorted(background, signal, right=True)
    return (below.double().mean() / (2 * len(background))).item()


def networks() -> dict[str, tuple[nn.Module, Model]]:
    torch.manual_seed(0)
    euclid, interaction = ek.models.EuclidNet(8, c_weight=0.05), ek.models.InteractionNetwork(16, 3)
    return {
        "EuclidNet SO(2), h 8": (euclid, lambda x, graph, attr: euclid(x, graph)),
        "Interaction Network, h 16, 3 passes": (interaction, lambda x, graph, attr: interaction(x, graph, attr)),
    }


def trained(module: nn.Module, model: Model, events: list[Event], angle: float) -> None:
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    turn = rotation(angle)
    for step in range(STEPS):
        event = events[step % len(events)]
        out = model((event.x @ turn.T).float(), event.graph, event.edge_attr)[:, 0]
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy(out, event.label).backward()
        optimizer.step()


def sweep(events: list[Event]) -> dict[str, list[list[float]]]:
    """AUC by network, [trained at, evaluated at]."""
    table: dict[str, list[list[float]]] = {name: [] for name in networks()}
    for angle in ANGLES:
        for name, (module, model) in networks().items():
            trained(module, model, events[:TRAINED_ON], angle)
            row = []
            with torch.inference_mode():
                for other in ANGLES:
                    turn = rotation(other)
                    scores = [model((e.x @ turn.T).float(), e.graph, e.edge_attr)[:, 0] for e in events[TRAINED_ON:]]
                    row.append(auc(torch.cat(scores), torch.cat([e.label for e in events[TRAINED_ON:]])))
            table[name].append(row)
            print(f"{name}, trained at {angle:.2f}:", " ".join(f"{v:.4f}" for v in row), flush=True)
    return table


@torch.inference_mode()
def violations(events: list[Event], dtype: torch.dtype) -> tuple[list[float], list[float]]:
    """(largest relative distance from covariance, the paper's ratio) at each of TURNS."""
    torch.manual_seed(0)
    model = ek.models.EuclidNet(8, c_weight=1.0).to(dtype)  # seeded weights move points by their own size
    largest, ratio = [], []
    for angle in TURNS:
        turn = rotation(angle)[:2, :2].to(dtype)
        moved, expected = [], []
        for event in events:
            x, turned = event.x.to(dtype), (event.x @ rotation(angle).T).to(dtype)
            moved.append(model.rounds(*model.embed(turned, event.graph)[:4])[1])
            expected.append(model.rounds(*model.embed(x, event.graph)[:4])[1] @ turn.T)
        largest.append(max(((m - e).norm() / e.norm()).item() for m, e in zip(moved, expected, strict=True)))
        means = [torch.cat(v).mean(0) for v in (moved, expected)]
        ratio.append(((means[0] - means[1]) / means[1]).abs().max().item())
    return largest, ratio


def main() -> None:
    events = [Event(sample) for sample in ek.data.load_sample_hit_graphs()]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    degrees = [math.degrees(angle) for angle in ANGLES]
    for (name, rows), colour in zip(sweep(events).items(), ("tab:blue", "tab:orange"), strict=True):
        for k, row in enumerate(rows):
            left.plot(degrees, row, marker="o", color=colour, alpha=0.5, label=name if k == 0 else None)
    left.set_xlabel("evaluated on hits rotated by [degrees]")
    left.set_ylabel("AUC of edges")
    left.set_title("one line for each angle trained at: 0, 45, 90, 135, 180 degrees", fontsize=10)
    for dtype, marker in ((torch.float64, "o"), (torch.float32, "s")):
        largest, ratio = violations(events, dtype)
        name = str(dtype).removeprefix("torch.")
        small = [math.degrees(angle) for angle in TURNS]
        right.semilogy(small, largest, marker=marker, label=f"{name}, largest distance")
        right.semilogy(small, ratio, marker=marker, linestyle=":", label=f"{name}, ratio of means")
        print(name, "distance", " ".join(f"{v:.1e}" for v in largest), "ratio", " ".join(f"{v:.1e}" for v in ratio))
    right.axhline(1e-8, color="grey", linewidth=0.8)
    right.set_xlabel("rotation about the beam [degrees]")
    right.set_ylabel("violation of covariance")
    right.set_title("EuclidNet's points; grey: the paper's 1e-8", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(Path(__file__).parents[1] / "docs" / "rotation.png", dpi=130)


if __name__ == "__main__":
    main()
