"""Checkpoint files: the state of the published training script; saving to memory, loading, comparing."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import equikernels as ek
from equikernels import published

from .golden import filled


def published_state(**sizes: Any) -> dict[str, Tensor]:
    """What the published training script saves, float32."""
    sizes = {"n_scalar": 2, "n_hidden": 8, "n_layers": 2, **sizes}
    return filled(published.LorentzNet(**sizes)).float().state_dict()


def saved(content: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return file


def load(content: Any, **options: Any) -> ek.models.LorentzNet:
    model = ek.load_checkpoint(saved(content), **{"c_weight": 5e-3, **options})
    assert isinstance(model, ek.models.LorentzNet)
    return model


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert list(a) == list(b)
    for key in a:
        assert a[key].dtype == b[key].dtype, key
        assert torch.equal(a[key], b[key]), key
