"""ResNeXt-50 (arXiv 1611.05431) on jet images, narrowed as arXiv 1902.08570 has it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..checks import FLOATING, check_tensor
from ..export import for_any_size
from .inputs import check_weights

GROUPS = 32
BLOCKS = (3, 4, 6, 3)


class Bottleneck(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolutions with batch norms, on top of a shortcut, which is a convolution in
    the first block of a stage; a ReLU behind the sum."""

    def __init__(self, n_in: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        n_out = 2 * width
        self.body = nn.Sequential(
            nn.Conv2d(n_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, 1, groups=GROUPS, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, n_out, 1, bias=False), nn.BatchNorm2d(n_out),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if first:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.body(x) + self.shortcut(x)).relu()
        return out


class ResNeXt(nn.Module):
    """ResNeXt-50 of a quarter of the channels: four stages of 3, 4, 6 and 3 blocks, 32 groups.

    1,457,314 parameters.

    Args:
        n_class: number of logits.
    """

    def __init__(self, n_class: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        stages: list[nn.Module] = []
        n_in = 64
        for stage, blocks in enumerate(BLOCKS):
            width = GROUPS << stage
            for block in range(blocks):
                stages.append(Bottleneck(n_in, width, 2 if stage > 0 and block == 0 else 1, block == 0))
                n_in = 2 * width
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(n_in, n_class)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # grouped convolutions: twice as fast

    @for_any_size
    def forward(self, images: Tensor) -> Tensor:
        """Logits of each image.

        Args:
            images: [B, 1, H, W], any floating dtype, such as :func:`equikernels.data.jet_images`.

        Returns:
            [B, n_class].

        Raises:
            ValueError, TypeError: wrong shape or dtype.
        """
        check_weights("ResNeXt", self.fc.weight)
        check_tensor("ResNeXt", "images", images, ["B", 1, "H", "W"], FLOATING)
        out: Tensor = self.fc(self.stages(self.stem(images.to(self.fc.weight.dtype))).mean((2, 3)))
        return out
