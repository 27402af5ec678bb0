"""Particle and energy flow networks, arXiv 1810.05165, on packed events."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from ..checks import FLOATING, check_tensor
from ..export import for_any_size
from ..graph import Graph
from ..nn.linear import weight_of
from ..nn.rows import apply_layers
from ..ops.segment import segment_reduce
from .inputs import cast_features, complete_graph


def dense(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers of these widths, a ReLU behind each."""
    return [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]


class PFN(nn.Module):
    r"""A network of each particle, their sum, and a network of the sum.

    .. math:: \mathrm{logits} = F(\textstyle\sum_i \Phi(f_i))

    82,458 parameters on three features.

    Args:
        n_features: columns of the features.
        phi: widths of Phi's layers.
        f: widths of F's layers, before the last one.
        n_class: number of logits.
    """

    def __init__(
        self,
        n_features: int = 3,
        phi: Sequence[int] = (100, 100, 256),
        f: Sequence[int] = (100, 100, 100),
        n_class: int = 2,
    ) -> None:
        super().__init__()
        self.n_features = n_features
        self.phi = nn.Sequential(*dense([n_features, *phi]))
        self.f = nn.Sequential(*dense([phi[-1], *f]), nn.Linear(f[-1], n_class))

    @for_any_size
    def forward(self, features: Tensor, ptr: Tensor | Graph) -> Tensor:
        """Logits of each event.

        Args:
            features: [n, n_features], any floating dtype, such as :func:`equikernels.data.energy_flow`.
            ptr: int64 [n_events + 1], or the complete graph made from it.

        Returns:
            [n_events, n_class].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        return self.flow("PFN", features, None, ptr)

    def flow(self, op: str, features: Tensor, weight: Tensor | None, ptr: Tensor | Graph) -> Tensor:
        """F of the sum, which may have weights [n, 1]."""
        n = features.shape[0] if isinstance(features, Tensor) else 0
        features = cast_features(op, "features", features, n, self.n_features, weight_of(self.phi[0]))
        events = complete_graph(op, ptr, n).events
        y = apply_layers(self.phi, features)
        return apply_layers(self.f, segment_reduce(y if weight is None else weight.to(y.dtype) * y, events))


class EFN(PFN):
    r"""A PFN whose Phi reads angles alone, and whose sum is weighted by the particles' shares of energy z.

    .. math:: \mathrm{logits} = F(\textstyle\sum_i z_i \Phi(\Delta y_i, \Delta\phi_i))

    So it does not change when a soft particle is added or a particle splits in its direction. 82,358 parameters.

    Args:
        phi, f, n_class: as :class:`PFN`.
    """

    def __init__(
        self, phi: Sequence[int] = (100, 100, 256), f: Sequence[int] = (100, 100, 100), n_class: int = 2
    ) -> None:
        super().__init__(2, phi, f, n_class)

    @for_any_size
    def forward(self, features: Tensor, ptr: Tensor | Graph) -> Tensor:
        """Logits of each event.

        Args:
            features: [n, 3], any floating dtype: (z, Delta y, Delta phi) of :func:`equikernels.data.energy_flow`.
            ptr: int64 [n_events + 1], or the complete graph made from it.

        Returns:
            [n_events, n_class].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        check_tensor("EFN", "features", features, ["n", 3], FLOATING)
        return self.flow("EFN", features[:, 1:], features[:, :1], ptr)
