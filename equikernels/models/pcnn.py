"""P-CNN: a one-dimensional convolutional network over the particles of a jet, as arXiv 1902.08570 compares it."""

from __future__ import annotations

from torch import Tensor, nn

from ..checks import check_integer
from ..export import for_any_size
from ..graph import Graph
from .inputs import cast_features, complete_graph
from .mlp import first_rows

WIDTHS = (64, 64, 128)


class Unit(nn.Module):
    """Two convolutions over three neighbouring particles, on top of a shortcut; no activation behind the sum."""

    def __init__(self, n_in: int, n_out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(n_in, n_out, 3, stride, 1), nn.BatchNorm1d(n_out), nn.ReLU(),
            nn.Conv1d(n_out, n_out, 3, 1, 1), nn.BatchNorm1d(n_out), nn.ReLU(),
        )  # fmt: skip
        plain = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if plain else nn.Conv1d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class PCNN(nn.Module):
    """Convolutions along the particles of a jet in the order that they have, by falling pT in files.

    349,456 parameters on seven features. The network depends on the order of the particles, and on ``length``, since
    its mean is one over all positions, as published.

    Args:
        n_features: columns of the features.
        length: particles of each event; further ones are left out, and zeros stand where there are fewer.
        n_class: number of logits.
        dropout: in the readout.
    """

    def __init__(self, n_features: int = 7, length: int = 100, n_class: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        check_integer("PCNN", "length", length, "a number >= 1", 1)
        self.n_features, self.length = n_features, length
        self.norm = nn.BatchNorm1d(n_features)
        self.stem = nn.Sequential(nn.Conv1d(n_features, 32, 3, 1, 1), nn.BatchNorm1d(32), nn.ReLU())
        units: list[nn.Module] = []
        width = 32
        for stage, wider in enumerate(WIDTHS):
            units += [Unit(width, wider, 1 if stage == 0 else 2), Unit(wider, wider)]
            width = wider
        self.units = nn.Sequential(*units)
        self.fc = nn.Sequential(nn.Linear(width, 512), nn.ReLU(), nn.Dropout(dropout), nn.Linear(512, n_class))

    @for_any_size
    def forward(self, features: Tensor, ptr: Tensor | Graph) -> Tensor:
        """Logits of each event.

        Args:
            features: [n, n_features], any floating dtype, such as :func:`equikernels.data.kinematic_features`.
            ptr: int64 [n_events + 1], or the complete graph made from it.

        Returns:
            [n_events, n_class].

        Raises:
            ValueError, TypeError: wrong shape, dtype or device.
        """
        op, n = "PCNN", features.shape[0] if isinstance(features, Tensor) else 0
        features = cast_features(op, "features", features, n, self.n_features, self.fc[0].get_parameter("weight"))
        ptr = complete_graph(op, ptr, n)._ptr
        # AOTInductor takes the layout of a convolution's result for that of contiguous input
        x = first_rows(features, ptr, self.length).transpose(1, 2).contiguous()
        out: Tensor = self.fc(self.units(self.stem(self.norm(x))).mean(2))
        return out
