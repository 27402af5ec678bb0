"""A fully connected network on the four-momenta of a jet, with or without random boosts in training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..checks import REAL, check_integer, check_tensor, fail
from ..data.kinematics import aligned, boosted
from ..data.order import warn_of_order
from ..export import for_any_size
from ..graph import Graph
from ..nn.linear import weight_of
from .inputs import check_weights, complete_graph
from .pfn import dense

UNITS = (100.0, 100.0, 100.0, 100.0)  # GeV
ALIGNED_UNITS = (100.0, 100.0, 5.0, 5.0)


class MLP(nn.Module):
    """Four linear layers on the four-momenta of the first particles, side by side.

    The plain network that arXiv 2203.06153 (Fig. 2) compares with a Lorentz-equivariant one under boosts, trained in
    one frame or with random boosts of training events. The paper gives neither its inputs nor its widths. Here they are
    the four-momenta of the first ``n_particles`` of a jet, zeros where there are fewer, in the detector's frame or in
    that of :func:`equikernels.data.aligned`. No other symmetry holds, that of permutations neither: files have
    particles in the order of falling pT.

    Args:
        n_particles: of each event; further ones are left out.
        n_hidden: width of the three hidden layers.
        n_class: number of logits.
        aligned: whether events are turned about the beam and boosted along it, so that the jet is along x; units are
            then 100 GeV along it and for the energy and 5 GeV across it. Otherwise 100 GeV.
        max_beta: in training, every event is first boosted along x by a velocity uniform in [-max_beta, max_beta].
    """

    def __init__(
        self,
        n_particles: int = 60,
        n_hidden: int = 200,
        n_class: int = 2,
        aligned: bool = True,
        max_beta: float = 0.0,
    ) -> None:
        super().__init__()
        check_integer("MLP", "n_particles", n_particles, "a number >= 1", 1)
        if not 0 <= max_beta < 1:
            fail("MLP", "max_beta", "a velocity from 0 to below 1", max_beta)
        self.n_particles, self.aligned, self.max_beta = n_particles, aligned, max_beta
        self.layers = nn.Sequential(*dense([4 * n_particles, *[n_hidden] * 3]), nn.Linear(n_hidden, n_class))

    @for_any_size
    def forward(self, p4: Tensor, ptr: Tensor | Graph) -> Tensor:
        """Logits of each event.

        Args:
            p4: [n, 4] four-momenta (E, px, py, pz) in GeV, float32 or float64.
            ptr: int64 [n_events + 1], or the complete graph made from it.

        Returns:
            [n_events, n_class].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        op = "MLP"
        check_tensor(op, "p4", p4, ["n", 4], REAL)
        warn_of_order(op, "p4", p4)
        weight = weight_of(self.layers[0])
        check_weights(op, weight)
        ptr = complete_graph(op, ptr, p4.shape[0])._ptr
        if self.training and self.max_beta > 0:
            uniform = torch.rand(ptr.shape[0] - 1, dtype=p4.dtype, device=p4.device)
            p4 = boosted(p4, ptr, self.max_beta * (2 * uniform - 1), validate=False)
        if self.aligned:
            p4 = aligned(p4, ptr, validate=False)
        rows = first_rows(p4 / p4.new_tensor(ALIGNED_UNITS if self.aligned else UNITS), ptr, self.n_particles)
        out: Tensor = self.layers(rows.flatten(1).to(weight.dtype))
        return out


def first_rows(packed: Tensor, ptr: Tensor, length: int) -> Tensor:
    """[B, length, C] of packed [n, C]: the first rows of every event, zeros behind them."""
    place = torch.arange(length, device=ptr.device)
    real = place < ptr.diff()[:, None]
    padded = torch.cat([packed, packed.new_zeros(1, packed.shape[1])])
    return padded[torch.where(real, ptr[:-1, None] + place, packed.shape[0])]
