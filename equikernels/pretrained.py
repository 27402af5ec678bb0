"""Trained networks that come with the package."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import nn

from .checks import check_choice

FOLDER = "pretrained_networks"


def pretrained_names() -> list[str]:
    """Names that :func:`load_pretrained` knows."""
    folder = resources.files("equikernels") / FOLDER
    return sorted(path.name.removesuffix(".json") for path in folder.iterdir() if path.name.endswith(".json"))


def pretrained_card(name: str) -> dict[str, Any]:
    """What a network is and how good: its configuration, seed, data, metrics and number of parameters.

    Raises:
        ValueError: no such network.
    """
    check_choice("load_pretrained", "name", name, pretrained_names())
    text = (resources.files("equikernels") / FOLDER / f"{name}.json").read_text()
    card: dict[str, Any] = json.loads(text)
    return card


def load_pretrained(name: str) -> nn.Module:
    """A trained network in evaluation, for example a jet tagger.

    >>> tagger = load_pretrained("lorentznet-top")
    >>> x, ptr, is_beam = equikernels.data.with_beams(jets.p4, jets.ptr)
    >>> score = tagger(x, equikernels.data.top_tagging_scalars(x, is_beam), ptr).softmax(1)[:, 1]
    >>> score = load_pretrained("pelican-top")(jets.p4.double(), jets.ptr).softmax(1)[:, 1]

    The networks were trained on jets of our own simulation, which is easier than that of the reference data set: they
    show how to use the package, and no number of theirs may be compared with the literature.

    Args:
        name: one of :func:`pretrained_names`.

    Raises:
        ValueError: no such network; the message lists those there are.
    """
    from .train.tasks import build

    config = pretrained_card(name)["config"]
    network = build(config["network"], config["options"], "equikernels")
    network.load_state_dict(weights(name))
    return network.eval()


def weights(name: str) -> dict[str, torch.Tensor]:
    """The state dict of a trained network."""
    path = resources.files("equikernels") / FOLDER / f"{name}.npz"
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
