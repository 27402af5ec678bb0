"""ParticleNet and PFN: the published numbers of parameters, and the published code's results."""

from __future__ import annotations

import pytest
import torch

import equikernels as ek
from equikernels.published import taggers

from ..support.golden import filled, jets


def size(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def padded(p4: torch.Tensor, ptr: torch.Tensor, length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """(features [B, 7, P], mask [B, 1, P])."""
    rows, mask = ek.unpack(ek.data.kinematic_features(p4, ptr), ptr, length)
    return rows.transpose(1, 2), mask[:, None]


def test_numbers_of_parameters() -> None:
    assert size(taggers.ParticleNet()) == 366_160
    assert size(taggers.ParticleNet(k=7, widths=((32,) * 3, (64,) * 3), n_hidden=128)) == 26_416
    assert size(taggers.PFN()) == 82_458
    assert size(taggers.PFN(4)) == 82_558


def test_particlenet_gives_the_published_results() -> None:
    p4, ptr = jets(6, 5)
    network = filled(taggers.ParticleNet(k=3, widths=((4, 4, 4), (6, 6, 6)), n_hidden=5)).eval()
    expected = torch.tensor([[0.08147959835, -0.4673218636], [0.08958959983, -0.4730309306]], dtype=torch.float64)
    logits = network(*padded(p4, ptr))
    torch.testing.assert_close(logits, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["ParticleNet", "PFN"])
def test_padding_changes_nothing(name: str) -> None:
    network = filled(getattr(taggers, name)(7)).eval()
    p4, ptr = jets(20, 25)
    short, long = (network(*padded(p4, ptr, length)) for length in (None, 30))
    torch.testing.assert_close(long, short)
